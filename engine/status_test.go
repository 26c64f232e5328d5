package engine_test

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/engine"
	"soniq/internal/testdb"
)

func TestClient_job_tellsAQueuedJob(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client, err := engine.NewClient(pool, engine.ClientConfig{ProducerID: "p"})
	if err != nil {
		t.Fatal(err)
	}
	id := enqueue(t, client, "n", map[string]int{"a": 1},
		engine.Queue("q"), engine.Priority(7), engine.MaxAttempts(2), engine.DedupKey("k"), engine.After(time.Hour))
	job := getJob(t, client, id)
	for what, at := range map[string]time.Time{"created": job.CreatedAt, "updated": job.UpdatedAt, "due": job.ScheduledAt.Add(-time.Hour)} {
		if age := time.Since(at).Abs(); age > time.Minute || at.Location() != time.UTC {
			t.Errorf("%s at %s", what, at)
		}
	}
	job.CreatedAt, job.UpdatedAt, job.ScheduledAt = time.Time{}, time.Time{}, nil
	expectJSON(t, *job, engine.Job{
		ID: id, Name: "n", Args: json.RawMessage(`{"a": 1}`), Queue: "q", Priority: 7,
		Status: engine.StatusQueued, MaxAttempts: 2, ProducerID: "p", DedupKey: "k",
	})
}

func expectJSON(t *testing.T, got, want any) {
	t.Helper()
	g, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	w, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if string(g) != string(w) {
		t.Errorf("\n got %s\nwant %s", g, w)
	}
}

func TestClient_job_tellsADoneJob(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	worker, dead, id := uuid.New(), uuid.New(), uuid.New()
	exec(t, pool, `insert into soniq_workers (id, hostname, pid) values ($1, 'h', 1)`, worker)
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, status, attempts, last_error, result, expires_at, worker_id, replay_of)
		values ($1, 'n', '{}', 'done', 2, 'once', '{"n": 1.0}', '2031-01-02 03:04:05+01', $2, $3)`, id, worker, dead)
	job := getJob(t, client, id)
	expires := time.Date(2031, 1, 2, 2, 4, 5, 0, time.UTC)
	job.CreatedAt, job.UpdatedAt, job.ProducerID = time.Time{}, time.Time{}, ""
	expectJSON(t, *job, engine.Job{
		ID: id, Name: "n", Args: json.RawMessage(`{}`), Queue: "default", Priority: 100,
		Status: engine.StatusDone, Attempts: 2, MaxAttempts: 4, LastError: "once",
		Result: json.RawMessage(`{"n": 1.0}`), ExpiresAt: &expires, WorkerID: &worker, ReplayOf: &dead,
	})
}

// Python's schema allows NULL in all of them.
func TestClient_job_readsNullsAsDefaults(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	id := uuid.New()
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, attempts, max_attempts, queue, priority, created_at, updated_at)
		values ($1, 'n', '[1]', null, null, null, null, null, null)`, id)
	job := getJob(t, newClient(t, pool), id)
	if age := time.Since(job.CreatedAt).Abs(); age > time.Minute || !job.UpdatedAt.Equal(job.CreatedAt) {
		t.Errorf("created at %s, updated at %s; want now", job.CreatedAt, job.UpdatedAt)
	}
	job.CreatedAt, job.UpdatedAt = time.Time{}, time.Time{}
	expectJSON(t, *job, engine.Job{
		ID: id, Name: "n", Args: json.RawMessage(`[1]`), Queue: "default", Priority: 100,
		Status: engine.StatusQueued, MaxAttempts: 4,
	})
}

func TestClient_job_findsADeadLetter(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	id := uuid.New()
	exec(t, pool, `
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, last_error,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at, producer_id, dedup_key)
		values ($1, 'n', '{"a": 1}', 'q', 5, 4, 4, 'boom', 'timeout', '2031-01-01 00:00+00', '2031-01-02 00:00+00', 'p', 'k')`, id)
	expectJSON(t, getJob(t, newClient(t, pool), id), engine.Job{
		ID: id, Name: "n", Args: json.RawMessage(`{"a": 1}`), Queue: "q", Priority: 5,
		Status: engine.StatusDeadLetter, Attempts: 4, MaxAttempts: 4, LastError: "boom",
		CreatedAt: time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC), UpdatedAt: time.Date(2031, 1, 2, 0, 0, 0, 0, time.UTC),
		ProducerID: "p", DedupKey: "k", DeadLetterReason: "timeout",
	})
}

func TestClient_job_missing(t *testing.T) {
	t.Parallel()
	client := newClient(t, testdb.New(t))
	if job, err := client.Job(t.Context(), uuid.New()); job != nil || !errors.Is(err, engine.ErrJobNotFound) {
		t.Errorf("got %v, %v; want ErrJobNotFound", job, err)
	}
}

func TestClient_status_countsEachQueue(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, queue, status, scheduled_at, created_at)
		select gen_random_uuid(), 'n', '{}', queue, status, now() + due, now() - age
		from (values
		  (null,      'queued',     null::interval, interval '100 s'),
		  ('default', 'queued',     '-300 s',       '1 h'),
		  ('default', 'queued',     '1 h',          '2 h'),
		  ('default', 'processing', null,           '3 h'),
		  ('default', 'done',       null,           '3 h'),
		  ('default', 'done',       '1 h',          '3 h'),
		  ('default', 'cancelled',  null,           '3 h'),
		  ('mail',    'queued',     '1 h',          '1 h')
		) v (queue, status, due, age)`)
	s, err := client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []engine.QueueStatus{
		{Queue: "default", Due: 2, Scheduled: 1, Processing: 1, Done: 2, Cancelled: 1},
		{Queue: "mail", Scheduled: 1},
	}
	if len(s.Queues) != len(want) {
		t.Fatalf("queues %+v, want %+v", s.Queues, want)
	}
	// A replay or a retry waits since it was due, not since it was made.
	if oldest := s.Queues[0].OldestDue; oldest < 300 || oldest > 400 {
		t.Errorf("the oldest of 'default' has been due for %.0f s, want 300 and a little", oldest)
	}
	s.Queues[0].OldestDue = 0
	if !slices.Equal(s.Queues, want) {
		t.Errorf("queues %+v, want %+v", s.Queues, want)
	}
}

func TestClient_status_countsDeadLettersByState(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at, state)
		select gen_random_uuid(), 'n', '{}', 'q', 5, 4, 4, 'timeout', now(), now(), state
		from unnest('{dead,dead,dead,replaying,resolved,resolved}'::text[]) state`)
	s, err := newClient(t, pool).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := map[deadletter.State]int64{"dead": 3, "superseded": 0, "replaying": 1, "resolved": 2}; !maps.Equal(s.DeadLetters, want) {
		t.Errorf("dead letters %v, want %v", s.DeadLetters, want)
	}
}

// A Go worker beats every few seconds, a Python one may be silent for
// minutes.
func TestClient_status_tellsLiveWorkers(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `
		insert into soniq_workers (id, hostname, pid, status, version, queues, concurrency, last_heartbeat, started_at)
		select gen_random_uuid(), name, 1, status, version, queues, 3, now() - silence, now() - interval '1 h' + silence
		from (values
		  ('go',           'active',   'go/9', '{a,b}'::text[], interval '20 s'),
		  ('go, late',     'active',   'go/9', '{}',            '40 s'),
		  ('python',       'stopping', null,   null,            '290 s'),
		  ('python, late', 'active',   null,   '{}',            '310 s'),
		  ('stopped',      'stopped',  'go/9', '{}',            '0 s')
		) v (name, status, version, queues, silence)`)
	s, err := newClient(t, pool).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range s.Workers {
		if w.ID == uuid.Nil || w.LastHeartbeat.IsZero() || w.StartedAt.IsZero() {
			t.Errorf("worker %+v lacks facts", w)
		}
		s.Workers[i].ID, s.Workers[i].LastHeartbeat, s.Workers[i].StartedAt = uuid.Nil, time.Time{}, time.Time{}
	}
	expectJSON(t, s.Workers, []engine.WorkerStatus{
		{Hostname: "go", PID: 1, Queues: []string{"a", "b"}, Concurrency: 3, Status: "active", Version: "go/9", Live: true},
		{Hostname: "go, late", PID: 1, Queues: []string{}, Concurrency: 3, Status: "active", Version: "go/9"},
		{Hostname: "python", PID: 1, Queues: []string{}, Concurrency: 3, Status: "stopping", Live: true},
		{Hostname: "python, late", PID: 1, Queues: []string{}, Concurrency: 3, Status: "active"},
	})
}

// One row that Go has no value for must not hide the rest.
func TestClient_status_workerAtInfinity_isListed(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `
		insert into soniq_workers (id, hostname, pid, last_heartbeat, started_at)
		values (gen_random_uuid(), 'forever', 1, 'infinity', '-infinity')`)
	s, err := newClient(t, pool).Status(t.Context())
	if err != nil || len(s.Workers) != 1 || s.Workers[0].Hostname != "forever" {
		t.Errorf("%+v, %v", s.Workers, err)
	}
}

func TestClient_status_emptyIsEmptyJSON(t *testing.T) {
	t.Parallel()
	s, err := newClient(t, testdb.New(t)).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := json.Marshal(s); string(got) != `{"queues":[],"dead_letters":{"dead":0,"replaying":0,"resolved":0,"superseded":0},"workers":[]}` {
		t.Errorf("got %s", got)
	}
}

// Who may insert a job may invent queues.
func TestClient_Queues_ofAFlood_areBounded(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, queue)
		select gen_random_uuid(), 'a', '{}', 'flood ' || n from generate_series(1, 3000) n`)
	client := newClient(t, pool)
	enqueue(t, client, "a", nil, engine.Queue("zz served"))
	if _, err := client.PauseQueue(t.Context(), "zz paused"); err != nil {
		t.Fatal(err)
	}
	addWorker(t, pool, nil, []string{"zz served"}, 0, 0)
	queues, err := client.Queues(t.Context())
	if err != nil || len(queues) != 1001 {
		t.Fatalf("%d queues, %v", len(queues), err)
	}
	seen := map[string]bool{}
	for _, q := range queues {
		seen[q.Queue] = true
	}
	last := queues[len(queues)-1]
	if !seen["zz served"] || !seen["zz paused"] || last.Queue != "" || last.Others != 2002 || last.Due != 2002 {
		t.Errorf("served %t, paused %t, the last is %+v", seen["zz served"], seen["zz paused"], last)
	}
}
