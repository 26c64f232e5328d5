package interop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/eventually"
	"soniq/internal/liveness"
	"soniq/internal/maintenance"
	"soniq/internal/pg"
	"soniq/internal/testdb"
)

const (
	jobsOnceSQL = `
select count(*)
from soniq_jobs
where status = 'done' and attempts = 1 and job_name = $1 and result ->> 'by' = $2`

	deadSQL = `select count(*) from soniq_dead_letter_jobs`
)

func TestFleet_ownQueues_eachRunsItsOwn(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		pool := testdb.New(t)
		client := newClient(t, pool)
		reg := engine.NewRegistry()
		echo(reg, "go.echo", engine.Queue("go"))
		goWorker(t, pool, reg, engine.WorkerConfig{Queues: []string{"go"}})
		py.worker(t, pool, "python")
		c := py.console(t, pool)
		const each = 25
		for range each {
			enqueue(t, client, "go.echo", nil, engine.Queue("go"))
			enqueue(t, client, "python.echo", nil, engine.Queue("python"))
		}
		eval[any](t, c, fmt.Sprintf(`await app.enqueue_many("go.echo", [{}] * %d, queue="go")`, each), nil)
		eval[any](t, c, fmt.Sprintf(`await app.enqueue_many("python.echo", [{}] * %d)`, each), nil)
		for _, side := range []struct{ name, by string }{{"go.echo", "go"}, {"python.echo", "python"}} {
			await(t, pool, "all of "+side.name, `select (`+jobsOnceSQL+`) = $3`, side.name, side.by, 2*each)
		}
		if n := value[int](t, pool, deadSQL); n != 0 {
			t.Errorf("%d jobs died", n)
		}
	})
}

// Both serve one queue and know its names; what only Python knows, Go leaves to
// Python.
func TestFleet_oneQueue_eachJobRunsOnce(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		pool := testdb.New(t)
		client := newClient(t, pool)
		const each = 50
		for range each {
			enqueue(t, client, "shared.echo", nil, engine.Queue("shared"))
			enqueue(t, client, "python.echo", nil, engine.Queue("shared"))
		}
		// Go holds its first job until Python has done one: both take part,
		// however fast they are.
		started, release := make(chan struct{}), make(chan struct{})
		first := sync.OnceFunc(func() { close(started) })
		reg := engine.NewRegistry()
		engine.HandleRaw(reg, "shared.echo", func(ctx context.Context, _ *engine.Job) (any, error) {
			first()
			select {
			case <-release:
				return map[string]string{"by": "go"}, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}, engine.Queue("shared"))
		goWorker(t, pool, reg, engine.WorkerConfig{Queues: []string{"shared"}, Concurrency: 1})
		receive(t, "Go's first job", started)
		py.worker(t, pool, "shared")
		await(t, pool, "Python's first job", `select (`+jobsOnceSQL+`) > 0`, "shared.echo", "python")
		close(release)

		await(t, pool, "the end of all", `select count(*) = 0 from soniq_jobs where status in ('queued', 'processing')`)
		byGo, byPython := value[int](t, pool, jobsOnceSQL, "shared.echo", "go"), value[int](t, pool, jobsOnceSQL, "shared.echo", "python")
		if byGo == 0 || byPython == 0 || byGo+byPython != each {
			t.Errorf("Go ran %d of the shared jobs and Python %d, of %d", byGo, byPython, each)
		}
		if n := value[int](t, pool, jobsOnceSQL, "python.echo", "python"); n != each {
			t.Errorf("Python ran %d of its own %d jobs", n, each)
		}
		if n := value[int](t, pool, deadSQL); n != 0 {
			t.Errorf("%d jobs died", n)
		}
	})
}

// What no Go code can prevent: Python buries at once what it doesn't know. The
// dead letter is Go's to replay, in a queue that Python doesn't serve.
func TestFleet_goNameOnPythonsQueue_isBuriedByPythonAndReplayedByGo(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		pool := testdb.New(t)
		client, queue := newClient(t, pool), newQueue(t, pool)
		py.worker(t, pool, "shared")
		id := enqueue(t, client, "go.echo", map[string]any{"n": 1}, engine.Queue("shared"))
		if job := ended(t, client, id); job.Status != engine.StatusDeadLetter || job.DeadLetterReason != classify.JobNotFound {
			t.Fatalf("%+v", job)
		}
		reg := engine.NewRegistry()
		echo(reg, "go.echo")
		goWorker(t, pool, reg, engine.WorkerConfig{Queues: []string{"go"}})
		replay, err := queue.Replay(t.Context(), id, deadletter.ReplayOptions{Queue: "go"})
		if err != nil {
			t.Fatal(err)
		}
		if job := ended(t, client, replay); job.Status != engine.StatusDone {
			t.Errorf("%+v", job)
		}
		if row, err := queue.Get(t.Context(), id); err != nil || row.State != "resolved" {
			t.Errorf("%+v, %v", row, err)
		}
	})
}

// Which names a Python worker knows can't be told: while one serves a queue, Go
// buries nothing there.
func TestFleet_pythonWorkerLives_goBuriesNothingOfItsQueue(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		pool := testdb.New(t)
		client := newClient(t, pool)
		// Python is at work and takes no other job.
		python := py.worker(t, pool, "shared", "--concurrency", "1")
		held := enqueue(t, client, "shared.held", nil, engine.Queue("shared"))
		await(t, pool, "Python has its job", `select status = 'processing' from soniq_jobs where id = $1`, held)
		theirs := enqueue(t, client, "nobody.knows", nil, engine.Queue("shared"))

		reg := engine.NewRegistry()
		echo(reg, "go.echo")
		goWorker(t, pool, reg, engine.WorkerConfig{Queues: []string{"shared", "go"}, UnknownGrace: 250 * time.Millisecond})
		// Due for less time than the other, so that one was looked at too.
		ours := enqueue(t, client, "nobody.knows", nil, engine.Queue("go"))
		if job := ended(t, client, ours); job.Status != engine.StatusDeadLetter || job.DeadLetterReason != classify.JobNotFound {
			t.Fatalf("%+v", job)
		}
		if j := job(t, pool, theirs); j.Status != engine.StatusQueued {
			t.Fatalf("Go buried a job of Python's queue: %+v", j)
		}
		// It was Python's worker that protected it.
		python.kill(t)
		age(t, pool, python)
		if job := ended(t, client, theirs); job.Status != engine.StatusDeadLetter {
			t.Errorf("%+v", job)
		}
	})
}

// When a Go worker has seen no other heartbeat of a Python worker for five minutes, it
// takes it for dead. Here the observer has watched each worker since its last heartbeat,
// and the heartbeats are aged in the table.
func TestFleet_killedPython_isRecoveredByGo(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	var jobs []uuid.UUID
	for _, e := range releases {
		folder, ok := need(t, e)
		if !ok {
			continue
		}
		p := (&python{folder: folder}).worker(t, pool, "shared", "--concurrency", "1")
		id := enqueue(t, client, "shared.held", nil, engine.Queue("shared"))
		await(t, pool, "Python has its job", `select status = 'processing' from soniq_jobs where id = $1`, id)
		jobs = append(jobs, id)
		p.kill(t)
		// Or the next one would take its jobs, as it starts.
		execute(t, pool, `update soniq_workers set last_heartbeat = now() + interval '1 hour' where pid = $1`, p.cmd.Process.Pid)
	}
	execute(t, pool, `update soniq_workers set last_heartbeat = now() - interval '301 seconds' where version is null`)
	look := observer(t, pool)
	for _, id := range jobs {
		eventually.True(t, "the job is queued again", func() bool {
			look()
			return value[bool](t, pool, `select status = 'queued' from soniq_jobs where id = $1`, id)
		})
	}
	// After their jobs.
	await(t, pool, "the dead workers are stopped", `
		select not exists (select from soniq_workers where version is null and status <> 'stopped')`)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "shared.held", func(context.Context, *engine.Job) (any, error) { return nil, nil })
	goWorker(t, pool, reg, engine.WorkerConfig{Queues: []string{"shared"}})
	for _, id := range jobs {
		job := ended(t, client, id)
		if job.Status != engine.StatusDone || job.Attempts != 2 || len(job.Errors) != 1 || job.Errors[0].Kind != classify.KindCrash {
			t.Errorf("%+v", job)
		}
	}
}

// observer returns a look of a Go worker that has watched the others for long.
func observer(t *testing.T, pool *pgxpool.Pool) (look func()) {
	t.Helper()
	worker, logger := uuid.New(), slog.New(slog.DiscardHandler)
	db := pg.Schema{}.Pool(pool)
	recovery := maintenance.New(maintenance.Config{
		Pool: db, Logger: logger, Worker: worker, AttemptLimit: 100, Tokens: func() []int64 { return []int64{} },
	}).Recovery
	parts := liveness.New(liveness.Config{
		Pool: db, Logger: logger, Worker: worker, Version: soniq.WorkerVersion,
		Busy: func() bool { return false }, Registered: func(int64) {}, Recover: recovery.OfWorker,
		Clock: &pg.Clock{}, Stepped: func(time.Duration) {},
	})
	if err := parts.Heartbeat.Register(t.Context(), db, false); err != nil {
		t.Fatal(err)
	}
	timing := liveness.RealTiming
	timing.Trust, timing.SilentSince = 0, func(p liveness.Peer) time.Time { return p.Heartbeat }
	detector := liveness.NewDetector(timing)
	return func() {
		if _, err := parts.Watch.Look(t.Context(), detector); err != nil {
			t.Error(err)
		}
	}
}

// A Go worker that was killed is recovered by Python's own sweep, where there is
// no other Go worker that would have done it within seconds.
func TestFleet_killedGo_isRecoveredByPython(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		pool := testdb.New(t)
		client := newClient(t, pool)
		victim := startVictim(t, pool)
		id := enqueue(t, client, "shared.held", nil, engine.Queue("shared"))
		if line := victim.line(t); line != id.String() {
			t.Fatalf("the victim says %s", line)
		}
		victim.kill(t)
		age(t, pool, victim)
		py.worker(t, pool, "shared")
		eventually.True(t, "Python's sweep", func() bool {
			// Python sweeps after it was woken, or after its poll.
			execute(t, pool, `select pg_notify('soniq_new_job', 'shared')`)
			return value[bool](t, pool, `select attempts = 2 from soniq_jobs where id = $1`, id)
		})
		job := ended(t, client, id)
		var result struct {
			By      string
			Attempt int
		}
		if err := json.Unmarshal(job.Result, &result); err != nil || result.By != "python" || result.Attempt != 2 || job.Attempts != 2 {
			t.Errorf("%+v, %v", job, err)
		}
	})
}

// Python marks a Go worker stopped whose heartbeat is late, and queues its jobs
// again: the worker notices, its outcome for the lost claim is not written, and
// it rejoins.
func TestFleet_goWorkerSweptByPython_losesTheClaimAndRejoins(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		pool := testdb.New(t)
		client := newClient(t, pool)
		c := py.console(t, pool)
		attempts, release := make(chan int, 10), make(chan struct{})
		reg := engine.NewRegistry()
		engine.HandleRaw(reg, "go.held", func(ctx context.Context, job *engine.Job) (any, error) {
			attempts <- job.Attempts
			if job.Attempts == 1 {
				select {
				case <-release:
				case <-ctx.Done():
				}
			}
			return job.Attempts, nil
		})
		goWorker(t, pool, reg, engine.WorkerConfig{Queues: []string{"go"}})
		id := enqueue(t, client, "go.held", nil, engine.Queue("go"))
		receive(t, "the first attempt", attempts)
		eval[any](t, c, `await app.ensure_initialized()`, nil)
		eventually.True(t, "Python finds the worker stale", func() bool {
			// Its next heartbeat may come in between.
			execute(t, pool, `update soniq_workers set last_heartbeat = now() - interval '301 seconds'`)
			return eval[int](t, c, `await app.backend.cleanup_stale_workers(stale_threshold_seconds=300)`, nil) == 1
		})
		if n := receive(t, "the second attempt", attempts); n != 2 {
			t.Errorf("attempt %d", n)
		}
		close(release)
		job := ended(t, client, id)
		if job.Status != engine.StatusDone || job.Attempts != 2 || string(job.Result) != "2" {
			t.Errorf("%+v with the result %s", job, job.Result)
		}
		await(t, pool, "the worker is back", `select exists (select from soniq_workers where status = 'active')`)
	})
}

// Each side's maintenance, and setup, waits its turn for the other's.
func TestLocks_bothTakeTurns(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		pool := testdb.New(t)
		client := newClient(t, pool)
		c := py.console(t, pool)
		const maintenance, migrations = "soniq.maintenance", "soniq.migrations"
		take := func(name string) bool {
			return eval[bool](t, c, `await locks.take(name)`, with{"name": name})
		}
		giveBack := func(name string) { eval[any](t, c, `await locks.give_back(name)`, with{"name": name}) }

		// While Python migrates, our setup waits.
		if !take(migrations) {
			t.Fatal("the lock of migrations is held by nobody, and can't be had")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := soniq.Setup(ctx, pool, soniq.Config{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Setup while Python migrates: %v", err)
		}
		giveBack(migrations)

		// While Python cleans up, a Go worker's first pass deletes nothing. Its
		// burial of a job comes after that, and needs no lock.
		execute(t, pool, `
			insert into soniq_jobs (id, job_name, args, status, expires_at)
			values (gen_random_uuid(), 'old', '{}', 'done', now() - interval '1 minute')`)
		const expired = `select count(*) from soniq_jobs where job_name = 'old'`
		if !take(maintenance) {
			t.Fatal("the lock of maintenance is held by nobody, and can't be had")
		}
		reg := engine.NewRegistry()
		echo(reg, "go.echo")
		config := engine.WorkerConfig{Queues: []string{"go"}, UnknownGrace: 250 * time.Millisecond}
		unknown := enqueue(t, client, "nobody.knows", nil, engine.Queue("go"))
		stop := goWorker(t, pool, reg, config)
		ended(t, client, unknown)
		if n := value[int](t, pool, expired); n != 1 {
			t.Error("Go cleaned up while Python did")
		}
		stop()
		giveBack(maintenance)

		// While Go cleans up, Python doesn't: Go's pass is held up by a trigger.
		execute(t, pool, `
			create function hold_up() returns trigger language plpgsql as $$
			begin
			  if old.job_name = 'old' then
			    perform pg_advisory_xact_lock(42);
			  end if;
			  return old;
			end
			$$`)
		execute(t, pool, `create trigger hold_up before delete on soniq_jobs for each row execute function hold_up()`)
		barrier, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = barrier.Rollback(context.Background()) }()
		if _, err := barrier.Exec(t.Context(), `select pg_advisory_xact_lock(42)`); err != nil {
			t.Fatal(err)
		}
		goWorker(t, pool, reg, config)
		await(t, pool, "Go cleans up", `
			select exists (
			  select from pg_locks
			  where locktype = 'advisory'
			    and objid = 42
			    and not granted
			    and database = (select oid from pg_database where datname = current_database())
			)`)
		if take(maintenance) {
			t.Error("Python cleans up while Go does")
		}
		if err := barrier.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		await(t, pool, "Go has cleaned up", `select (`+expired+`) = 0`)
		eventually.True(t, "Python's turn", func() bool { return take(maintenance) })
	})
}

// age makes a dead process's heartbeat older than either language waits for.
func age(t *testing.T, pool *pgxpool.Pool, p *process) {
	t.Helper()
	n := execute(t, pool, `
		update soniq_workers
		set last_heartbeat = now() - interval '301 seconds'
		where pid = $1`, p.cmd.Process.Pid)
	if n != 1 {
		t.Fatalf("%d workers have the pid %d", n, p.cmd.Process.Pid)
	}
}
