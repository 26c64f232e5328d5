package engine_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/testdb"
	"soniq/internal/waiters"
)

// steps lets a test see a worker go to sleep, and act in between.
type steps struct {
	mu    sync.Mutex
	hooks map[waiters.Step]func()
}

func (s *steps) reached(step waiters.Step) {
	s.mu.Lock()
	hook := s.hooks[step]
	delete(s.hooks, step)
	s.mu.Unlock()
	if hook != nil {
		hook()
	}
}

// at has do called when the step is reached the next time: the worker waits for
// it. The channel is closed then.
func (s *steps) at(step waiters.Step, do func()) <-chan struct{} {
	done := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks[step] = func() {
		if do != nil {
			do()
		}
		close(done)
	}
	return done
}

// either is closed when one of the steps is reached the next time.
func (s *steps) either(list ...waiters.Step) <-chan struct{} {
	done := make(chan struct{})
	var once sync.Once
	for _, step := range list {
		s.at(step, func() { once.Do(func() { close(done) }) })
	}
	return done
}

// sleeper is a worker of one slot that is woken by nothing but notifications.
type sleeper struct {
	*steps
	*running
	pool    *pgxpool.Pool
	started chan *engine.Job
	release chan struct{}
	// rest lets its job end.
	rest func()
}

// newSleeper returns one that is busy with a job and no longer waiting: nobody
// is told of jobs.
func newSleeper(t *testing.T, pool *pgxpool.Pool) *sleeper {
	t.Helper()
	s := &sleeper{
		steps: &steps{hooks: map[waiters.Step]func(){}},
		pool:  pool, started: make(chan *engine.Job, 100), release: make(chan struct{}),
	}
	s.rest = sync.OnceFunc(func() { close(s.release) })
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "held", func(context.Context, *engine.Job) (any, error) {
		<-s.release
		return nil, nil
	})
	engine.HandleRaw(reg, "quick", func(_ context.Context, job *engine.Job) (any, error) {
		s.started <- job
		return nil, nil
	})
	proved := s.at(waiters.Proved, nil)
	s.running = start(t, pool, reg, engine.WorkerConfig{Concurrency: 1},
		engine.Timing{Trust: -1, WithdrawAfter: time.Millisecond, Reached: s.reached})
	t.Cleanup(s.rest)
	receive(t, "the first sleep", proved)
	// Until then it polls.
	waitTrue(t, "trust in notifications", s.Hears)
	withdrawn := s.at(waiters.Withdrawn, nil)
	enqueue(t, newClient(t, s.pool), "held", nil)
	receive(t, "the withdrawal", withdrawn)
	if n := s.rows(t); n != 0 {
		t.Fatalf("%d queues are waited for, want none", n)
	}
	return s
}

func (s *sleeper) rows(t *testing.T) int {
	t.Helper()
	return queryValue[int](t, s.pool, `select count(*)::int from soniq_waiters`)
}

// writers is how many transactions hold the lock of a writer of jobs.
func (s *sleeper) writers() (n int) {
	err := s.pool.QueryRow(context.Background(), `
		select count(*) from pg_locks where relation = 'soniq_jobs'::regclass and mode = 'RowExclusiveLock'
		  and database = (select oid from pg_database where datname = current_database())`).Scan(&n)
	if err != nil {
		n = -1
	}
	return n
}

const quickSQL = `insert into soniq_jobs (id, job_name, args) values (gen_random_uuid(), 'quick', '{}')`

// wakes waits for the quick job.
func (s *sleeper) wakes(t *testing.T) {
	t.Helper()
	receive(t, "the job that nobody may sleep through", s.started)
}

// producer is a transaction.
type producer struct {
	*testing.T
	*pgxpool.Conn
}

func produce(t *testing.T, pool *pgxpool.Pool) *producer {
	t.Helper()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Release)
	return &producer{t, conn}
}

// do may be called by the worker's goroutine too.
func (p *producer) do(sql string) {
	p.Helper()
	if _, err := p.Exec(context.Background(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		p.Errorf("%s: %v", sql, err)
	}
}

func TestWaiters_producerStillOpen_isWaitedFor(t *testing.T) {
	t.Parallel()
	s := newSleeper(t, testdb.New(t))
	p := produce(t, s.pool)
	p.do(`begin; ` + quickSQL)
	waiting := s.either(waiters.Outstanding, waiters.Proved)
	s.rest()
	receive(t, "the worker, at its pace or asleep", waiting)
	again := s.either(waiters.Outstanding, waiters.Proved)
	receive(t, "the worker, again", again)
	p.do(`commit`)
	s.wakes(t)
}

// A producer gets its id after the declaration got its own, and is in no list
// that the snapshot of the worker has: it is 'not yet begun' there.
func TestWaiters_producerGetsItsIDLate_isWaitedFor(t *testing.T) {
	t.Parallel()
	s := newSleeper(t, testdb.New(t))
	exec(t, s.pool, `
		create function wait() returns trigger language plpgsql as $$
		begin
		  perform pg_current_xact_id();
		  perform pg_advisory_xact_lock((select oid::bigint from pg_database where datname = current_database()));
		  return null;
		end $$`)
	exec(t, s.pool, `create trigger wait before insert on soniq_waiters for each statement execute function wait()`)
	holder, p := produce(t, s.pool), produce(t, s.pool)
	holder.do(`select pg_advisory_lock(oid::bigint) from pg_database where datname = current_database()`)
	waiting := s.either(waiters.Outstanding, waiters.Proved)
	s.rest()
	waitUntil(t, s.pool, "the declaration, which waits", `
		select exists (select from pg_locks where locktype = 'advisory' and not granted
		  and database = (select oid from pg_database where datname = current_database()))`)
	waitUntil(t, s.pool, "the end of its own job", `select exists (select from soniq_jobs where status = 'done')`)
	p.do(`begin; ` + quickSQL)
	holder.do(`select pg_advisory_unlock_all()`)
	receive(t, "the worker, at its pace or asleep", waiting)
	p.do(`commit`)
	s.wakes(t)
}

// Between the list and a declaration that came after it, a producer would be
// read that nobody waits, and not be listed.
func TestWaiters_producerBetweenListAndDeclaration_hasNoPlace(t *testing.T) {
	t.Parallel()
	s := newSleeper(t, testdb.New(t))
	p := produce(t, s.pool)
	listed := s.at(waiters.Listed, func() { p.do(`begin; ` + quickSQL) })
	asleep := s.at(waiters.Proved, nil)
	s.rest()
	receive(t, "the list", listed)
	receive(t, "the sleep", asleep)
	p.do(`commit`)
	s.wakes(t)
}

// Its job was committed after the worker looked, and before it listed.
func TestWaiters_producerEndsBeforeTheList_lastFetchFindsItsJob(t *testing.T) {
	t.Parallel()
	s := newSleeper(t, testdb.New(t))
	p := produce(t, s.pool)
	p.do(`begin; ` + quickSQL)
	declared := s.at(waiters.Declared, func() { p.do(`commit`) })
	s.rest()
	receive(t, "the declaration", declared)
	s.wakes(t)
}

// The same between a fetch and the next list.
func TestWaiters_listedProducerEnds_lastFetchFindsItsJob(t *testing.T) {
	t.Parallel()
	s := newSleeper(t, testdb.New(t))
	p := produce(t, s.pool)
	p.do(`begin; ` + quickSQL)
	ended := s.at(waiters.Ended, nil)
	// The outcome of the worker's own job may be among those that it waits for.
	var end func()
	end = func() {
		if s.writers() == 1 {
			p.do(`commit`)
			return
		}
		s.at(waiters.Outstanding, end)
	}
	s.at(waiters.Outstanding, end)
	s.rest()
	receive(t, "the end of those that were listed", ended)
	s.wakes(t)
}

func TestWaiters_stricterIsolation_wakes(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"repeatable read", "serializable"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			s := newSleeper(t, testdb.New(t))
			p := produce(t, s.pool)
			p.do(`begin isolation level ` + level + `; select count(*) from soniq_waiters`)
			asleep := s.at(waiters.Proved, nil)
			s.rest()
			receive(t, "the sleep", asleep)
			p.do(quickSQL)
			p.do(`commit`)
			s.wakes(t)
		})
	}
}

func TestWaiters_preparedTransaction_isWaitedFor(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before the list", "after the list"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			s := newSleeper(t, testdb.New(t))
			p := produce(t, s.pool)
			name := uuid.NewString() // the whole server's
			prepare := func() { p.do(`prepare transaction '` + name + `'`) }
			p.do(`begin; ` + quickSQL)
			t.Cleanup(func() {
				if t.Failed() {
					_, _ = p.Exec(context.Background(), `rollback prepared '`+name+`'`)
				}
			})
			if when == "before the list" {
				prepare()
			}
			waiting := s.either(waiters.Outstanding, waiters.Proved)
			s.rest()
			receive(t, "the worker, at its pace or asleep", waiting)
			if when == "after the list" {
				prepare()
				// The session goes on, with another transaction.
				p.do(`begin; select pg_current_xact_id()`)
				receive(t, "the worker, again", s.either(waiters.Outstanding, waiters.Proved))
				receive(t, "the worker, once more", s.either(waiters.Outstanding, waiters.Proved))
				p.do(`commit`)
			}
			p.do(`commit prepared '` + name + `'`)
			s.wakes(t)
		})
	}
}

// Whoever was taken for dead, forgotten or silent was not told of jobs.
func TestWaiters_workerDidNotCount_looksWhenItKnows(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"taken for dead": `update soniq_workers set status = 'stopped'`,
		"forgotten":      `delete from soniq_workers`,
		"silent":         `update soniq_workers set last_heartbeat = now() - interval '6 minutes'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSleeper(t, testdb.New(t))
			asleep := s.at(waiters.Proved, nil)
			s.rest()
			receive(t, "the sleep", asleep)
			declared := s.at(waiters.Declared, nil)
			exec(t, s.pool, sql)
			exec(t, s.pool, quickSQL)
			if err := s.Beat(t.Context()); err != nil {
				t.Fatal(err)
			}
			receive(t, "another declaration", declared)
			s.wakes(t)
		})
	}
}

// The heartbeat that waits for the burial began when all was well.
func TestWaiters_buriedWhileItBeats_declaresItselfAnew(t *testing.T) {
	t.Parallel()
	s := newSleeper(t, testdb.New(t))
	asleep := s.at(waiters.Proved, nil)
	s.rest()
	receive(t, "the sleep", asleep)
	p := produce(t, s.pool)
	p.do(`begin; update soniq_workers set status = 'stopped'`)
	declared := s.at(waiters.Declared, nil)
	beaten := make(chan error, 1)
	go func() { beaten <- s.Beat(context.Background()) }()
	waitUntil(t, s.pool, "the heartbeat, which waits", `
		select exists (select from pg_stat_activity where datname = current_database()
		  and wait_event_type = 'Lock' and query like '%insert into public.soniq_workers%')`)
	p.do(`commit`)
	if err := receive(t, "the heartbeat", beaten); err != nil {
		t.Fatal(err)
	}
	receive(t, "another declaration", declared)
}

// The server that the listener comes back to may have forgotten what was last
// committed to the other one.
func TestWaiters_listenerReconnects_declaresItselfAnew(t *testing.T) {
	t.Parallel()
	s := newSleeper(t, testdb.New(t))
	asleep := s.at(waiters.Proved, nil)
	s.rest()
	receive(t, "the sleep", asleep)
	waitTrue(t, "trust in notifications", s.Hears)
	asleep = s.at(waiters.Proved, nil)
	exec(t, s.pool, `delete from soniq_waiters`)
	exec(t, s.pool, `select pg_terminate_backend(pid) from pg_stat_activity
		where datname = current_database() and application_name = 'soniq-listener'`)
	receive(t, "the sleep after it", asleep)
	waitTrue(t, "trust in notifications", s.Hears)
	exec(t, s.pool, quickSQL)
	s.wakes(t)
}

// A withdrawal that the network held up must not undo a later declaration.
func TestWaiters_lateWithdrawal_sparesWhatWasDeclaredSince(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	worker, queues := uuid.New(), []string{"a", "b"}
	rows := func() int { return queryValue[int](t, pool, `select count(*)::int from soniq_waiters`) }
	exec(t, pool, waiters.DeclareSQL, worker, queues, 1)
	exec(t, pool, waiters.DeclareSQL, worker, queues, 2)
	if exec(t, pool, waiters.WithdrawSQL, worker, queues, 1); rows() != 2 {
		t.Errorf("%d rows after a late withdrawal, want 2", rows())
	}
	exec(t, pool, waiters.DeclareSQL, worker, queues, 1) // late itself
	if exec(t, pool, waiters.WithdrawSQL, worker, queues, 1); rows() != 2 {
		t.Errorf("%d rows after a late declaration, want 2", rows())
	}
	if exec(t, pool, waiters.WithdrawSQL, worker, queues, 2); rows() != 0 {
		t.Errorf("%d rows after the withdrawal, want none", rows())
	}
}

const waitingQueuesSQL = `select coalesce(string_agg(queue, ' ' order by queue), '') = $1 from soniq_waiters`

// What stands at its bound is not waited for; the rest is.
func TestWaiters_queueAtItsBound_isNotWaitedFor(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, release := make(chan *engine.Job, 10), make(chan struct{})
	engine.HandleRaw(reg, "a", func(_ context.Context, job *engine.Job) (any, error) {
		started <- job
		if job.Queue == "narrow" {
			<-release
		}
		return nil, nil
	})
	w := start(t, pool, reg, engine.WorkerConfig{
		Queues: []string{"narrow", "wide"}, Concurrency: 5, QueueConcurrency: map[string]int{"narrow": 1},
	}, engine.Timing{Trust: -1, WithdrawAfter: time.Millisecond})
	defer w.Cancel()
	waitUntil(t, pool, "waiting for both", waitingQueuesSQL, "narrow wide")
	waitTrue(t, "trust in notifications", w.Hears)
	client := newClient(t, pool)
	first := enqueue(t, client, "a", nil, engine.Queue("narrow"))
	receive(t, "the first", started)
	waitUntil(t, pool, "waiting for the other", waitingQueuesSQL, "wide")
	second := enqueue(t, client, "a", nil, engine.Queue("narrow"))
	other := enqueue(t, client, "a", nil, engine.Queue("wide"))
	if job := receive(t, "the other queue's", started); job.ID != other {
		t.Errorf("job %s runs, want %s", job.ID, other)
	}
	release <- struct{}{}
	w.waitForJob(t, first)
	if job := receive(t, "the second", started); job.ID != second {
		t.Errorf("job %s runs, want %s", job.ID, second)
	}
	close(release)
	w.waitForJob(t, second)
	waitUntil(t, pool, "waiting for both again", waitingQueuesSQL, "narrow wide")
}

// A paused queue is waited for: producers must not have to know of a pause that
// ends while they insert.
func TestWaiters_pausedQueue_isWaitedFor(t *testing.T) {
	t.Parallel()
	s := newSleeper(t, testdb.New(t))
	client := newClient(t, s.pool)
	if _, err := client.PauseQueue(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
	asleep := s.at(waiters.Proved, nil)
	s.rest()
	receive(t, "the sleep", asleep)
	if n := s.rows(t); n != 1 {
		t.Errorf("%d queues are waited for, want the paused one", n)
	}
	exec(t, s.pool, quickSQL)
	if _, err := client.ResumeQueue(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
	s.wakes(t)
}

// A worker that drains takes no more jobs, and one that has ended neither.
func TestWaiters_stop_endsIt(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, release := slowJob(reg, "slow")
	w := start(t, pool, reg, engine.WorkerConfig{Queues: []string{"default", "other"}})
	waitUntil(t, pool, "waiting for both", waitingQueuesSQL, "default other")
	enqueue(t, newClient(t, pool), "slow", nil)
	receive(t, "the start", started)
	w.cancel()
	waitUntil(t, pool, "no waiting while it drains", waitingQueuesSQL, "")
	close(release)
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `insert into soniq_waiters values ('default', $1)`, w.ID())
	idle := start(t, pool, reg, engine.WorkerConfig{})
	waitUntil(t, pool, "waiting", `select count(*) = 2 from soniq_waiters where queue = 'default'`)
	if err := idle.stop(); err != nil {
		t.Fatal(err)
	}
	if left := queryValue[[]string](t, pool, `select array_agg(worker_id::text) from soniq_waiters`); !slices.Equal(left, []string{w.ID().String()}) {
		t.Errorf("rows are left of %q", left)
	}
}

// What a worker sent before it ended may arrive later.
func TestWaiters_leftovers_arePruned(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "a")
	w := start(t, pool, reg, engine.WorkerConfig{})
	waitUntil(t, pool, "waiting", waitingQueuesSQL, "default")
	python := addWorker(t, pool, nil, []string{"mail"}, 0, 0)
	stopped := addWorker(t, pool, nil, []string{"a"}, time.Hour, time.Hour)
	exec(t, pool, `update soniq_workers set status = 'stopped' where id = $1`, stopped)
	exec(t, pool, `insert into soniq_waiters values ('a', $1), ('b', $2)`, stopped, uuid.New())
	if err := w.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := queryValue[string](t, pool, `select string_agg(queue, ' ' order by queue) from soniq_waiters`); got != "default mail" {
		t.Errorf("waiting are %q, want the two that live, worker and Python's %s", got, python)
	}
}
