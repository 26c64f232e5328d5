package engine_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/testdb"
)

// oldWaiters is n waiters whose workers are gone. They come apart from
// oldRows: a worker that goes looks through all of it.
func oldWaiters(t *testing.T, pool *pgxpool.Pool, n int) {
	t.Helper()
	exec(t, pool, `insert into soniq_waiters (queue, worker_id) select 'q' || n, gen_random_uuid() from generate_series(1, $1) n`, n)
}

// oldRows is n rows to be pruned of each table but that, behind 2,500 that are to stay.
func oldRows(t *testing.T, pool *pgxpool.Pool, n int) {
	t.Helper()
	for _, sql := range []string{
		`insert into soniq_workers (id, hostname, pid, last_heartbeat, status, version)
		select gen_random_uuid(), 'h' || n, n, case when n <= 2500 then now() else now() - interval '31 days' end, 'stopped', 'go/0.1.0' from generate_series(1, $1 + 2500) n`,
		`insert into soniq_task_registry (task_name, worker_id, last_seen_at)
		select repeat('x', 100) || n, 'w', case when n <= 2500 then timestamptz 'infinity' else now() - interval '31 days' end from generate_series(1, $1 + 2500) n`,
		`insert into soniq_leader_tasks (name, begun_at)
		select 'c' || n, case when n <= 2500 then timestamptz 'infinity' else now() - interval '31 days' end from generate_series(1, $1 + 2500) n`,
		`insert into soniq_queues (name, paused_at)
		select 'q' || n, case when n <= 2500 then now() end from generate_series(1, $1 + 2500) n`,
		`insert into soniq_jobs (id, job_name, args, status, expires_at)
		select gen_random_uuid(), 'j', '{}', 'done', case when n <= 2500 then now() + interval '1 day' else now() - interval '1 day' end from generate_series(1, $1 + 2500) n`,
	} {
		exec(t, pool, sql, n)
	}
}

const rowsLeft = `
	select (select count(*) from soniq_workers where hostname like 'h%') || ' ' || (select count(*) from soniq_task_registry) || ' ' ||
	  (select count(*) from soniq_leader_tasks where name like 'c%' and begun_at <> now()) || ' ' || (select count(*) from soniq_queues) || ' ' ||
	  (select count(*) from soniq_waiters) || ' ' || (select count(*) from soniq_jobs)`

// idle is a worker that does not run, so that nothing but the test prunes.
func idle(t *testing.T, pool *pgxpool.Pool) *engine.Worker {
	t.Helper()
	reg := engine.NewRegistry()
	noop(reg, "a")
	w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// However much there is, one pass takes it all, whatever else is in the tables.
func TestWorker_prune_onePass_takesAllThereIs(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	oldRows(t, pool, 22_000)
	w := idle(t, pool)
	if err := errors.Join(w.Prune(t.Context()), w.Expire(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got := queryValue[string](t, pool, rowsLeft); got != "2500 2500 2500 2500 0 2500" {
		t.Errorf("left: %s", got)
	}
	oldWaiters(t, pool, 22_000)
	if err := w.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := queryValue[int](t, pool, `select count(*) from soniq_waiters`); n != 0 {
		t.Errorf("%d waiters are left", n)
	}
}

// A row that something of the application's refers to stays, and is told of; no
// other does.
func TestWorker_prune_aRowThatCantBeDeleted_keepsNoOther(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	oldRows(t, pool, 3000)
	exec(t, pool, `
		create table mine (worker uuid references soniq_workers, queue text references soniq_queues, chore text references soniq_leader_tasks, job uuid references soniq_jobs)`)
	exec(t, pool, `
		insert into mine
		select (select id from soniq_workers where hostname = 'h5000'), 'q5000', 'c5000', (select id from soniq_jobs where expires_at < now() limit 1)`)
	w := idle(t, pool)
	err := w.Prune(t.Context())
	for _, want := range []string{"prune workers: 1 rows", "prune leader tasks: 1 rows", "prune queues: 1 rows"} {
		if err == nil || !strings.Contains(err.Error(), want+" can't be deleted: ERROR: ") {
			t.Errorf("%v lacks %q", err, want)
		}
	}
	// Of a job the log tells, once.
	if err := w.Expire(t.Context()); err != nil {
		t.Error(err)
	}
	if got := queryValue[string](t, pool, rowsLeft); got != "2501 2500 2501 2501 0 2501" {
		t.Errorf("left: %s", got)
	}
}

func TestWorker_prune_endsWithItsContext(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	oldRows(t, pool, 100)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := idle(t, pool).Prune(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got := queryValue[string](t, pool, rowsLeft); got != "2600 2600 2600 2600 0 2600" {
		t.Errorf("left: %s", got)
	}
}
