package soniq_test

import (
	"context"
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/crypto/blake2b"
	"golang.org/x/sync/errgroup"

	"soniq"
	"soniq/internal/testdb"
)

var allMigrations = []string{
	"0001_core", "0002_dead_letter", "0150_soniq_go", "0151_soniq_go_control", "0152_soniq_go_errors",
	"0153_soniq_go_operations", "0154_soniq_go_hooks", "0155_soniq_go_hooks_wake",
	"0156_soniq_go_dead_letter_operation", "0157_soniq_go_hunger", "0160_soniq_go_dead_letter_counts",
	"0161_soniq_go_trust", "0162_soniq_go_long_names", "0163_soniq_go_audit_secrets", "0164_soniq_go_hook_status",
	"0165_soniq_go_waiters", "0166_soniq_go_leader_tasks", "0167_soniq_go_incarnation", "0168_soniq_go_comment", "0170_soniq_go_kept_outcome", "0174_soniq_go_epoch", "0175_soniq_go_incarnations", "0176_soniq_go_feed", "0178_soniq_go_operation_heartbeat", "0179_soniq_go_hook_health", "0183_soniq_go_serializable", "0186_soniq_go_grant_options", "0189_soniq_go_death_cost", "0190_soniq_go_audit_sequence", "0192_soniq_go_max_attempts", "0195_soniq_go_conflicts", "0198_soniq_go_epoch_unread", "0220_soniq_go_closed", "0221_soniq_go_open", "0222_soniq_go_dead_index", "0223_soniq_go_single_records", "0230_soniq_go_leader_result", "0240_soniq_go_trace_context", "0251_soniq_go_short_triggers", "0260_soniq_go_job_stats",
}

// migrations010 is how many of them 0.1.0 had.
const migrations010 = 11

func migrationRows(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	return queryColumn[string](t, pool, `select version || ' ' || name from soniq_migrations order by version`)
}

func TestSetup_emptyDatabase_recordsEachMigration(t *testing.T) {
	t.Parallel()
	pool := emptyPool(t)
	if got := setup(t, pool).Applied; !slices.Equal(got, allMigrations) {
		t.Errorf("applied %q, want %q", got, allMigrations)
	}
	var want []string
	for _, m := range allMigrations {
		want = append(want, strings.Replace(m, "_", " ", 1))
	}
	if got := migrationRows(t, pool); !slices.Equal(got, want) {
		t.Errorf("soniq_migrations has %q, want %q", got, want)
	}
	if age := queryValue[float64](t, pool, `
		select max(abs(extract(epoch from now() at time zone 'utc' - applied_at)))::float8 from soniq_migrations`); age > 60 {
		t.Errorf("applied_at is %.0f s off, want UTC", age)
	}
	if n := queryValue[int](t, pool, advisoryLocksSQL); n != 0 {
		t.Errorf("%d advisory locks are left on the pool's sessions", n)
	}
}

const advisoryLocksSQL = `
select count(*)::int
from pg_locks l
join pg_database d on d.oid = l.database
where l.locktype = 'advisory' and d.datname = current_database()`

// A second Setup reads what is recorded and no more: it is safe at every start
// of every worker, whatever holds the tables.
func TestSetup_again_needsNoLockOnTheTables(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	exec(t, tx, `lock table soniq_jobs, soniq_dead_letter_jobs, soniq_workers in access exclusive mode`)
	if got := setup(t, pool).Applied; len(got) != 0 {
		t.Errorf("applied %q, want nothing", got)
	}
}

func TestSetup_fourAtOnce_eachMigrationOnce(t *testing.T) {
	t.Parallel()
	for range 3 {
		pool := emptyPool(t)
		results := make([]soniq.SetupResult, 4)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var g errgroup.Group
		for i := range results {
			g.Go(func() (err error) {
				results[i], err = soniq.Setup(ctx, pool, soniq.Config{})
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		var applied []string
		for _, r := range results {
			applied = append(applied, r.Applied...)
		}
		// They take turns.
		if slices.Sort(applied); !slices.Equal(applied, slices.Sorted(slices.Values(allMigrations))) {
			t.Errorf("together they applied %q, want %q", applied, allMigrations)
		}
	}
}

// pythonMigrationsLock computes Python's advisory key as Python does.
func pythonMigrationsLock(t *testing.T) int64 {
	t.Helper()
	h, err := blake2b.New(8, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.Write([]byte("soniq.leadership.v1/soniq.migrations"))
	return int64(binary.BigEndian.Uint64(h.Sum(nil)))
}

func TestSetup_whilePythonMigrates_waitsAsLongAsItsContext(t *testing.T) {
	t.Parallel()
	url := testdb.EmptyURL(t)
	// Timeouts that are meant for quick statements don't end the wait.
	exec(t, openPool(t, url, ""), `
		do $$ begin execute format('alter database %I set lock_timeout = 10', current_database()); end $$`)
	pool := openPool(t, url, "")
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	exec(t, conn, `select pg_advisory_lock($1)`, pythonMigrationsLock(t))

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := soniq.Setup(ctx, pool, soniq.Config{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Setup under Python's lock: %v, want the context's deadline", err)
	}
	if !queryValue[bool](t, conn, `select to_regclass('soniq_migrations') is null`) {
		t.Error("it made a table without the lock")
	}
	exec(t, conn, `select pg_advisory_unlock($1)`, pythonMigrationsLock(t))
	setup(t, pool)
}

// Python's setup makes soniq_migrations before it takes the lock. Ours waits for that to be committed, and then
// fails.
func TestSetup_tableIsMadeAtTheSameTime_beginsAnew(t *testing.T) {
	t.Parallel()
	pool := emptyPool(t)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	exec(t, tx, `
		create table soniq_migrations (
		  id serial primary key,
		  version varchar(255) not null unique,
		  name text not null,
		  applied_at timestamp default now(),
		  checksum text
		)`)
	done := setupMeanwhile(pool)
	await(t, pool, "Setup waits for the other's table", `
		select exists (
		  select from pg_stat_activity
		  where datname = current_database()
		    and wait_event_type = 'Lock'
		    and query like '%create table public.soniq_migrations%'
		)`)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := soniq.Check(t.Context(), pool, soniq.Config{}); err != nil {
		t.Error(err)
	}
}

// Another program has a table that ours needs, and then waits for one that ours
// has.
func TestSetup_deadlock_beginsAnew(t *testing.T) {
	t.Parallel()
	pool := pythonPool(t)
	exec(t, pool, `
		create table if not exists soniq_migrations (
		  id serial primary key, version varchar(255) not null unique, name text not null,
		  applied_at timestamp default now(), checksum text
		)`)
	exec(t, pool, `create index if not exists idx_soniq_migrations_version on soniq_migrations (version)`)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	// Ours looks for a deadlock first, after a second.
	exec(t, tx, `set local deadlock_timeout = '20s'`)
	exec(t, tx, `lock table soniq_workers in access exclusive mode`)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var g errgroup.Group
	g.Go(func() error {
		_, err := soniq.Setup(ctx, pool, soniq.Config{})
		return err
	})
	await(t, pool, "Setup waits for the table", `
		select exists (
		  select from pg_stat_activity
		  where datname = current_database()
		    and wait_event_type = 'Lock'
		    and query like '%public.soniq_workers%'
		)`)
	if _, err := tx.Exec(ctx, `insert into soniq_migrations (version, name) values ('9000', 'another')`); err != nil {
		t.Logf("the other one was ended: %v", err)
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := soniq.Check(t.Context(), pool, soniq.Config{}); err != nil {
		t.Error(err)
	}
}

func TestSetup_nameOfItsTableIsTaken_givesUp(t *testing.T) {
	t.Parallel()
	pool := emptyPool(t)
	exec(t, pool, `create type soniq_migrations as enum ('taken')`)
	_, err := soniq.Setup(t.Context(), pool, soniq.Config{})
	if err == nil || !strings.Contains(err.Error(), "create soniq_migrations: ") {
		t.Errorf("got %v, want an error that names the table", err)
	}
}

func TestSetup_failure_changesNothing(t *testing.T) {
	t.Parallel()
	pool := emptyPool(t)
	exec(t, pool, `create view soniq_jobs as select 1 as id`)
	_, err := soniq.Setup(t.Context(), pool, soniq.Config{})
	if err == nil || !strings.Contains(err.Error(), "set up schema: apply 0001_core: ") {
		t.Errorf("got %v, want an error that names the step", err)
	}
	if got := queryColumn[string](t, pool, `
		select relname from pg_class where relname like '%soniq%' and relkind in ('r', 'v', 'i', 'S')`); !slices.Equal(got, []string{"soniq_jobs"}) {
		t.Errorf("left behind: %q", got)
	}
	exec(t, pool, `drop view soniq_jobs`)
	if got := setup(t, pool).Applied; !slices.Equal(got, allMigrations) {
		t.Errorf("afterwards applied %q, want %q", got, allMigrations)
	}
}

// shapesSQL describes everything of Soniq's in the current schema but its
// indexes, one line each.
const shapesSQL = `
select line from (
  select format('column %s.%s %s %s %s default %s',
    table_name, column_name, data_type, udt_name, is_nullable, column_default) as line
  from information_schema.columns
  where table_schema = current_schema() and table_name like 'soniq%'
  union all
  select format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
  from pg_constraint
  where connamespace = current_schema()::regnamespace and conrelid::regclass::text like 'soniq%'
  union all
  select format('trigger %s %s', tgrelid::regclass, pg_get_triggerdef(oid))
  from pg_trigger
  where not tgisinternal
  union all
  select format('function %s', pg_get_functiondef(oid))
  from pg_proc
  where pronamespace = current_schema()::regnamespace
) l
order by line`

const indexesSQL = `
select pg_get_indexdef(indexrelid)
from pg_index
where indrelid = $1::regclass
order by 1`

// difference lists the lines that only one of a and b has.
func difference(a, b []string) (lines []string) {
	for _, l := range a {
		if !slices.Contains(b, l) {
			lines = append(lines, "- "+l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			lines = append(lines, "+ "+l)
		}
	}
	return lines
}

func TestSetup_pythonsDatabase_becomesTheSameAsAnEmptyOne(t *testing.T) {
	t.Parallel()
	python, empty := pythonPool(t), emptyPool(t)
	if got, want := setup(t, python).Applied, allMigrations[2:]; !slices.Equal(got, want) {
		t.Errorf("applied %q, want %q", got, want)
	}
	setup(t, empty)
	want := queryColumn[string](t, empty, shapesSQL)
	if len(want) < 80 {
		t.Fatalf("only %d lines describe the schema", len(want))
	}
	if d := difference(want, queryColumn[string](t, python, shapesSQL)); !slices.Equal(d, []string{"+ " + workerKey}) {
		t.Errorf("the two differ:\n%s", strings.Join(d, "\n"))
	}
}

// workerKey is Python's, as shapesSQL describes it.
const workerKey = "constraint soniq_jobs soniq_jobs_worker_id_fkey " +
	"FOREIGN KEY (worker_id) REFERENCES soniq_workers(id) ON DELETE SET NULL"

// What Python's tables hold, but for the columns that are ours.
const pythonRowsSQL = `
select to_jsonb(j) - '{claim_token,replay_of,cancel_requested_at,errors,trace_context}'::text[] from soniq_jobs j
union all
select to_jsonb(w) - '{lock_key,backend_pid,tenure,incarnation}'::text[] from soniq_workers w
union all
select to_jsonb(r) from soniq_task_registry r
union all
select to_jsonb(d) - '{state,replay_job_id,replay_of,moved_xid,moved_epoch,closed,error_kind,error_type,error_code,decided_by,whole_job_name,whole_queue,
  fingerprint,args_hash,unique_job,dedup_key,producer_id,worker_id,scheduled_at,errors,trace_context}'::text[]
from soniq_dead_letter_jobs d
union all
select to_jsonb(m) from soniq_migrations m where m.version < '0150'
order by 1`

const pythonFillSQL = `
insert into soniq_workers (id, hostname, pid) values ('00000000-0000-0000-0000-000000000001', 'host', 1);
insert into soniq_jobs (id, job_name, args, status, worker_id, queue, priority, max_attempts, created_at)
values
  (gen_random_uuid(), 'a.queued', '{"x": 1.0}', 'queued', null, 'mail', 5, 4, now()),
  (gen_random_uuid(), 'a.nulls', '{}', 'queued', null, null, null, null, null),
  (gen_random_uuid(), 'a.running', '{}', 'processing', '00000000-0000-0000-0000-000000000001', 'mail', 5, 4, now()),
  (gen_random_uuid(), 'a.done', '{}', 'done', null, 'mail', 5, 4, now()),
  (gen_random_uuid(), 'a.cancelled', '{}', 'cancelled', null, 'mail', 5, 4, now());
insert into soniq_task_registry (task_name, worker_id, last_seen_at) values ('a.queued', 'w', now());
insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, last_error,
  dead_letter_reason, original_created_at, moved_to_dead_letter_at, tags)
values (gen_random_uuid(), 'a.dead', '[1]', 'mail', 5, 4, 4, 'boom', 'max_retries_exceeded', now(), now(), '"{}"');
insert into soniq_migrations (version, name) values ('0003', 'scheduler'), ('9001002', 'someone''s plugin');`

func TestSetup_pythonsRowsAndIndexes_survive(t *testing.T) {
	t.Parallel()
	pool := pythonPool(t)
	exec(t, pool, pythonFillSQL)
	tables := []string{"soniq_jobs", "soniq_workers", "soniq_task_registry", "soniq_dead_letter_jobs"}
	indexes := map[string][]string{}
	for _, table := range tables {
		indexes[table] = queryColumn[string](t, pool, indexesSQL, table)
	}
	rows := queryColumn[map[string]any](t, pool, pythonRowsSQL)

	setup(t, pool)
	if got := queryColumn[map[string]any](t, pool, pythonRowsSQL); !reflect.DeepEqual(got, rows) {
		t.Errorf("rows were %v, are %v", rows, got)
	}
	for _, table := range tables {
		for _, line := range difference(indexes[table], queryColumn[string](t, pool, indexesSQL, table)) {
			if line[0] == '-' {
				t.Errorf("index is gone: %s", line)
			}
		}
	}
	if got := queryColumn[string](t, pool, `select state from soniq_dead_letter_jobs where moved_xid is null`); !slices.Equal(got, []string{"dead"}) {
		t.Errorf("Python's dead letter has the states %q and no cursor, want dead", got)
	}
}

// pythonWrites are the statements with which Python Soniq enqueues, claims,
// finishes, buries and replays.
var pythonWrites = []string{
	`insert into soniq_jobs (id, job_name, args, args_hash, max_attempts, priority, queue, unique_job, scheduled_at, producer_id)
	 values ('00000000-0000-0000-0000-00000000000a', 'p.plain', '{}', null, 4, 100, 'default', false, null, 'p')`,
	`insert into soniq_jobs (id, job_name, args, args_hash, max_attempts, priority, queue, unique_job, scheduled_at, producer_id)
	 values (gen_random_uuid(), 'p.unique', '{}', 'h', 4, 100, 'default', true, null, 'p')
	 on conflict (job_name, args_hash) where status = 'queued' and unique_job = true
	 do update set unique_job = excluded.unique_job returning id`,
	`insert into soniq_jobs (id, job_name, args, args_hash, max_attempts, priority, queue, unique_job, dedup_key, scheduled_at, producer_id)
	 values (gen_random_uuid(), 'p.dedup', '{}', null, 4, 100, 'default', false, 'k', null, 'p')
	 on conflict (dedup_key) where status = 'queued' and dedup_key is not null
	 do update set dedup_key = excluded.dedup_key returning id`,
	`insert into soniq_workers (id, hostname, pid, queues, concurrency, status)
	 values (gen_random_uuid(), 'p', 7, '{}', 4, 'active')
	 on conflict (hostname, pid) do update set status = 'active', last_heartbeat = now()`,
	`update soniq_jobs set status = 'processing', attempts = attempts + 1, updated_at = now(),
	   worker_id = (select id from soniq_workers where hostname = 'p') where job_name = 'p.plain'`,
	`insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, last_error,
	   dead_letter_reason, original_created_at, moved_to_dead_letter_at, tags)
	 select id, job_name, args, queue, priority, max_attempts, attempts, 'e', 'timeout', created_at, now(), null
	 from soniq_jobs where job_name = 'p.plain'
	 on conflict (id) do update set moved_to_dead_letter_at = now()`,
	`delete from soniq_jobs where job_name = 'p.plain'`,
	`insert into soniq_jobs (id, job_name, args, max_attempts, priority, queue, attempts, status, scheduled_at)
	 select gen_random_uuid(), job_name, args, max_attempts, priority, queue, 0, 'queued', now() from soniq_dead_letter_jobs
	 where job_name = 'p.plain'`,
	`update soniq_dead_letter_jobs set resurrection_count = resurrection_count + 1, last_resurrection_at = now()`,
	`update soniq_jobs set status = 'done', result = '1', expires_at = now() where job_name = 'p.plain'`,
}

func TestSetup_pythonsWrites_goOnWorking(t *testing.T) {
	t.Parallel()
	for name, pool := range map[string]*pgxpool.Pool{"Python's database": pythonPool(t), "an empty one": emptyPool(t)} {
		setup(t, pool)
		for range 2 { // the second time each ON CONFLICT has a conflict
			for _, sql := range pythonWrites {
				exec(t, pool, sql)
			}
			exec(t, pool, `delete from soniq_jobs where job_name = 'p.plain'`)
		}
		if n := queryValue[int](t, pool, `select count(*)::int from soniq_jobs`); n != 2 {
			t.Errorf("%s: %d jobs are left, want the unique and the dedup one", name, n)
		}
	}
}

// Python's real setup finds its migrations recorded and runs none of this.
func TestSetup_pythonsSetupAfterwards_changesNothingOfOurs(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	before := queryColumn[string](t, pool, shapesSQL)
	rows := migrationRows(t, pool)
	exec(t, pool, pythonSchema)
	if d := difference(before, queryColumn[string](t, pool, shapesSQL)); !slices.Equal(d, []string{"+ " + workerKey}) {
		t.Errorf("changed:\n%s", strings.Join(d, "\n"))
	}
	if got := migrationRows(t, pool); !slices.Equal(got, rows) {
		t.Errorf("soniq_migrations has %q, want %q", got, rows)
	}
}

func TestMigrations_runTwice_changesNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	before := slices.Concat(queryColumn[string](t, pool, shapesSQL), queryColumn[string](t, pool, indexesSQL, "soniq_jobs"))
	exec(t, pool, `delete from soniq_migrations`)
	if got := setup(t, pool).Applied; !slices.Equal(got, allMigrations) {
		t.Errorf("applied %q", got)
	}
	after := slices.Concat(queryColumn[string](t, pool, shapesSQL), queryColumn[string](t, pool, indexesSQL, "soniq_jobs"))
	if d := difference(before, after); len(d) > 0 {
		t.Errorf("changed:\n%s", strings.Join(d, "\n"))
	}
}

// Two installations in one database, the second under a name that needs
// quotes: each has functions of its own that use its own tables, whatever the
// session's search_path.
func TestSetup_otherSchema_functionsUseItsTables(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"Job's Data", `say "public."`, "public.public", "order", "user", "$1 a$", "'", "--", "é;", `back\slash %I`, " pg_catalog",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := testdb.EmptyURL(t)
			public := openPool(t, url, "")
			schema := pgx.Identifier{name}.Sanitize()
			exec(t, public, `create schema `+schema)
			other := openPool(t, url, schema)
			setup(t, public)
			if got := setup(t, other, name).Applied; !slices.Equal(got, allMigrations) {
				t.Fatalf("in the other schema applied %q, want %q", got, allMigrations)
			}
			if again := setup(t, other, name); len(again.Applied)+len(again.Mended)+len(again.Findings) != 0 {
				t.Errorf("a second setup: %+v", again)
			}
			// The name is what counts, whatever the search_path says.
			both := openPool(t, url, `"$user", public`)
			exec(t, both, `do $$ begin execute format('create schema %I', current_user); end $$`)
			if got := setup(t, both, name).Applied; len(got) != 0 {
				t.Errorf("from another search_path applied %q", got)
			}

			comeWaiting(t, other)
			worker := comeWaiting(t, other, "mail")
			l := listen(t, other, channel(t, name, "soniq_new_job"))
			publicListener := listen(t, public, "soniq_new_job")
			comeWaiting(t, public)
			dead := newDeadLetter(t, other, nil)
			job := newReplay(t, other, dead)
			// From a session whose path leads to the other tables, or to none.
			for _, path := range []string{"public", `""`} {
				caller := openPool(t, url, path)
				exec(t, caller, `insert into `+schema+`.soniq_jobs (id, job_name, args, queue) values (gen_random_uuid(), 'n', '{}', 'mail')`)
				if got := l.heard(t, other); !sameSet(got, []string{"mail"}) {
					t.Errorf("search_path %s: an insert announced %q", path, got)
				}
			}
			// Two Soniqs of one database don't hear each other.
			exec(t, public, `insert into public.soniq_jobs (id, job_name, args) values (gen_random_uuid(), 'n', '{}')`)
			if got := publicListener.heard(t, public); !sameSet(got, []string{"default"}) {
				t.Errorf("public's channel heard %q", got)
			}
			if got := l.heard(t, other); len(got) != 0 {
				t.Errorf("the other schema's channel heard %q", got)
			}
			exec(t, public, `delete from public.soniq_jobs; delete from public.soniq_workers`)
			exec(t, public, `update `+schema+`.soniq_jobs set status = 'done' where id = $1`, job)
			if got := state(t, other, dead); got != "resolved" {
				t.Errorf("the other schema's dead letter is %s, want resolved", got)
			}
			exec(t, public, `delete from `+schema+`.soniq_workers where id = $1`, worker)
			if n := queryValue[int](t, public, `select (select count(*) from soniq_jobs) + (select count(*) from soniq_waiters)`); n != 0 {
				t.Errorf("%d rows went to the wrong schema", n)
			}
			if n := queryValue[int](t, other, `select count(*)::int from soniq_waiters where worker_id = $1`, worker); n != 0 {
				t.Error("a worker that is gone waits")
			}
		})
	}
}

// Nothing that comes after such a name would be what it seems.
func TestSetup_schemaThatCantBeWritten_isRefused(t *testing.T) {
	t.Parallel()
	url := testdb.EmptyURL(t)
	pool := openPool(t, url, `"a$$b"`)
	exec(t, pool, `create schema "a$$b"`)
	for name, why := range map[string]string{
		"a$$b": "it contains $$", "é\n;": "it contains a line break", "pg_app": "PostgreSQL reserves it", "pg_catalog": "PostgreSQL reserves it",
		"information_schema": "PostgreSQL reserves it", strings.Repeat("n", 64): "it has 64 bytes", "a\x00": "not valid UTF-8", "\xff": "not valid UTF-8",
	} {
		for what, f := range map[string]func(soniq.Config) error{
			"Setup":       func(cfg soniq.Config) error { _, err := soniq.Setup(t.Context(), pool, cfg); return err },
			"Check":       func(cfg soniq.Config) error { return soniq.Check(t.Context(), pool, cfg) },
			"MigrateDown": func(cfg soniq.Config) error { _, err := soniq.MigrateDown(t.Context(), pool, cfg, "0002"); return err },
			"Inspect":     func(cfg soniq.Config) error { _, err := soniq.Inspect(t.Context(), pool, cfg); return err },
			"Optimize":    func(cfg soniq.Config) error { _, err := soniq.Optimize(t.Context(), pool, cfg); return err },
		} {
			if err := f(soniq.Config{Schema: name}); !errors.Is(err, soniq.ErrSchemaName) || !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s of schema %q: %v", what, name, err)
			}
		}
	}
	if n := queryValue[int](t, pool, `select count(*)::int from pg_class where relname like 'soniq%'`); n != 0 {
		t.Errorf("%d tables were made", n)
	}
	// A path to nowhere is as good as any.
	if got := setup(t, openPool(t, url, `nowhere, pg_temp`)).Applied; !slices.Equal(got, allMigrations) {
		t.Errorf("under another search_path applied %q", got)
	}
}

// pythonsOwn are what Optimize drops of a database that Python Soniq made, in their order.
var pythonsOwn = []string{
	"idx_soniq_dead_letter_jobs_job_name",
	"idx_soniq_dead_letter_jobs_queue",
	"idx_soniq_dead_letter_jobs_reason",
	"idx_soniq_jobs_args_hash",
	"idx_soniq_jobs_queue_status",
	"idx_soniq_jobs_queue_status_priority",
	"idx_soniq_jobs_scheduled_at",
	"idx_soniq_jobs_status_priority",
	"idx_soniq_jobs_worker_id",
	"soniq_jobs_worker_id_fkey",
}

func TestOptimize_pythonsDatabase_dropsItsTenAndNoMore(t *testing.T) {
	t.Parallel()
	python, ours := pythonPool(t), testdb.New(t)
	setup(t, python)
	dropped, err := soniq.Optimize(t.Context(), python, soniq.Config{})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(dropped)
	if !slices.Equal(dropped, pythonsOwn) {
		t.Errorf("dropped %q, want %q", dropped, pythonsOwn)
	}
	// The arbiters and expires_at are among the rest.
	for _, table := range []string{"soniq_jobs", "soniq_dead_letter_jobs"} {
		rest := queryColumn[string](t, python, indexesSQL, table)
		if d := difference(queryColumn[string](t, ours, indexesSQL, table), rest); len(d) > 0 {
			t.Errorf("what is left of %s is not what an empty database gets:\n%s", table, strings.Join(d, "\n"))
		}
	}
	if d := difference(queryColumn[string](t, ours, shapesSQL), queryColumn[string](t, python, shapesSQL)); len(d) > 0 {
		t.Errorf("it is not the same as an empty database now:\n%s", strings.Join(d, "\n"))
	}
	for _, pool := range []*pgxpool.Pool{python, ours} {
		if again, err := soniq.Optimize(t.Context(), pool, soniq.Config{}); err != nil || len(again) != 0 {
			t.Errorf("with nothing to drop: %q, %v", again, err)
		}
	}
}

func TestOptimize_duringALongTransaction_blocksNobodyElse(t *testing.T) {
	t.Parallel()
	pool := pythonPool(t)
	setup(t, pool)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	exec(t, tx, insertJobSQL)

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var dropped []string
	var g errgroup.Group
	g.Go(func() (err error) {
		dropped, err = soniq.Optimize(ctx, pool, soniq.Config{})
		return err
	})
	await(t, pool, "Optimize waits for the transaction", `
		select exists (
		  select from pg_stat_activity
		  where datname = current_database() and query like '%drop constraint if exists%'
		)`)
	for range 20 {
		if _, err := pool.Exec(ctx, insertJobSQL); err != nil {
			t.Errorf("insert meanwhile: %v", err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.Wait(); err != nil || len(dropped) != 10 {
		t.Errorf("dropped %q, %v; want ten", dropped, err)
	}
}

// As several deployments at once do it. Each of Python's is dropped once, by one of them.
func TestOptimize_besideSetup_dropsEachOnce(t *testing.T) {
	t.Parallel()
	pool := pythonPool(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var g errgroup.Group
	dropped := make([][]string, 3)
	for i := range dropped {
		g.Go(func() (err error) {
			if _, err := soniq.Setup(ctx, pool, soniq.Config{}); err != nil {
				return err
			}
			dropped[i], err = soniq.Optimize(ctx, pool, soniq.Config{})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	all := slices.Concat(dropped...)
	slices.Sort(all)
	if !slices.Equal(all, pythonsOwn) {
		t.Errorf("dropped %q, want each of %q once", dropped, pythonsOwn)
	}
}

// Before the migrations, Python's indexes are the only ones that a claim has.
func TestOptimize_migrationsMissing_dropsNothing(t *testing.T) {
	t.Parallel()
	pool := pythonPool(t)
	for _, to := range []string{"0002", "0150", "0178"} {
		if _, err := soniq.MigrateUp(t.Context(), pool, soniq.Config{}, to); err != nil {
			t.Fatal(err)
		}
		before := queryColumn[string](t, pool, indexesSQL, "soniq_jobs")
		dropped, err := soniq.Optimize(t.Context(), pool, soniq.Config{})
		var outdated *soniq.OutdatedError
		if !errors.As(err, &outdated) || len(dropped) > 0 {
			t.Errorf("at %s: dropped %q, %v", to, dropped, err)
		}
		if d := difference(before, queryColumn[string](t, pool, indexesSQL, "soniq_jobs")); len(d) > 0 {
			t.Errorf("at %s: changed %q", to, d)
		}
	}
}

func TestOptimize_noSchema_saysSo(t *testing.T) {
	t.Parallel()
	if _, err := soniq.Optimize(t.Context(), emptyPool(t), soniq.Config{}); !soniq.IsMissing(err) {
		t.Errorf("got %v, want an error for which IsMissing holds", err)
	}
	if soniq.IsMissing(nil) || soniq.IsMissing(pgx.ErrNoRows) {
		t.Error("IsMissing holds for an error that says nothing of tables")
	}
}
