package engine_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/eventually"
	"soniq/internal/pg"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// connect returns a pool on a database, until the end of the test.
var connect = testkit.Open

func noop(reg *engine.Registry, name string, opts ...engine.HandleOption) {
	engine.HandleRaw(reg, name, func(context.Context, *engine.Job) (any, error) { return nil, nil }, opts...)
}

func addWorker(t *testing.T, pool *pgxpool.Pool, version *string, queues []string, silent, age time.Duration) uuid.UUID {
	t.Helper()
	id := uuid.New()
	exec(t, pool, `
		insert into soniq_workers (id, hostname, pid, queues, version, last_heartbeat, started_at)
		values ($1, $1::uuid::text, 1, $2, $3, now() - $4::interval, now() - $5::interval)`, id, queues, version, silent, age)
	return id
}

// waitUntil polls the database for what no worker announces.
func waitUntil(t *testing.T, pool *pgxpool.Pool, what, sql string, args ...any) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); !queryValue[bool](t, pool, sql, args...); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

const deadSQL = `select exists (select from soniq_dead_letter_jobs where id = $1 and dead_letter_reason = 'job_not_found')`

func TestWorker_unknownJob_isBuriedAfterTheGrace(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "known")
	client := newClient(t, pool)
	log := &testkit.Log{}
	start(t, pool, reg, engine.WorkerConfig{UnknownGrace: time.Second, Logger: log.Logger(slog.LevelInfo)})
	id := enqueue(t, client, "unknown", map[string]int{"n": 1}, engine.InTrace(engine.NewTraceContext(traceparent, "")))
	waitUntil(t, pool, "dead letter", deadSQL, id)
	eventually.True(t, "a record with the trace of the job", func() bool {
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, "job is a dead letter") {
				return strings.Contains(line, id.String()) && strings.Contains(line, "trace_id="+traceID)
			}
		}
		return false
	})
	dead, err := newQueue(t, pool).Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if dead.ErrorKind != classify.KindUnregistered || dead.Attempts != 0 || string(dead.Args) != `{"n": 1}` {
		t.Errorf("%+v", dead)
	}
	if age := dead.MovedAt.Sub(dead.OriginalCreatedAt); age < time.Second {
		t.Errorf("buried after %s, before the grace of 1 s", age)
	}
}

// Each of these jobs has someone who may run it yet. The witness, which has
// nobody, is buried in the same pass or a later one.
func TestWorker_unknownJob_isSparedWhileSomeoneMayRunIt(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "known")
	client := newClient(t, pool)
	ours := "go/0.1.0"
	addWorker(t, pool, nil, []string{"python"}, 200*time.Second, time.Hour)
	addWorker(t, pool, &ours, []string{"other"}, 0, time.Hour)
	exec(t, pool, `insert into soniq_task_registry values ('registered', 'some worker', now() - interval '30 s')`)
	spared := map[string]uuid.UUID{
		"a live Python worker serves the queue": enqueue(t, client, "unknown", nil, engine.Queue("python")),
		"its name was registered lately":        enqueue(t, client, "registered", nil),
		"its queue isn't ours":                  enqueue(t, client, "unknown", nil, engine.Queue("other")),
		"nobody serves its queue":               enqueue(t, client, "unknown", nil, engine.Queue("unserved")),
		"it isn't due":                          enqueue(t, client, "unknown", nil, engine.After(time.Hour)),
	}
	witness := enqueue(t, client, "unknown", nil)
	exec(t, pool, `update soniq_jobs set created_at = now() - interval '1 hour'`)
	start(t, pool, reg, engine.WorkerConfig{UnknownGrace: 500 * time.Millisecond, Queues: []string{"default", "python"}})
	waitUntil(t, pool, "the witness's death", deadSQL, witness)
	for why, id := range spared {
		if job := getJob(t, client, id); job.Status != engine.StatusQueued {
			t.Errorf("%s, yet the job is %s", why, job.Status)
		}
	}
}

// A step of the database's clock makes each job look due for long, and each worker that
// might know its name look silent.
func TestWorker_unknownJob_isSparedAfterTheClockWasSet(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "known")
	client := newClient(t, pool)
	ours := "go/0.1.0"
	addWorker(t, pool, &ours, []string{"default"}, 0, time.Hour)
	id := enqueue(t, client, "unknown", nil)
	exec(t, pool, `update soniq_jobs set created_at = now() - interval '1 hour'`)
	for _, step := range []time.Duration{time.Hour, -time.Hour} {
		w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{UnknownGrace: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		w.SawClock(time.Now().Add(-step))
		for range 2 {
			if err := w.MoveUnknown(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if job := getJob(t, client, id); job.Status != engine.StatusQueued {
			t.Errorf("after a step of %s the job is %s", step, job.Status)
		}
	}
	w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{UnknownGrace: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.MoveUnknown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !queryValue[bool](t, pool, deadSQL, id) {
		t.Error("without a step it is no dead letter")
	}
}

func TestWorker_orphans_ofDeadWorkersRunAgain(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "orphan")
	client := newClient(t, pool)
	ours := "go/0.1.0"
	claimedBy := func(worker uuid.UUID, opts ...engine.EnqueueOption) uuid.UUID {
		id := enqueue(t, client, "orphan", nil, opts...)
		exec(t, pool, `update soniq_jobs set status = 'processing', attempts = 1, worker_id = $2 where id = $1`, id, worker)
		return id
	}
	dead := claimedBy(addWorker(t, pool, &ours, nil, time.Minute, time.Hour), engine.Unique())
	deadPython := claimedBy(addWorker(t, pool, nil, nil, 10*time.Minute, time.Hour))
	live := claimedBy(addWorker(t, pool, &ours, nil, 10*time.Second, time.Hour))
	livePython := claimedBy(addWorker(t, pool, nil, nil, 200*time.Second, time.Hour))
	stopped := addWorker(t, pool, &ours, nil, time.Minute, time.Hour)
	exec(t, pool, `update soniq_workers set status = 'stopped' where id = $1`, stopped)
	stranded := claimedBy(stopped)
	nobodysNew, nobodysOld := enqueue(t, client, "orphan", nil), enqueue(t, client, "orphan", nil)
	exec(t, pool, `update soniq_jobs set status = 'processing', attempts = 1 where id in ($1, $2)`, nobodysNew, nobodysOld)
	exec(t, pool, `update soniq_jobs set updated_at = now() - interval '1 hour' where id = $1`, nobodysOld)
	// Somebody deleted the rows of their workers.
	goneNew, goneOld := claimedBy(uuid.New()), claimedBy(uuid.New())
	exec(t, pool, `update soniq_jobs set updated_at = now() - interval '1 hour' where id = $1`, goneOld)
	// The unique twin of an orphan must not stand in the way of the others.
	twin := enqueue(t, client, "orphan", nil, engine.Unique())

	w := start(t, pool, reg, engine.WorkerConfig{})
	waitUntil(t, pool, "the lock", advertisingSQL, 1)
	if err := w.RecoverOrphans(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []uuid.UUID{dead, deadPython, stranded, nobodysOld, goneOld, twin} {
		w.waitForJob(t, id)
	}
	if job := getJob(t, client, dead); job.Attempts != 2 {
		t.Errorf("the crash was not charged: %d attempts", job.Attempts)
	}
	for _, id := range []uuid.UUID{live, livePython, nobodysNew, goneNew} {
		if job := getJob(t, client, id); job.Status != engine.StatusProcessing {
			t.Errorf("a job that is perhaps still run is %s", job.Status)
		}
	}
}

func TestWorker_expiredResults_areDeleted(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "ok")
	client := newClient(t, pool)
	expired, kept, queued := enqueue(t, client, "x", nil), enqueue(t, client, "x", nil), enqueue(t, client, "x", nil)
	exec(t, pool, `update soniq_jobs set status = 'done', expires_at = now() - interval '1 s' where id = $1`, expired)
	exec(t, pool, `update soniq_jobs set status = 'done', expires_at = now() + interval '1 h' where id = $1`, kept)
	exec(t, pool, `update soniq_jobs set expires_at = now() - interval '1 s' where id = $1`, queued)
	start(t, pool, reg, engine.WorkerConfig{})
	waitUntil(t, pool, "expiry", `select not exists (select from soniq_jobs where id = $1)`, expired)
	for _, id := range []uuid.UUID{kept, queued} {
		if _, err := client.Job(t.Context(), id); errors.Is(err, engine.ErrJobNotFound) {
			t.Error("a job that hadn't expired is gone")
		}
	}
}

// A row that the application's own table refers to stays, and no other with it.
func TestWorker_expiredRowThatCantBeDeleted_holdsUpNobody(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `create table invoices (job uuid references soniq_jobs (id))`)
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, status, expires_at)
		select gen_random_uuid(), 'x', '{}', 'done', now() - n * interval '1 s' from generate_series(1, 2000) n`)
	exec(t, pool, `insert into invoices select id from soniq_jobs order by expires_at limit 3`)
	reg := engine.NewRegistry()
	noop(reg, "ok")
	log := new(journal)
	start(t, pool, reg, engine.WorkerConfig{Logger: log.logger()})
	waitUntil(t, pool, "expiry", `select count(*) = 3 from soniq_jobs`)
	if n := strings.Count(log.String(), "refuses to delete"); n != 3 {
		t.Errorf("told %d times:\n%s", n, log.String())
	}
}

// Pruning and retention hold the same lock, for a statement each.
func TestWorker_expiry_waitsForTheLock(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, status, expires_at)
		select gen_random_uuid(), 'x', '{}', 'done', now() - interval '1 s' from generate_series(1, 10)`)
	w := idle(t, pool)
	other, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Rollback(context.Background()) }()
	if _, err := other.Exec(t.Context(), `select pg_advisory_xact_lock($1)`, pg.MaintenanceLock); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.Expire(t.Context()) }()
	select {
	case err := <-done:
		t.Fatalf("the turn came to nothing: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := other.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := queryValue[int](t, pool, `select count(*) from soniq_jobs`); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

func TestWorker_registersItselfAndItsNames(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "a")
	noop(reg, "b")
	// Two workers of one process share hostname and pid.
	first, second := start(t, pool, reg, engine.WorkerConfig{}), start(t, pool, reg, engine.WorkerConfig{Queues: []string{"q"}})
	for _, w := range []*running{first, second} {
		waitUntil(t, pool, "registration", `
			select count(*) = 1 from soniq_workers
			where id = $1 and status = 'active' and version like 'go/%' and concurrency = 10`, w.ID())
		waitUntil(t, pool, "names", `
			select coalesce(array_agg(task_name order by task_name) = '{a,b}', false) from soniq_task_registry where worker_id = $1::uuid::text`, w.ID())
	}
}
