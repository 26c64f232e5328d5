package engine_test

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// The database committed a claim, and its answer was lost with the connection:
// the rows look as if their worker, which lives, ran them.
func TestWorker_unansweredClaim_isGivenBackUncharged(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, release := slowJob(reg, "slow")
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	running := enqueue(t, client, "slow", nil, engine.Unique())
	receive(t, "the first", started)
	lost := enqueue(t, client, "slow", nil, engine.Unique(), engine.After(time.Hour))
	exec(t, pool, `
		update soniq_jobs
		set status = 'processing', attempts = 3, worker_id = $2, claim_token = 1, scheduled_at = null
		where id = $1`, lost, w.ID())
	// Its twin must not stand in the way.
	twin := enqueue(t, client, "slow", nil, engine.Unique(), engine.After(time.Hour))
	if err := w.RecoverOrphans(t.Context()); err != nil {
		t.Fatal(err)
	}
	if job := receive(t, "the lost one", started); job.ID != lost || job.Attempts != 3 {
		t.Errorf("job %s, attempt %d; want %s, 3", job.ID, job.Attempts, lost)
	}
	close(release)
	if outcomes := w.waitForJob(t, running); len(outcomes) != 1 || outcomes[0].Kind != engine.OutcomeDone {
		t.Errorf("the running job: %v", outcomes)
	}
	w.waitForJob(t, lost)
	if job := getJob(t, client, twin); job.Status != engine.StatusQueued {
		t.Errorf("the twin is %s", job.Status)
	}
}

// What is claimed, runs, or waits for its outcome to be written is in hands.
func TestWorker_recoveryDuringWork_touchesNothingInHand(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "a")
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 20})
	ctx, stop := context.WithCancel(t.Context())
	var recovering sync.WaitGroup
	recovering.Go(func() {
		for ctx.Err() == nil {
			if err := w.RecoverOrphans(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	const jobs = 2000
	exec(t, pool, `insert into soniq_jobs (id, job_name, args) select gen_random_uuid(), 'a', '{}' from generate_series(1, $1)`, jobs)
	outcomes := w.waitFor(t, "all jobs", func(all []engine.Outcome) bool { return len(all) >= jobs })
	stop()
	recovering.Wait()
	for _, o := range outcomes {
		if o.Kind != engine.OutcomeDone || o.Job.Attempts != 1 {
			t.Fatalf("%s on attempt %d", o.Kind, o.Job.Attempts)
		}
	}
	if n := queryValue[int](t, pool, `select count(*) from soniq_jobs where status = 'done' and attempts = 1`); n != jobs {
		t.Errorf("%d jobs done on their first attempt, want %d", n, jobs)
	}
}

// A worker that was taken for dead can claim its own job anew while the first
// run goes on. Both runs count, and the later claim's outcome holds.
func TestWorker_jobClaimedAgainWhileItRuns_laterClaimCounts(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started := make(chan int)
	goOn := map[int]chan struct{}{1: make(chan struct{}), 2: make(chan struct{})}
	engine.HandleRaw(reg, "twice", func(_ context.Context, job *engine.Job) (any, error) {
		started <- job.Attempts
		<-goOn[job.Attempts]
		return job.Attempts, nil
	})
	w := start(t, pool, reg, engine.WorkerConfig{ShutdownTimeout: time.Hour})
	client := newClient(t, pool)
	id := enqueue(t, client, "twice", nil)
	receive(t, "the first run", started)
	exec(t, pool, `update soniq_jobs set status = 'queued', worker_id = null, claim_token = null where id = $1`, id)
	receive(t, "the second run", started)
	close(goOn[2])
	if outcomes := w.waitForJob(t, id); len(outcomes) != 1 || outcomes[0].Kind != engine.OutcomeDone {
		t.Errorf("outcomes %v, want the second run's", outcomes)
	}
	// The drain waits for the first run too.
	w.cancel()
	close(goOn[1])
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	all := w.waitFor(t, "both outcomes", func(all []engine.Outcome) bool { return len(all) == 2 })
	if all[1].Kind != engine.OutcomeLost || all[1].Job.Attempts != 1 {
		t.Errorf("the first run's outcome: %s, attempt %d", all[1].Kind, all[1].Job.Attempts)
	}
	if job := getJob(t, client, id); string(job.Result) != "2" {
		t.Errorf("result %s, want the second run's", job.Result)
	}
}

// Handlers may hold all of the pool's connections. Their worker lives on.
func TestWorker_poolInUse_stillBeats(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 1
	small, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(small.Close)
	reg := engine.NewRegistry()
	noop(reg, "a")
	w, err := engine.NewWorker(small, reg, engine.WorkerConfig{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := small.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if err := w.Beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !queryValue[bool](t, connect(t, url), `
		select exists (select from soniq_workers where id = $1::uuid)
		  and exists (select from soniq_task_registry where worker_id = $1::uuid::text)`, w.ID()) {
		t.Error("the heartbeat was not written")
	}
}

// 'Wait for ever' and what is added to it must not overflow to 'not at all'.
func TestWorker_endlessShutdownTimeout_outcomesAreAwaited(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, release := slowJob(reg, "slow")
	w := start(t, pool, reg, engine.WorkerConfig{ShutdownTimeout: math.MaxInt64, JobTimeout: math.MaxInt64})
	client := newClient(t, pool)
	id := enqueue(t, client, "slow", nil)
	receive(t, "start", started)
	// Someone who leaves no trace runs this one.
	untraced := enqueue(t, client, "slow", nil, engine.After(time.Hour))
	exec(t, pool, `update soniq_jobs set status = 'processing' where id = $1`, untraced)
	if err := w.RecoverOrphans(t.Context()); err != nil {
		t.Fatal(err)
	}
	if job := getJob(t, client, untraced); job.Status != engine.StatusProcessing {
		t.Errorf("a job that is perhaps still run is %s", job.Status)
	}
	// The outcome has to wait for the row.
	tx := testkit.LockJob(t, pool, id)
	w.cancel()
	close(release)
	waitUntil(t, pool, "the settler at the lock", `
		select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')`)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if job := getJob(t, client, id); job.Status != engine.StatusDone {
		t.Errorf("the job is %s", job.Status)
	}
}

// orphans inserts jobs that a dead worker was running.
func orphans(t *testing.T, pool *pgxpool.Pool, names ...string) (ids []uuid.UUID) {
	t.Helper()
	ours := "go/0.1.0"
	dead := addWorker(t, pool, &ours, nil, time.Minute, time.Hour)
	for _, name := range names {
		id := enqueue(t, newClient(t, pool), name, nil)
		exec(t, pool, `update soniq_jobs set status = 'processing', attempts = 1, worker_id = $2 where id = $1`, id, dead)
		ids = append(ids, id)
	}
	return ids
}

func TestWorker_orphanThatCantBeQueued_holdsUpNobody(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, refuse)
	exec(t, pool, `create trigger refuse before update on soniq_jobs for each row
		when (old.status = 'processing' and old.job_name = 'stuck') execute function refuse()`)
	reg := engine.NewRegistry()
	noop(reg, "orphan")
	ids := orphans(t, pool, "stuck", "orphan", "stuck")
	log := new(journal)
	w := start(t, pool, reg, engine.WorkerConfig{Logger: log.logger()})
	w.waitForJob(t, ids[1])
	// Each is told once, and then passed over.
	waitTrue(t, "both refusals", func() bool {
		_ = w.RecoverOrphans(t.Context())
		return strings.Count(log.String(), "refuses to recover a job") == 2
	})
	if err := w.RecoverOrphans(t.Context()); err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "refuses to recover a job"); n != 2 {
		t.Errorf("told %d times:\n%s", n, log.String())
	}
}

// However many the database refuses: each is tried once, then passed over.
func TestWorker_unknownJobsThatCantBeMoved_holdUpNobody(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, refuse)
	exec(t, pool, `create trigger refuse before insert on soniq_dead_letter_jobs for each row
		when (new.job_name like 'refused%') execute function refuse()`)
	reg := engine.NewRegistry()
	noop(reg, "known")
	w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	w.SawClock(time.Now())
	if err := w.Beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `update soniq_workers set started_at = now() - interval '1 hour'`)
	const refused = 1100
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, created_at)
		select gen_random_uuid(), 'refused ' || n, '{}', now() - interval '1 hour' from generate_series(1, $1) n`, refused)
	id := enqueue(t, newClient(t, pool), "unknown", nil, engine.At(time.Now().Add(-time.Hour)))
	refusals, passes := 0, 0
	for client := newClient(t, pool); getJob(t, client, id).Status != engine.StatusDeadLetter; passes++ {
		// Nobody buries anything for a worker that has fallen silent.
		if err := w.Beat(t.Context()); err != nil {
			t.Fatal(err)
		}
		err := w.MoveUnknown(t.Context())
		if err == nil || passes > refused {
			t.Fatalf("after %d passes and %d refusals: %v", passes, refusals, err)
		}
		refusals += strings.Count(err.Error(), "refused by a trigger")
	}
	if refusals > refused {
		t.Errorf("%d refusals of %d jobs", refusals, refused)
	}
	for err := errors.New("begin"); err != nil && refusals <= refused; {
		if err := w.Beat(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err = w.MoveUnknown(t.Context()); err != nil {
			refusals += strings.Count(err.Error(), "refused by a trigger")
		}
	}
	if refusals != refused {
		t.Errorf("%d refusals of %d jobs", refusals, refused)
	}
}

// The database went away for good: Run says so, and what it was.
func TestWorker_databaseGoneAtTheEnd_runTellsWhy(t *testing.T) {
	t.Parallel()
	server := testdb.StartServer(t)
	pool := connect(t, server.URL())
	reg := engine.NewRegistry()
	started, release := slowJob(reg, "slow")
	w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{
		ShutdownTimeout: 100 * time.Millisecond, CancelGrace: 100 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	enqueue(t, newClient(t, pool), "slow", nil)
	receive(t, "start", started)
	if err := server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(release)
	cancel()
	err = receive(t, "the end", ended)
	if err == nil || errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "settle 1 jobs") {
		t.Errorf("got %v, want the connection's error", err)
	}
}
