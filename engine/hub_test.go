package engine_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq/engine"
	"soniq/internal/claim"
	"soniq/internal/testdb"
)

// idleCrew starts workers on one pool, and waits until all rely on notifications.
func idleCrew(t *testing.T, pool *pgxpool.Pool, n int, reg func() *engine.Registry) (workers []*running) {
	t.Helper()
	for range n {
		workers = append(workers, start(t, pool, reg(), engine.WorkerConfig{Concurrency: 1, ShutdownTimeout: time.Nanosecond}))
	}
	for _, w := range workers {
		waitTrue(t, "trust in notifications", w.Hears)
	}
	return workers
}

// holding returns what makes the registry of a job 'held', which tells that it has started and runs until release.
func holding(started chan<- *engine.Job, release <-chan struct{}) func() *engine.Registry {
	return func() *engine.Registry {
		reg := engine.NewRegistry()
		engine.HandleRaw(reg, "held", func(ctx context.Context, job *engine.Job) (any, error) {
			started <- job
			select {
			case <-release:
			case <-ctx.Done():
			}
			return nil, nil
		})
		return reg
	}
}

func TestWorkers_manyOfOneProcess_oneListensAndOneIsWoken(t *testing.T) {
	t.Parallel()
	const workers, jobs = 20, 30
	url := testdb.NewURL(t)
	pool, sent := tracedFor(t, url, claim.WholeSQL)
	other := connect(t, url)
	started := make(chan *engine.Job, jobs)
	idleCrew(t, pool, workers, func() *engine.Registry {
		reg := engine.NewRegistry()
		engine.HandleRaw(reg, "a", func(_ context.Context, job *engine.Job) (any, error) {
			started <- job
			return nil, nil
		})
		return reg
	})
	if n := queryValue[int](t, other, `select count(*) from pg_stat_activity
		where datname = current_database() and application_name = 'soniq-listener'`); n != 1 {
		t.Errorf("%d connections listen, want 1", n)
	}
	client := newClient(t, other)
	_, before := sent.count()
	for range jobs {
		enqueue(t, client, "a", nil)
		receive(t, "the start", started)
	}
	// All that were woken for one job had to look before the next one: 20 each.
	if _, after := sent.count(); after-before > 4*jobs {
		t.Errorf("%d claims for %d jobs", after-before, jobs)
	}
}

// The one that is woken first can't run it.
func TestWorkers_handlerAtItsLimit_anotherWorkerRunsTheJob(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	started, release := make(chan *engine.Job, 10), make(chan struct{})
	t.Cleanup(func() { close(release) })
	for range 3 {
		reg := engine.NewRegistry()
		engine.HandleRaw(reg, "narrow", func(ctx context.Context, job *engine.Job) (any, error) {
			started <- job
			select {
			case <-release:
			case <-ctx.Done():
			}
			return nil, nil
		}, engine.Concurrency(1))
		w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 5, ShutdownTimeout: time.Nanosecond})
		waitTrue(t, "trust in notifications", w.Hears)
	}
	client := newClient(t, pool)
	for range 3 {
		enqueue(t, client, "narrow", nil)
		receive(t, "the start, where the handler is free", started)
	}
}

// Workers of one queue that handle different jobs share a process.
func TestWorkers_differentHandlers_eachIsWokenForItsOwn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	started := make(chan *engine.Job, 10)
	names := []string{"a", "b", "c"}
	for _, name := range names {
		reg := engine.NewRegistry()
		engine.HandleRaw(reg, name, func(_ context.Context, job *engine.Job) (any, error) {
			started <- job
			return nil, nil
		})
		waitTrue(t, "trust in notifications", start(t, pool, reg, engine.WorkerConfig{}).Hears)
	}
	client := newClient(t, pool)
	for range 5 {
		for _, name := range names {
			enqueue(t, client, name, nil)
			receive(t, "the start of "+name, started)
		}
	}
}

// The one that was woken for a job that is due later runs another one by then, or has
// stopped.
func TestWorkers_theOneThatKnowsOfTheDueJobIsAway_anotherRunsIt(t *testing.T) {
	t.Parallel()
	for _, away := range []string{"busy", "stopped"} {
		t.Run(away, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			release := make(chan struct{})
			t.Cleanup(func() { close(release) })
			started := make(chan *engine.Job, 10)
			workers := idleCrew(t, pool, 2, holding(started, release))
			client := newClient(t, pool)
			later := enqueue(t, client, "held", nil, engine.At(time.Now().Add(1500*time.Millisecond)))
			switch away {
			case "busy":
				enqueue(t, client, "held", nil)
				receive(t, "the first", started)
			case "stopped":
				// Each may be the one that knows.
				if err := workers[1].stop(); err != nil {
					t.Fatal(err)
				}
			}
			if job := receive(t, "the job that was due later", started); job.ID != later {
				t.Errorf("job %s runs, want %s", job.ID, later)
			}
		})
	}
}

// Each of five processes is the first one to look for some sessions that enqueue. Two of
// them can't: one is frozen and keeps its lock, one was killed a moment ago.
func TestWorkers_firstProcessFrozenOrKilled_anotherRunsTheJob(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	frozen, killed := startProcess(t, url, engine.Timing{}), startProcess(t, url, engine.Timing{})
	started := make(chan *engine.Job, 100)
	for range 3 {
		idleCrew(t, connect(t, url), 1, func() *engine.Registry {
			reg := engine.NewRegistry()
			engine.HandleRaw(reg, "held", func(_ context.Context, job *engine.Job) (any, error) {
				started <- job
				return nil, nil
			})
			return reg
		})
	}
	pool := connect(t, url)
	waitUntil(t, pool, "the locks of all", advertisingSQL, 5)
	frozen.signal(t, syscall.SIGSTOP)
	killed.signal(t, syscall.SIGKILL)
	var longest time.Duration
	for range 20 {
		conn, err := pgx.Connect(t.Context(), url) // another session each time
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = conn.Exec(t.Context(), `insert into soniq_jobs (id, job_name, args) values (gen_random_uuid(), 'held', '{}')`)
		if err != nil {
			t.Fatal(err)
		}
		receive(t, "the start in a process that runs", started)
		longest = max(longest, time.Since(began))
		_ = conn.Close(t.Context())
	}
	t.Logf("the longest wait was %s", longest)
}

// What one process has no slots for is run by the others.
func TestWorkers_firstProcessFull_theOthersRunTheRest(t *testing.T) {
	t.Parallel()
	const processes = 5
	url := testdb.NewURL(t)
	started, release := make(chan *engine.Job, 100), make(chan struct{})
	t.Cleanup(func() { close(release) })
	for range processes {
		idleCrew(t, connect(t, url), 1, holding(started, release))
	}
	pool := connect(t, url)
	waitUntil(t, pool, "the locks of all", advertisingSQL, processes)
	exec(t, pool, `insert into soniq_jobs (id, job_name, args)
		select gen_random_uuid(), 'held', '{}' from generate_series(1, $1)`, processes)
	for range processes {
		receive(t, "a start in each", started)
	}
}

// While very many jobs are announced, idle workers of two processes withdraw and poll; so
// nobody is notified. Then they declare themselves again. The jobs are due later, so no
// worker withdraws because it is busy.
func TestWorkers_oftenAnnounced_pollAndDeclareThemselvesAgain(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	pool := connect(t, url)
	started := make(chan *engine.Job, 100)
	quick := func() *engine.Registry {
		reg := engine.NewRegistry()
		engine.HandleRaw(reg, "quick", func(_ context.Context, job *engine.Job) (any, error) {
			started <- job
			return nil, nil
		})
		return reg
	}
	idleCrew(t, connect(t, url), 2, quick)
	idleCrew(t, connect(t, url), 2, quick)
	const waitingSQL = `select count(*) = $1 from soniq_waiters`
	waitUntil(t, pool, "all waiting", waitingSQL, 4)

	ctx, cancel := context.WithCancel(t.Context())
	var producers errgroup.Group
	for range 4 {
		producers.Go(func() error {
			for ctx.Err() == nil {
				if _, err := pool.Exec(context.Background(), `insert into soniq_jobs (id, job_name, args, scheduled_at)
					values (gen_random_uuid(), 'quick', '{}', now() + interval '5 minutes')`); err != nil {
					return err
				}
			}
			return nil
		})
	}
	waitUntil(t, pool, "nobody waiting", waitingSQL, 0)
	exec(t, pool, quickSQL)
	receive(t, "a job while all poll", started)
	cancel()
	if err := producers.Wait(); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, pool, "all waiting again", waitingSQL, 4)
	exec(t, pool, quickSQL)
	receive(t, "a job that is announced", started)
}
