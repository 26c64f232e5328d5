package engine_test

import (
	"os"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/engine"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// The database's clock is set forward and back while workers run jobs that may run only
// once. None of them beats meanwhile, so after each step all look silent.
func TestWorkers_databasesClockIsSet_nobodyLivingIsBuried(t *testing.T) {
	t.Parallel()
	server, set := testdb.StartClockServer(t)
	pool := connect(t, server.URL())
	client := newClient(t, pool)
	victim := startProcess(t, server.URL(), engine.Timing{Trust: time.Second})
	held := enqueue(t, client, "held", nil)
	victim.expect(t, "started")

	silent := engine.Timing{Beat: time.Hour, Trust: time.Second}
	reg := engine.NewRegistry()
	started, release := slowJob(reg, "once")
	noop(reg, "held")
	var looks []*statements
	for _, timing := range []engine.Timing{silent, silent, {Beat: 100 * time.Millisecond, Trust: time.Second}} {
		pool, sent := traced(t, server.URL())
		start(t, pool, reg, engine.WorkerConfig{Concurrency: 1, SafetyPoll: 100 * time.Millisecond}, timing)
		looks = append(looks, sent)
	}
	for range looks {
		enqueue(t, client, "once", nil, engine.MaxAttempts(1))
		receive(t, "start", started)
	}
	waitUntil(t, pool, "all locks", advertisingSQL, 4)
	// Ahead and back: by little, by more than a dead worker's silence, and by far.
	offsets := []time.Duration{time.Second, 45 * time.Second, time.Hour, time.Hour - time.Second, -time.Hour, time.Minute}
	if testkit.Long() {
		offsets = append(offsets, 0, 45*time.Second, 0, time.Minute)
	}
	for _, offset := range offsets {
		set(offset)
		for _, sent := range looks {
			_, before := sent.count()
			waitTrue(t, "looks after a step", func() bool { _, now := sent.count(); return now >= before+2 })
		}
		if n := queryValue[int](t, pool, `select count(*) from soniq_workers where status = 'active'`); n != 4 {
			t.Fatalf("after a step to %s %d workers are active", offset, n)
		}
		if n := queryValue[int](t, pool, `select count(*) from soniq_jobs where status = 'processing' and attempts = 1`); n != 4 {
			t.Fatalf("after a step to %s %d of 4 jobs run for the first time", offset, n)
		}
	}
	// It waits behind those that run, and is due by the clock as it is now.
	waiting := enqueue(t, client, "once", nil)
	set(-10 * time.Minute)
	victim.signal(t, os.Kill)
	killed := time.Now()
	waitUntil(t, pool, "the job of the killed worker", `
		select status = 'queued' and coalesce(scheduled_at, created_at) <= clock_timestamp() from soniq_jobs where id = $1`, held)
	t.Logf("found after %s", time.Since(killed))
	waitUntil(t, pool, "the job from the future", `select scheduled_at <= clock_timestamp() from soniq_jobs where id = $1`, waiting)
	close(release)
	waitUntil(t, pool, "both jobs", `select count(*) = 2 from soniq_jobs where id in ($1, $2) and status = 'done'`, held, waiting)
	if n := queryValue[int](t, pool, `select count(*) from soniq_dead_letter_jobs`); n != 0 {
		t.Errorf("%d dead letters", n)
	}
}

// A job that is put off to no time, and that its producer dated ahead, is not due before
// that time, and is not said to be. A worker that starts makes it due, and so does whoever
// makes it due by hand. What is put off for ever is, and is shown as that.
func TestJobs_datedAhead_runWithoutWaitingForTheirDate(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	insert := func(column, at string) uuid.UUID {
		id := uuid.New()
		exec(t, pool, `insert into soniq_jobs (id, job_name, args, `+column+`) values ($1, 'a', '{}', $2::text::timestamptz)`, id, at)
		return id
	}
	ahead := []string{"infinity", "294000-01-01", time.Now().Add(time.Hour).Format(time.RFC3339)}
	var ids []uuid.UUID
	for _, at := range ahead {
		ids = append(ids, insert("created_at", at))
	}
	never := insert("scheduled_at", "infinity")
	if s, err := client.Status(t.Context()); err != nil || s.Queues[0].Due != 0 || s.Queues[0].Scheduled != 4 {
		t.Errorf("status %+v, %v", s.Queues, err)
	}
	reg := engine.NewRegistry()
	noop(reg, "a")
	w := start(t, pool, reg, engine.WorkerConfig{})
	for _, id := range ids {
		w.waitForJob(t, id)
	}
	for _, at := range ahead {
		id := insert("created_at", at)
		if err := client.RetryJob(t.Context(), id); err != nil {
			t.Error(err)
		}
		w.waitForJob(t, id)
	}
	if j := getJob(t, client, never); j.Status != engine.StatusQueued || j.ScheduledAt == nil || j.ScheduledAt.Year() != 9999 {
		t.Errorf("a job that is never due is %s, due at %v", j.Status, j.ScheduledAt)
	}
}

// A worker can't beat while another session has its row locked.
func TestWorker_rowIsLocked_isNotBuried(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "a")
	w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, version := range map[string]*string{"Go": new("go/0.1.0"), "Python": nil} {
		silent := addWorker(t, pool, version, nil, time.Hour, 2*time.Hour)
		id := enqueue(t, newClient(t, pool), "a", nil)
		exec(t, pool, `update soniq_jobs set status = 'processing', attempts = 1, worker_id = $2 where id = $1`, id, silent)
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `update soniq_workers set concurrency = concurrency where id = $1`, silent); err != nil {
			t.Fatal(err)
		}
		looks := func(want engine.JobStatus) {
			t.Helper()
			if err := w.RecoverOrphans(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := queryValue[engine.JobStatus](t, pool, `select status from soniq_jobs where id = $1`, id); got != want {
				t.Errorf("%s: the job is %s, want %s", name, got, want)
			}
		}
		looks(engine.StatusProcessing)
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		looks(engine.StatusQueued)
	}
}
