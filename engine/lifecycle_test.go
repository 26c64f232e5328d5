package engine_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/testdb"
)

// slowJob registers a job that tells when it starts and runs until it is
// released or its context ends.
func slowJob(reg *engine.Registry, name string) (started chan *engine.Job, release chan struct{}) {
	started, release = make(chan *engine.Job, 100), make(chan struct{})
	engine.HandleRaw(reg, name, func(ctx context.Context, job *engine.Job) (any, error) {
		started <- job
		select {
		case <-release:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}, soon)
	return started, release
}

func TestWorker_shutdown_letsRunningJobsFinish(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, release := slowJob(reg, "slow")
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 1})
	client := newClient(t, pool)
	id, waiting := enqueue(t, client, "slow", nil), enqueue(t, client, "slow", nil)
	receive(t, "start", started)
	w.cancel()
	close(release)
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if job := getJob(t, client, id); job.Status != engine.StatusDone {
		t.Errorf("the running job is %s", job.Status)
	}
	if job := getJob(t, client, waiting); job.Status != engine.StatusQueued || job.Attempts != 0 {
		t.Errorf("the waiting job is %s after %d attempts", job.Status, job.Attempts)
	}
	if s := queryValue[string](t, pool, `select status from soniq_workers where id = $1`, w.ID()); s != "stopped" {
		t.Errorf("the worker's row is %s", s)
	}
}

func TestWorker_shutdownTimeout_givesJobsBackUncharged(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, _ := slowJob(reg, "slow")
	stubborn := make(chan struct{})
	ended := make(chan struct{})
	engine.HandleRaw(reg, "stubborn", func(context.Context, *engine.Job) (any, error) {
		defer close(ended)
		<-stubborn
		return nil, errors.New("too late")
	})
	w := start(t, pool, reg, engine.WorkerConfig{ShutdownTimeout: 10 * time.Millisecond, CancelGrace: 10 * time.Millisecond})
	client := newClient(t, pool)
	slow, stubbornID := enqueue(t, client, "slow", nil), enqueue(t, client, "stubborn", nil)
	receive(t, "start", started)
	processing := func() bool {
		return queryValue[int](t, pool, `select count(*) from soniq_jobs where status = 'processing'`) == 2
	}
	for deadline := time.Now().Add(patience); !processing() && time.Now().Before(deadline); {
	}
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	for _, id := range []uuid.UUID{slow, stubbornID} {
		if job := getJob(t, client, id); job.Status != engine.StatusQueued || job.Attempts != 0 || job.LastError != "" || job.WorkerID != nil {
			t.Errorf("%s: %s, %d attempts, error %q, worker %v", job.Name, job.Status, job.Attempts, job.LastError, job.WorkerID)
		}
	}
	// What the stubborn handler says in the end changes nothing.
	close(stubborn)
	receive(t, "end of the stubborn handler", ended)
}

// A worker that is to stop at once still gives back what it has: the database
// may need a moment.
func TestWorker_noShutdownTimeout_waitsForABusyDatabase(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, _ := slowJob(reg, "slow")
	w := start(t, pool, reg, engine.WorkerConfig{ShutdownTimeout: time.Nanosecond, CancelGrace: time.Nanosecond})
	client := newClient(t, pool)
	id := enqueue(t, client, "slow", nil)
	receive(t, "start", started)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := tx.Exec(t.Context(), `lock table soniq_jobs in share row exclusive mode`); err != nil {
		t.Fatal(err)
	}
	w.cancel()
	waitUntil(t, pool, "an outcome that waits", `
		select exists (
		  select from pg_stat_activity
		  where datname = current_database() and wait_event_type = 'Lock' and query like '%update public.soniq_jobs%')`)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if job := getJob(t, client, id); job.Status != engine.StatusQueued || job.Attempts != 0 {
		t.Errorf("the job is %s after %d attempts", job.Status, job.Attempts)
	}
}

func TestWorker_cancel_endsTheDrainAtOnce(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, _ := slowJob(reg, "slow")
	w := start(t, pool, reg, engine.WorkerConfig{ShutdownTimeout: time.Hour})
	client := newClient(t, pool)
	id := enqueue(t, client, "slow", nil)
	receive(t, "start", started)
	w.Cancel()
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if job := getJob(t, client, id); job.Status != engine.StatusQueued || job.Attempts != 0 {
		t.Errorf("%s after %d attempts", job.Status, job.Attempts)
	}
}

// Someone else got hold of the job while we ran it: our outcome, whatever it
// is, must not touch their row.
func TestWorker_lostClaim_outcomeIsNotWritten(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	reg := engine.NewRegistry()
	type claimed struct{ started, goOn chan struct{} }
	jobs := map[string]claimed{}
	outcomes := map[string]error{
		"done": nil, "retry": errors.New("x"), "dead letter": engine.Permanent(errors.New("x")), "snooze": engine.Snooze(0),
	}
	takes := map[string]string{
		"other worker": `update soniq_jobs set worker_id = null where id = $1`,
		"same worker, later claim": `
			update soniq_jobs set claim_token = claim_token + 1 where id = $1`,
		"later attempt": `update soniq_jobs set attempts = attempts + 1 where id = $1`,
		"queued again":  `update soniq_jobs set status = 'cancelled', attempts = 7 where id = $1`,
	}
	for take := range takes {
		for outcome, err := range outcomes {
			c := claimed{make(chan struct{}), make(chan struct{})}
			jobs[take+"/"+outcome] = c
			engine.HandleRaw(reg, take+"/"+outcome, func(context.Context, *engine.Job) (any, error) {
				close(c.started)
				<-c.goOn
				return nil, err
			})
		}
	}
	// Recovery gives back what is under our name and not in our hands, as some
	// of these rows will be. Its first turn, which frees the witness, is over
	// before they are; the next is far.
	ours := "go/0.1.0"
	witness := enqueue(t, client, "witness", nil)
	exec(t, pool, `update soniq_jobs set status = 'processing', worker_id = $2 where id = $1`,
		witness, addWorker(t, pool, &ours, nil, time.Minute, time.Hour))
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: len(jobs)})
	waitUntil(t, pool, "the first recovery", `select status = 'queued' from soniq_jobs where id = $1`, witness)
	for name, take := range takes {
		for outcome := range outcomes {
			t.Run(name+"/"+outcome, func(t *testing.T) {
				t.Parallel()
				job := jobs[name+"/"+outcome]
				id := enqueue(t, client, name+"/"+outcome, nil)
				receive(t, "start", job.started)
				exec(t, pool, take, id)
				before := queryValue[string](t, pool, `select j::text from soniq_jobs j where id = $1`, id)
				close(job.goOn)
				w.waitFor(t, "the outcome to be lost", func(all []engine.Outcome) bool {
					return slices.ContainsFunc(all, func(o engine.Outcome) bool {
						return o.Job.ID == id && o.Kind == engine.OutcomeLost
					})
				})
				if after := queryValue[string](t, pool, `select j::text from soniq_jobs j where id = $1`, id); after != before {
					t.Errorf("the row changed:\n%s\n%s", before, after)
				}
			})
		}
	}
}

// A unique job that fails while its twin is queued can't go back as unique.
func TestWorker_retryBesideQueuedTwin_isNotLost(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	goOn := make(chan error)
	started := make(chan uuid.UUID, 10)
	engine.HandleRaw(reg, "unique", func(_ context.Context, job *engine.Job) (any, error) {
		started <- job.ID
		return nil, <-goOn
	}, soon)
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 1})
	client := newClient(t, pool)
	first := enqueue(t, client, "unique", nil, engine.Unique(), engine.DedupKey("k"))
	receive(t, "start", started)
	second := enqueue(t, client, "unique", nil, engine.Unique(), engine.DedupKey("k"))
	if first == second {
		t.Fatal("a running job must not count as a duplicate")
	}
	goOn <- errors.New("fails beside its twin")
	for range 2 {
		receive(t, "start", started)
		goOn <- nil
	}
	for _, id := range []uuid.UUID{first, second} {
		w.waitForJob(t, id)
		if job := getJob(t, client, id); job.Status != engine.StatusDone {
			t.Errorf("job is %s", job.Status)
		}
	}
}

func TestWorker_crashedOnEveryAttempt_isADeadLetter(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "killer", func(context.Context, *engine.Job) (any, error) {
		t.Error("a job without attempts left was run")
		return nil, nil
	})
	client := newClient(t, pool)
	id := enqueue(t, client, "killer", nil, engine.MaxAttempts(2))
	exec(t, pool, `update soniq_jobs set attempts = 2 where id = $1`, id)
	w := start(t, pool, reg, engine.WorkerConfig{})
	w.waitForJob(t, id)
	dead, err := newQueue(t, pool).Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if dead.Reason != classify.MaxRetriesExceeded || dead.ErrorKind != classify.KindCrash {
		t.Errorf("reason %s, kind %s", dead.Reason, dead.ErrorKind)
	}
}

func TestWorker_databaseRestarts_outcomesAreWrittenAndWorkGoesOn(t *testing.T) {
	t.Parallel()
	server := testdb.StartServer(t)
	pool := connect(t, server.URL())
	reg := engine.NewRegistry()
	started, release := slowJob(reg, "survivor")
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	id := enqueue(t, client, "survivor", nil)
	receive(t, "start", started)
	if err := server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(release)
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.waitForJob(t, id)
	var next engine.Enqueued
	for deadline := time.Now().Add(patience); ; {
		var err error
		if next, err = client.Enqueue(t.Context(), "survivor", nil); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	w.waitForJob(t, next.ID)
	if job := getJob(t, client, id); job.Status != engine.StatusDone || job.Attempts != 1 {
		t.Errorf("%s after %d attempts", job.Status, job.Attempts)
	}
}

func TestNewWorker_mistakes_areNamed(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	ok := func() *engine.Registry {
		reg := engine.NewRegistry()
		engine.HandleRaw(reg, "a", func(context.Context, *engine.Job) (any, error) { return nil, nil })
		return reg
	}
	handler := func(context.Context, *engine.Job) (any, error) { return nil, nil }
	for want, make := range map[string]func() (*engine.Registry, engine.WorkerConfig){
		"no handlers": func() (*engine.Registry, engine.WorkerConfig) { return engine.NewRegistry(), engine.WorkerConfig{} },
		`"a" is registered twice`: func() (*engine.Registry, engine.WorkerConfig) {
			r := ok()
			engine.HandleRaw(r, "a", handler)
			return r, engine.WorkerConfig{}
		},
		"job name must not be empty": func() (*engine.Registry, engine.WorkerConfig) {
			r := ok()
			engine.HandleRaw(r, "", handler)
			return r, engine.WorkerConfig{}
		},
		"queue must not be empty": func() (*engine.Registry, engine.WorkerConfig) {
			r := ok()
			engine.HandleRaw(r, "b", handler, engine.Queue(""))
			return r, engine.WorkerConfig{}
		},
		"max attempts must be from 1": func() (*engine.Registry, engine.WorkerConfig) {
			r := ok()
			engine.HandleRaw(r, "b", handler, engine.MaxAttempts(0))
			return r, engine.WorkerConfig{}
		},
		"retry policy must not be nil": func() (*engine.Registry, engine.WorkerConfig) {
			r := ok()
			engine.HandleRaw(r, "b", handler, engine.Retry(nil))
			return r, engine.WorkerConfig{}
		},
		"Concurrency must be":       func() (*engine.Registry, engine.WorkerConfig) { return ok(), engine.WorkerConfig{Concurrency: -1} },
		"Queues: queue must not be": func() (*engine.Registry, engine.WorkerConfig) { return ok(), engine.WorkerConfig{Queues: []string{""}} },
		`handler "b": function must not be nil`: func() (*engine.Registry, engine.WorkerConfig) {
			r := ok()
			engine.Handle[greeting](r, "b", nil)
			return r, engine.WorkerConfig{}
		},
		`handler "c": function must not be nil`: func() (*engine.Registry, engine.WorkerConfig) {
			r := ok()
			engine.HandleRaw(r, "c", nil)
			return r, engine.WorkerConfig{}
		},
		"attempt limit must be from 1": func() (*engine.Registry, engine.WorkerConfig) {
			r := ok()
			engine.HandleRaw(r, "b", handler, engine.AttemptLimit(1<<31))
			return r, engine.WorkerConfig{}
		},
		"SafetyPoll must be at most": func() (*engine.Registry, engine.WorkerConfig) {
			return ok(), engine.WorkerConfig{SafetyPoll: time.Hour}
		},
		"SafetyPoll must not be nega": func() (*engine.Registry, engine.WorkerConfig) { return ok(), engine.WorkerConfig{SafetyPoll: -1} },
	} {
		reg, config := make()
		if _, err := engine.NewWorker(pool, reg, config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestWorker_secondRun_isRefused(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "a", func(context.Context, *engine.Job) (any, error) { return nil, nil })
	w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.Run(t.Context()); err == nil {
		t.Error("a second run was not refused")
	}
}
