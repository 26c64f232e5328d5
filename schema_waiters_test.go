package soniq_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/testdb"
)

// comeWaiting registers a worker as Python does, which never says that it waits: it
// counts as waiting for these queues, or for any, as long as it lives.
func comeWaiting(t *testing.T, pool *pgxpool.Pool, queues ...string) uuid.UUID {
	t.Helper()
	id := uuid.New()
	if queues == nil {
		queues = []string{}
	}
	exec(t, pool, `insert into soniq_workers (id, hostname, pid, queues) values ($1, $1::uuid::text, 1, $2)`,
		pgx.QueryExecModeExec, id, queues)
	return id
}

func TestWaiters_whoeverServesTheQueue_isTold(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	l := listen(t, pool, "soniq_new_job")
	long := fmt.Sprintf("%03000d", 7)
	for name, c := range map[string]struct {
		sql  string // on worker $1, which came for mail and bulk
		want []string
	}{
		"came":                            {`select $1::uuid`, []string{"mail", "bulk"}},
		"withdrew one":                    {`delete from soniq_waiters where worker_id = $1 and queue = 'mail'`, []string{"bulk"}},
		"withdrew both":                   {`delete from soniq_waiters where worker_id = $1`, nil},
		"stopped":                         {`update soniq_workers set status = 'stopped', last_heartbeat = now() where id = $1`, nil},
		"stopping":                        {`update soniq_workers set status = 'stopping' where id = $1`, []string{"mail", "bulk"}},
		"forgotten":                       {`delete from soniq_workers where id = $1`, nil},
		"silent for 4 minutes":            {`update soniq_workers set last_heartbeat = now() - interval '4 minutes' where id = $1`, []string{"mail", "bulk"}},
		"silent for 6 minutes":            {`update soniq_workers set last_heartbeat = now() - interval '6 minutes' where id = $1`, nil},
		"serves another":                  {`update soniq_workers set queues = '{other}' where id = $1`, []string{"other"}},
		"serves all":                      {`update soniq_workers set queues = '{}' where id = $1`, []string{"mail", "bulk", "other", long}},
		"serves who knows what":           {`update soniq_workers set queues = null where id = $1`, []string{"mail", "bulk", "other", long}},
		"serves a long name, told of all": {`update soniq_workers set queues = array[lpad('7', 3000, '0')] where id = $1`, []string{"mail", "bulk", "other", long}},
		"stopped, and ours":               {`update soniq_workers set status = 'stopped', version = 'go/0.1.0' where id = $1`, nil},
		"queues that are no names":        {`update soniq_workers set queues = array[null, 'mail'] where id = $1`, []string{"mail"}},
	} {
		exec(t, pool, `delete from soniq_workers; delete from soniq_jobs`)
		worker := comeWaiting(t, pool, "mail", "bulk")
		exec(t, pool, c.sql, pgx.QueryExecModeExec, worker)
		exec(t, pool, `insert into soniq_jobs (id, job_name, args, queue) select gen_random_uuid(), 'n', '{}', q
			from unnest($1::text[]) q`, pgx.QueryExecModeExec, []string{"mail", "bulk", "other", long})
		if got := l.heard(t, pool); !sameSet(got, c.want) {
			t.Errorf("%s: inserts announced %.20q, want %.20q", name, got, c.want)
		}
		exec(t, pool, `update soniq_jobs set status = 'processing'`)
		exec(t, pool, `update soniq_jobs set status = 'queued'`)
		if got := l.heard(t, pool); !sameSet(got, c.want) {
			t.Errorf("%s: updates announced %.20q, want %.20q", name, got, c.want)
		}
	}
}

// Python's heartbeat doesn't look at the status.
func TestWaiters_pythonTakenForDead_waitsAgainWhenItBeats(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	worker := comeWaiting(t, pool, "mail")
	waiting := func() int {
		return queryValue[int](t, pool, `select count(*)::int from soniq_waiters where worker_id = $1`, worker)
	}
	exec(t, pool, `update soniq_workers set status = 'stopped' where id = $1`, worker)
	if n := waiting(); n != 0 {
		t.Errorf("%d rows of a worker that was taken for dead", n)
	}
	exec(t, pool, `update soniq_workers set last_heartbeat = clock_timestamp() where id = $1`, worker)
	if n := waiting(); n != 1 {
		t.Errorf("%d rows of a worker that beats, want 1", n)
	}
	exec(t, pool, `update soniq_workers set status = 'active' where id = $1`, worker)
	if n := waiting(); n != 1 {
		t.Errorf("%d rows of a worker that is active again, want 1", n)
	}
}

// Workers that were there before the table are found by the setup.
func TestWaiters_setUpUnderALiveWorker_isToldOfAll(t *testing.T) {
	t.Parallel()
	pool := pythonPool(t)
	exec(t, pool, `insert into soniq_workers (id, hostname, pid, queues, status) values
		(gen_random_uuid(), 'a', 1, '{mail}', 'active'), (gen_random_uuid(), 'b', 1, '{}', 'stopped')`)
	setup(t, pool)
	l := listen(t, pool, "soniq_new_job")
	exec(t, pool, `insert into soniq_jobs (id, job_name, args, queue) values
		(gen_random_uuid(), 'n', '{}', 'mail'), (gen_random_uuid(), 'n', '{}', 'bulk')`)
	if got := l.heard(t, pool); !sameSet(got, []string{"mail"}) {
		t.Errorf("announced %q, want mail", got)
	}
}

// Whatever is wrong with soniq_waiters, jobs are inserted and announced.
func TestWaiters_cantBeRead_isTakenForGranted(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"no table":         `drop table soniq_waiters cascade`,
		"another table":    `alter table soniq_waiters rename queue to q`,
		"no function":      `drop function soniq_waiting`,
		"function fails":   `create or replace function soniq_waiting(queue text) returns boolean language plpgsql volatile as $$ begin raise 'no'; end $$`,
		"somebody's lock":  `begin; lock table soniq_waiters in access exclusive mode`,
		"workers' columns": `alter table soniq_workers rename last_heartbeat to h`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			comeWaiting(t, pool)
			other, conn := acquire(t, pool), acquire(t, pool)
			exec(t, other, sql)
			l := listen(t, pool, "soniq_new_job")
			exec(t, conn, `set lock_timeout = '50ms'`)
			exec(t, conn, insertJobSQL)
			if got := l.heard(t, pool); !sameSet(got, []string{"default"}) {
				t.Errorf("insert announced %q", got)
			}
			exec(t, conn, `update soniq_jobs set status = 'processing'`)
			exec(t, conn, `update soniq_jobs set status = 'queued'`)
			if got := l.heard(t, pool); !sameSet(got, []string{"default"}) {
				t.Errorf("update announced %q", got)
			}
			if name == "somebody's lock" {
				exec(t, other, `rollback`)
			}
		})
	}
}

// acquire takes a connection until the end of the test.
func acquire(t *testing.T, pool *pgxpool.Pool) *pgxpool.Conn {
	t.Helper()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Release)
	return conn
}

// An INSERT may take long, and a worker begin to wait meanwhile. The trigger
// reads soniq_waiters when the rows are there: were it STABLE, it would read it as it
// was when the INSERT began.
func TestWaiters_declaredDuringAnInsert_isSeen(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"insert": `insert into soniq_jobs (id, job_name, args)
			select gen_random_uuid(), 'n', '{}' from (select pg_advisory_lock($1)) l`,
		"update": `update soniq_jobs set status = 'queued' from (select pg_advisory_lock($1)) l where status = 'processing'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			exec(t, pool, `insert into soniq_jobs (id, job_name, args, status) values (gen_random_uuid(), 'n', '{}', 'processing')`)
			lock := queryValue[int64](t, pool, `select oid::bigint from pg_database where datname = current_database()`)
			holder := acquire(t, pool)
			exec(t, holder, `select pg_advisory_lock($1)`, lock)
			l := listen(t, pool, "soniq_new_job")
			done := make(chan error, 1)
			go func() {
				_, err := pool.Exec(context.Background(), sql, lock)
				done <- err
			}()
			await(t, pool, "the statement waits", `
				select exists (select from pg_locks where locktype = 'advisory' and not granted
				  and database = (select oid from pg_database where datname = current_database()))`)
			comeWaiting(t, pool)
			exec(t, holder, `select pg_advisory_unlock($1)`, lock)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if got := l.heard(t, pool); !sameSet(got, []string{"default"}) {
				t.Errorf("announced %q", got)
			}
		})
	}
}

// A stricter transaction reads soniq_waiters as it was when it began.
func TestWaiters_stricterIsolation_alwaysAnnounces(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	l := listen(t, pool, "soniq_new_job")
	for level, want := range map[string][]string{
		"read committed": nil, "repeatable read": {"default"}, "serializable": {"default"},
	} {
		exec(t, pool, `begin isolation level `+level+`; `+insertJobSQL+`; commit`)
		if got := l.heard(t, pool); !sameSet(got, want) {
			t.Errorf("%s: insert announced %q, want %q", level, got, want)
		}
		exec(t, pool, `update soniq_jobs set status = 'processing'`)
		exec(t, pool, `begin isolation level `+level+`; update soniq_jobs set status = 'queued'; commit`)
		if got := l.heard(t, pool); !sameSet(got, want) {
			t.Errorf("%s: update announced %q, want %q", level, got, want)
		}
	}
}

// An INSERT that wakes a worker calls its trigger's function and no other: each has a search_path of
// its own to set.
func TestWaiters_insertThatWakes_callsOneFunction(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	comeWaiting(t, pool)
	conn := acquire(t, pool)
	l := listen(t, pool, "soniq_new_job")
	exec(t, conn, `set track_functions = 'all'`)
	exec(t, conn, `begin`)
	exec(t, conn, insertJobSQL)
	calls := queryColumn[string](t, conn, `select funcname || ' ' || calls from pg_stat_xact_user_functions where funcname like 'soniq%'`)
	exec(t, conn, `commit`)
	if !slices.Equal(calls, []string{"soniq_jobs_inserted 1"}) {
		t.Errorf("it called %q", calls)
	}
	if got := l.heard(t, pool); !sameSet(got, []string{"default"}) {
		t.Errorf("it announced %q", got)
	}
}
