package soniq_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/internal/testdb"
)

// attachSQL is what a role that may only log in can make: a table of its own
// whose column has a type of its own, which a cast makes a text of, and a trigger
// on it that uses a function of ours. The cast writes down who runs it.
const attachSQL = `
create temporary table seen (who name);
grant insert on seen to public;
create type pg_temp.name_of_queue as enum ('default');
create function pg_temp.tell(pg_temp.name_of_queue) returns text language plpgsql as $$
begin
  insert into pg_temp.seen values (current_user);
  return 'default';
end
$$;
create cast (pg_temp.name_of_queue as text) with function pg_temp.tell(pg_temp.name_of_queue) as implicit;
create temporary table own (id uuid, queue pg_temp.name_of_queue, status text, scheduled_at timestamptz, replay_of uuid);
grant select, insert, update, delete on own to public;
create trigger own after insert on own referencing new table as soniq_new_rows
  for each statement execute function public.soniq_jobs_inserted();
create trigger own_ended after delete on own for each row execute function public.soniq_replay_ended();`

const fireSQL = `
begin isolation level serializable;
insert into own (queue, status) values ('default', 'queued');
commit`

// Until Setup has run, any login is the owner of 0.1.0's functions; afterwards it
// is not, through what it attached before either.
func TestUpgrade_loginAlone_isNoLongerTheOwner(t *testing.T) {
	t.Parallel()
	pool := oldPool(t)
	owner := queryValue[string](t, pool, `select current_user::text`)
	mallory := newRole(t, pool)
	conn := mallory.connect(t, pool)
	exec(t, conn, attachSQL)
	exec(t, conn, fireSQL)
	if got := queryColumn[string](t, conn, `select distinct who::text from seen`); !slices.Equal(got, []string{owner}) {
		t.Fatalf("in a database of 0.1.0 the cast ran as %q: the attack is not what it was", got)
	}
	dead := newDeadLetter(t, pool, nil)
	job := newReplay(t, pool, dead)
	attack := func() {
		t.Helper()
		exec(t, conn, `truncate seen`)
		exec(t, conn, fireSQL)
		exec(t, conn, `insert into own (id, replay_of) values ($1, $2)`, job, dead)
		exec(t, conn, `delete from own`)
	}
	attack()
	expectState(t, pool, dead, "dead")
	exec(t, pool, `update soniq_dead_letter_jobs set state = 'replaying'`)

	var outdated *soniq.OutdatedError
	if err := soniq.Check(t.Context(), pool, soniq.Config{}); !errors.As(err, &outdated) || !strings.Contains(err.Error(), "ANY ROLE THAT MAY LOG IN TO THIS DATABASE CAN RUN CODE AS THE OWNER OF SONIQ'S FUNCTIONS") {
		t.Errorf("a worker that starts is told: %v", err)
	}

	result := setup(t, pool)
	if !slices.Equal(result.Applied, allMigrations[migrations010:]) ||
		!slices.Equal(result.Mended, []string{"revoked EXECUTE on 20 functions from PUBLIC", "pinned the search_path of 20 functions to pg_catalog"}) {
		t.Errorf("it did %+v", result)
	}
	if n := queryValue[int](t, pool, `select count(*) from pg_proc where proname like 'soniq%'`); n != len(soniq.FunctionKeys()) {
		t.Errorf("there are %d functions, want %d: what 0.1.0 made and nobody uses is dropped", n, len(soniq.FunctionKeys()))
	}
	if stray := strayOf(result.Findings); len(stray) != 2 || !strings.Contains(stray[0].Remedy, "drop trigger own on pg_temp_") {
		t.Errorf("findings: %+v", result.Findings)
	}
	attack()
	if got := queryColumn[string](t, conn, `select distinct who::text from seen`); len(got) > 0 {
		t.Errorf("the cast of before runs as %q", got)
	}
	expectState(t, pool, dead, "replaying")
	exec(t, conn, `drop table own`)
	if again := setup(t, pool); len(again.Applied)+len(again.Mended) != 0 || len(strayOf(again.Findings)) != 0 {
		t.Errorf("a second setup: %+v", again)
	}
	// The replay that was under way ends as it would have.
	exec(t, pool, `update soniq_jobs set status = 'done' where id = $1`, job)
	expectState(t, pool, dead, "resolved")
}

func strayOf(findings []soniq.Finding) (stray []soniq.Finding) {
	for _, f := range findings {
		if strings.HasPrefix(f.Problem, "trigger ") {
			stray = append(stray, f)
		}
	}
	return stray
}

// A role that may log in, read or enqueue can call and attach none of the
// functions.
func TestTrust_roleWithoutRights_canCallAndAttachNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for name, rights := range map[string][]string{
		"login":    nil,
		"creator":  {`grant create on schema public to %s`},
		"viewer":   {`grant select on all tables in schema public to %s`},
		"producer": {`grant insert on soniq_jobs to %s`},
		"worker":   {`grant select, insert, update, delete on all tables in schema public to %s`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := newRole(t, pool, rights...).connect(t, pool)
			exec(t, conn, `create temporary table own (id uuid)`)
			calls := queryColumn[string](t, pool, `
				select case p.prorettype
				  when 'trigger'::regtype then format('create trigger t after insert on own for each row execute function %s', p.oid::regprocedure)
				  else format('select public.%I(%s)', p.proname, (select string_agg('null::' || format_type(a.t, null), ', ' order by a.n) from unnest(p.proargtypes::oid[]) with ordinality a (t, n)))
				end
				from pg_proc p where p.pronamespace = 'public'::regnamespace`)
			for _, call := range calls {
				refused(t, conn, call)
			}
			if len(calls) < 20 {
				t.Errorf("%d calls", len(calls))
			}
			if err := soniq.Check(t.Context(), newRole(t, pool, append(rights, `grant select on soniq_migrations to %s`)...).pool(t, pool), soniq.Config{}); err != nil {
				t.Error(err)
			}
		})
	}
}

// Whoever may enqueue, and no more, can resolve, change and invent nothing among
// the dead letters.
func TestTrust_producer_changesNoDeadLetter(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	conn := newRole(t, pool, `grant insert on soniq_jobs to %s`).connect(t, pool)
	parent := newDeadLetter(t, pool, nil)
	child := newDeadLetter(t, pool, &parent)
	under := newDeadLetter(t, pool, nil)
	newReplay(t, pool, under)
	before := queryColumn[string](t, pool, `select to_jsonb(d)::text from soniq_dead_letter_jobs d order by id`)
	for _, end := range []string{`update soniq_jobs set status = 'done' where producer_id = 'm'`, `delete from soniq_jobs where producer_id = 'm'`} {
		for _, dead := range []uuid.UUID{parent, child, under} {
			for _, status := range []string{"queued", "processing", "done", "cancelled"} {
				exec(t, conn, `insert into public.soniq_jobs (id, job_name, args, status, replay_of, producer_id) values (gen_random_uuid(), 'n', '{}', $1, $2, 'm')`, status, dead)
			}
		}
		exec(t, pool, end)
		exec(t, pool, `delete from soniq_jobs where producer_id = 'm'`)
	}
	if d := difference(before, queryColumn[string](t, pool, `select to_jsonb(d)::text from soniq_dead_letter_jobs d order by id`)); len(d) > 0 {
		t.Errorf("changed:\n%s", strings.Join(d, "\n"))
	}
	refused(t, conn, `select * from public.soniq_dead_letter_jobs`)
	refused(t, conn, `update public.soniq_jobs set status = 'done'`)
}

// statements010 are those with which 0.1.0's worker settles and moves jobs, and
// its command replays, as far as they call functions of ours.
var statements010 = map[string]string{
	"requeue": `
		update soniq_jobs j
		set status = 'queued', errors = soniq_add_errors(j.errors, d.failure::jsonb), worker_id = null, updated_at = now()
		from unnest(array['{"attempt": 1}']) as d (failure)
		where j.status = 'processing'`,
	"move": `
		with gone as (delete from soniq_jobs j where j.status = 'queued' returning j.*, '{"attempt": 2}'::text as failure)
		insert into soniq_dead_letter_jobs as d (id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason, original_created_at, moved_to_dead_letter_at, replay_of, errors)
		select g.id, g.job_name, g.args, g.queue, g.priority, g.max_attempts, g.attempts, 'timeout', g.created_at, clock_timestamp(), g.replay_of, soniq_add_errors(g.errors, g.failure::jsonb)
		from gone g
		on conflict (id) do update set state = 'dead', errors = soniq_add_errors(d.errors, excluded.errors)`,
	"replay": `
		select d.state, d.replay_job_id, d.attempts, d.max_attempts, soniq_dead_letter_replays(d.id)
		from soniq_dead_letter_jobs d
		for update`,
}

// Each kind of role that works in a database of 0.1.0 works there after the
// upgrade, by the statements of either release.
func TestUpgrade_rolesWithFewRights_goOn(t *testing.T) {
	t.Parallel()
	pool := oldPool(t)
	const dml = `grant select, insert, update, delete on all tables in schema public to %s`
	producer := newRole(t, pool, `grant insert on soniq_jobs to %s`)
	columns := newRole(t, pool, `grant insert (id, job_name, args, queue) on soniq_jobs to %s`)
	worker := newRole(t, pool, dml)
	group := newRole(t, pool, dml)
	member := newRole(t, pool, `grant `+group.name+` to %s`)
	predefined := newRole(t, pool, `grant pg_read_all_data, pg_write_all_data to %s`)
	narrow := newRole(t, pool, `grant select, delete on soniq_jobs, soniq_dead_letter_jobs to %s`,
		`grant update (status, errors, worker_id, updated_at) on soniq_jobs to %s`, `grant insert, update on soniq_dead_letter_jobs to %s`)
	canceller := newRole(t, pool, `grant select, update (status, cancel_requested_at) on soniq_jobs to %s`)
	viewer := newRole(t, pool, `grant select on soniq_jobs, soniq_dead_letter_jobs, soniq_migrations to %s`)
	l := listen(t, pool, "soniq_new_job")

	check := func(when string) {
		t.Helper()
		for _, r := range []role{producer, columns} {
			comeWaiting(t, pool)
			exec(t, r.connect(t, pool), insertJobSQL)
			if got := l.heard(t, pool); !slices.Equal(got, []string{"default"}) {
				t.Errorf("%s: a producer's insert announced %q", when, got)
			}
			exec(t, pool, `delete from soniq_workers; delete from soniq_jobs`)
		}
		for _, r := range []role{worker, member, predefined, narrow} {
			conn := r.connect(t, pool)
			exec(t, pool, `insert into soniq_jobs (id, job_name, args, status, attempts) values (gen_random_uuid(), 'n', '{}', 'processing', 1)`)
			for _, statement := range []string{"requeue", "move", "replay"} {
				exec(t, conn, statements010[statement])
			}
			if got := queryValue[string](t, pool, `select errors::text from soniq_dead_letter_jobs`); got != `[{"attempt": 1}, {"attempt": 2}]` {
				t.Errorf("%s: a worker's history: %s", when, got)
			}
			exec(t, pool, `delete from soniq_dead_letter_jobs`)
		}
		// What a requeue of a job that is to be cancelled does is not his to do.
		exec(t, pool, `insert into soniq_jobs (id, job_name, args, status) values (gen_random_uuid(), 'n', '{}', 'processing')`)
		conn := canceller.connect(t, pool)
		exec(t, conn, `update soniq_jobs set cancel_requested_at = now()`)
		exec(t, conn, `update soniq_jobs set status = 'queued'`)
		if got := queryValue[string](t, pool, `select status from soniq_jobs`); got != "cancelled" {
			t.Errorf("%s: a job whose cancellation was requested is %s", when, got)
		}
		exec(t, pool, `delete from soniq_jobs`)
		exec(t, viewer.connect(t, pool), statements010["replay"][:strings.Index(statements010["replay"], "for update")])
	}
	check("before")
	setup(t, pool)
	check("after")
	if err := soniq.Check(t.Context(), viewer.pool(t, pool), soniq.Config{}); err != nil {
		t.Errorf("a viewer's check: %v", err)
	}

	// They got what they had a use for, and nobody else anything.
	grants := queryColumn[string](t, pool, `
		select p.proname || ' to ' || a.grantee::regrole
		from pg_proc p cross join lateral aclexplode(p.proacl) a
		where p.pronamespace = 'public'::regnamespace and a.grantee <> p.proowner`)
	var want []string
	for _, r := range []string{worker.name, group.name, narrow.name, "pg_write_all_data"} {
		want = append(want, "soniq_add_errors to "+r)
	}
	for _, r := range []string{worker.name, group.name, narrow.name, viewer.name, "pg_read_all_data"} {
		want = append(want, "soniq_dead_letter_replays to "+r)
	}
	if d := difference(want, grants); len(d) > 0 {
		t.Errorf("grants:\n%s", strings.Join(d, "\n"))
	}
}

// What a role with CREATE in the schema can have made before Setup comes, in the
// hope that it is taken for ours. None of it is; nothing is changed and nothing
// of it has run.
func TestSetup_madeBeforeBySomebodyElse_isRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ sql, object string }{
		"jobs":                {`create table soniq_jobs (id uuid primary key)`, "table public.soniq_jobs"},
		"migrations, trigger": {`create table soniq_migrations (id int, version varchar, name text, applied_at timestamp); create trigger t before insert on soniq_migrations for each row execute function mallory.tell()`, "table public.soniq_migrations"},
		"chores, rule":        {`create table soniq_chores (name text); create rule r as on insert to soniq_chores do also select mallory.told()`, "table public.soniq_chores"},
		"hunger, default":     {`create table soniq_hunger (queue text default mallory.told(), worker_id uuid, epoch bigint)`, "table public.soniq_hunger"},
		"leader tasks, rule":  {`create table soniq_leader_tasks (name text); create rule r as on insert to soniq_leader_tasks do also select mallory.told()`, "table public.soniq_leader_tasks"},
		"waiters, default":    {`create table soniq_waiters (queue text default mallory.told(), worker_id uuid, epoch bigint)`, "table public.soniq_waiters"},
		"workers, check":      {`create table soniq_workers (id uuid check (mallory.told() is not null))`, "table public.soniq_workers"},
		"queues, policy":      {`create table soniq_queues (name text); alter table soniq_queues enable row level security; create policy p on soniq_queues using (mallory.told() is not null)`, "table public.soniq_queues"},
		"partitioned":         {`create table soniq_hook_deliveries (id uuid) partition by range (id)`, "partitioned table public.soniq_hook_deliveries"},
		"inherited":           {`create table mallory.parent (id uuid); create table soniq_hook_groups () inherits (mallory.parent)`, "table public.soniq_hook_groups"},
		"view":                {`create view soniq_hooks as select mallory.told()`, "view public.soniq_hooks"},
		"materialized view":   {`create materialized view soniq_hooks as select mallory.told() with no data`, "materialized view public.soniq_hooks"},
		"sequence":            {`create sequence soniq_queues`, "sequence public.soniq_queues"},
		"composite type":      {`create type soniq_dead_letter_jobs as (id uuid)`, "type public.soniq_dead_letter_jobs"},
		"enum":                {`create type soniq_workers as enum ('a')`, "type public.soniq_workers"},
		"domain":              {`create domain soniq_task_registry as text check (mallory.told() is not null)`, "type public.soniq_task_registry"},
		"index":               {`create table other (a int); create index idx_soniq_jobs_claim on other (a)`, "index public.idx_soniq_jobs_claim"},
		"statistics":          {`create table other (a int, b int); create statistics soniq_dead_letter_days on a, b from other`, "statistics public.soniq_dead_letter_days"},
		"function":            {`create function soniq_notify_queue(queue text) returns void language plpgsql as $$ begin perform mallory.told(); end $$`, "function public.soniq_notify_queue(text)"},
		"trigger function":    {`create function soniq_jobs_inserted() returns trigger language plpgsql as $$ begin return mallory.told(); end $$`, "function public.soniq_jobs_inserted()"},
		"overload":            {`create function soniq_hungry(varchar) returns boolean language sql as $$ select mallory.told() is null $$`, "function public.soniq_hungry(character varying)"},
		"variadic overload":   {`create function soniq_add_errors(variadic jsonb[]) returns jsonb language sql as $$ select null::jsonb $$`, "function public.soniq_add_errors(jsonb[])"},
		"procedure":           {`create procedure soniq_hook_glob(a int) language sql as ''`, "function public.soniq_hook_glob(integer)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := emptyPool(t)
			mallory := newRole(t, pool, `grant create on schema public to %s`, `create schema mallory authorization %s`)
			conn := mallory.connect(t, pool)
			exec(t, conn, tellSQL)
			exec(t, conn, c.sql)
			before := queryColumn[string](t, pool, everythingSQL)
			expectForeign(t, pool, c.object, mallory.name)
			if d := difference(before, queryColumn[string](t, pool, everythingSQL)); len(d) > 0 {
				t.Errorf("changed:\n%s", strings.Join(d, "\n"))
			}
			if queryValue[bool](t, pool, `select is_called from mallory.ran`) {
				t.Error("code of the role ran")
			}
			// Once it is gone, all is well.
			exec(t, pool, fmt.Sprintf(`drop owned by %s cascade`, mallory.name))
			if got := setup(t, pool).Applied; !slices.Equal(got, allMigrations) {
				t.Errorf("afterwards applied %q", got)
			}
		})
	}
}

// tellSQL makes functions that tell of being run by a sequence, which no rollback
// sets back.
const tellSQL = `
create sequence mallory.ran;
grant usage on schema mallory to public;
grant usage on sequence mallory.ran to public;
create function mallory.told() returns text language plpgsql as $$ begin perform nextval('mallory.ran'); return ''; end $$;
create function mallory.tell() returns trigger language plpgsql as $$ begin perform mallory.told(); return new; end $$;
create function mallory.same(a text, b text) returns boolean language plpgsql as $$ begin perform mallory.told(); return true; end $$;
create operator mallory.=== (function = mallory.same, leftarg = text, rightarg = text);
create domain mallory.name as text check (mallory.told() is not null);`

const everythingSQL = `
select 'relation ' || oid::regclass || relkind::text || relowner::regrole from pg_class where oid >= 16384
union all select 'function ' || oid::regprocedure || proowner::regrole || coalesce(proacl::text, '') from pg_proc where oid >= 16384
union all select 'trigger ' || tgname || tgrelid::regclass from pg_trigger where oid >= 16384
union all select 'type ' || oid::regtype from pg_type where oid >= 16384
union all select 'column ' || attrelid::regclass || attname from pg_attribute where attrelid >= 16384 and attnum > 0`

func expectForeign(t *testing.T, pool *pgxpool.Pool, object, owner string) {
	t.Helper()
	_, err := soniq.Setup(t.Context(), pool, soniq.Config{})
	var foreign *soniq.ForeignError
	if !errors.As(err, &foreign) {
		t.Fatalf("got %v, want a ForeignError", err)
	}
	if !slices.Contains(foreign.Objects, soniq.ForeignObject{Name: object, Owner: owner}) {
		t.Errorf("it names %+v, want %s of %s", foreign.Objects, object, owner)
	}
	for _, part := range []string{foreign.Objects[0].Name, owner, "nothing was changed", "owner to"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %q", part, err)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than a line: %s", err)
	}
}

// Between the look and the making, somebody can make something too: what comes
// late is refused as well, and nothing of it has run.
func TestSetup_madeMeanwhileBySomebodyElse_isRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(*testing.T) *pgxpool.Pool
		// Setup waits for held, in the middle of the schema, and comes to late afterwards.
		held, late, columns string
	}{
		"an empty database": {emptyPool, "soniq_waiters", "soniq_hooks", "id uuid, name text"},
		"Python's": {func(t *testing.T) *pgxpool.Pool {
			pool := pythonPool(t)
			exec(t, pool, pythonFillSQL[:strings.Index(pythonFillSQL, ";")])
			return pool
		}, "soniq_chores", "soniq_hunger", "queue text, worker_id uuid, epoch bigint, primary key (queue, worker_id)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := c.prepare(t)
			mallory := newRole(t, pool, `grant create on schema public to %s`, `create schema mallory authorization %s`)
			first, second := mallory.connect(t, pool), mallory.connect(t, pool)
			exec(t, first, tellSQL)
			exec(t, first, `begin; create table `+c.held+` ()`)
			done := setupMeanwhile(pool)
			await(t, pool, "Setup waits for the other's table", `
				select exists (
				  select from pg_stat_activity
				  where datname = current_database() and wait_event_type = 'Lock' and query like '%' || $1 || '%'
				)`, c.held)
			exec(t, second, `
				create table `+c.late+` (`+c.columns+`);
				create trigger t before insert on `+c.late+` for each row execute function mallory.tell()`)
			exec(t, first, `rollback`)
			var foreign *soniq.ForeignError
			if err := <-done; !errors.As(err, &foreign) || !slices.Contains(foreign.Objects, soniq.ForeignObject{Name: "table public." + c.late, Owner: mallory.name}) {
				t.Errorf("got %v", err)
			}
			if queryValue[bool](t, pool, `select is_called from mallory.ran`) {
				t.Error("code of the role ran")
			}
		})
	}
}

// What runs with a table of ours is foreign where its owner is, whoever attached
// it.
func TestSetup_tableRunsForeignCode_isRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ sql, object string }{
		"trigger":    {`create trigger t after insert on soniq_jobs for each row execute function mallory.tell()`, "trigger t of public.soniq_jobs, which uses function mallory.tell(),"},
		"rule":       {`create rule r as on delete to soniq_queues do also select mallory.told()`, "rule r of public.soniq_queues, which uses function mallory.told(),"},
		"policy":     {`create policy p on soniq_hooks using (mallory.told() is not null)`, "policy p of public.soniq_hooks, which uses function mallory.told(),"},
		"default":    {`alter table soniq_workers add column x text default mallory.told()`, "default of a column of public.soniq_workers, which uses function mallory.told(),"},
		"constraint": {`alter table soniq_leader_tasks add constraint k check (mallory.told() is not null)`, "constraint k of public.soniq_leader_tasks, which uses function mallory.told(),"},
		"operator":   {`alter table soniq_leader_tasks add constraint k check (name operator(mallory.===) 'a')`, "constraint k of public.soniq_leader_tasks, which uses operator mallory.===(text,text),"},
		"index":      {`create function mallory.f(text) returns text immutable language sql as 'select $1'; alter function mallory.f owner to MALLORY; create index i on soniq_queues (mallory.f(name))`, "index public.i, which uses function mallory.f(text),"},
		"column":     {`alter table soniq_jobs add column x mallory.name`, "column of public.soniq_jobs, which uses type mallory.name,"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			mallory := newRole(t, pool, `create schema mallory authorization %s`, `grant trigger on soniq_jobs to %s`)
			conn := mallory.connect(t, pool)
			exec(t, conn, tellSQL)
			if name == "trigger" {
				exec(t, conn, c.sql)
			} else {
				exec(t, pool, strings.ReplaceAll(c.sql, "MALLORY", mallory.name))
			}
			expectForeign(t, pool, c.object, mallory.name)
			findings, err := soniq.Inspect(t.Context(), pool, soniq.Config{})
			if err != nil || !slices.ContainsFunc(findings, func(f soniq.Finding) bool { return strings.HasPrefix(f.Problem, c.object) }) {
				t.Errorf("a worker that starts finds %+v, %v", findings, err)
			}
		})
	}
}

// Roles that own something here with good reason: the one that runs Setup, and
// those it is a member of; and of others' trust Setup makes no use.
func TestSetup_ownersWithReason_areTrusted(t *testing.T) {
	t.Parallel()
	pool := emptyPool(t)
	owner := newRole(t, pool, `grant create on schema public to %s`)
	member := newRole(t, pool, `grant `+owner.name+` to %s`)
	makeOld(t, owner.connect(t, pool))
	// One that has nothing to do with it.
	other := newRole(t, pool, `grant create on schema public to %s`)
	if _, err := soniq.Setup(t.Context(), other.pool(t, pool), soniq.Config{}); err == nil || !strings.Contains(err.Error(), "belongs to role") {
		t.Errorf("another role's setup: %v", err)
	}
	// A superuser is a member of every role, and asks all the same.
	if _, err := soniq.Setup(t.Context(), pool, soniq.Config{}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("run setup as %q", owner.name)) {
		t.Errorf("a superuser's setup: %v", err)
	}
	if got := setup(t, member.pool(t, pool)).Applied; !slices.Equal(got, allMigrations[migrations010:]) {
		t.Errorf("a member's setup applied %q", got)
	}
	expectOwner(t, pool, owner.name)
	exec(t, pool, `do $$ begin execute format('grant `+owner.name+` to %I', current_user); end $$`)
	if got := setup(t, pool); len(got.Applied)+len(got.Mended) != 0 {
		t.Errorf("a superuser that was granted the role: %+v", got)
	}

	// The schema's owner has a reason, and a superuser's setup works as that role.
	url := testdb.EmptyURL(t)
	second := openPool(t, url, "app")
	app := newRole(t, second)
	exec(t, second, `create schema app authorization `+app.name)
	makeOld(t, app.connect(t, second))
	setup(t, second, "app")
	expectOwner(t, second, app.name)
	exec(t, second, `delete from soniq_migrations where version > '0150'; revoke create on schema app from `+app.name)
	if _, err := soniq.Setup(t.Context(), second, soniq.Config{Schema: "app"}); err == nil || !strings.Contains(err.Error(), "grant create on schema") {
		t.Errorf("an owner that may create nothing: %v", err)
	}
	exec(t, second, `grant create on schema app to `+app.name)
	setup(t, second, "app")
	exec(t, second, `drop view soniq_chores; drop table soniq_leader_tasks; create table soniq_chores (name text primary key, begun_at timestamptz not null, raised_at timestamptz)`)
	exec(t, second, `delete from soniq_migrations where version > '0150'`)
	setup(t, second, "app") // of two owners, both with reason
}

func expectOwner(t *testing.T, pool *pgxpool.Pool, owner string) {
	t.Helper()
	owners := queryColumn[string](t, pool, `
		select relowner::regrole::text from pg_class where relname like '%soniq\_%' and oid >= 16384
		union
		select proowner::regrole::text from pg_proc where proname like 'soniq\_%'`)
	if !slices.Equal(owners, []string{owner}) {
		t.Errorf("it belongs to %q, want %s alone", owners, owner)
	}
}

// What somebody changed of our functions is mended, and told; other tables are
// left alone, and a second Setup finds nothing to do.
func TestSetup_changedFunctions_areMended(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `revoke create on schema public from public`)
	const changed = "1 functions, triggers or objects of Soniq are not this release's"
	for name, c := range map[string]struct{ sql, mended, finding string }{
		"execute":     {`grant execute on function soniq_jobs_inserted(), soniq_waiting(text) to public`, "revoked EXECUTE on 2 functions from PUBLIC", "any role that may log in can execute 2 functions of Soniq"},
		"search_path": {`alter function soniq_job_cancelled() set search_path = public`, "pinned the search_path of 1 function to pg_catalog", "1 functions of Soniq look names up"},
		"no path":     {`alter function soniq_job_cancelled() reset all`, "pinned the search_path of 1 function to pg_catalog", "1 functions of Soniq look names up"},
		"another set": {`alter function soniq_job_cancelled() set role none`, "pinned the search_path of 1 function to pg_catalog", "1 functions of Soniq look names up"},
		"definer":     {`alter function soniq_dead_letter_replays(uuid) security definer`, "put back the body of 1 function", changed},
		"invoker":     {`alter function soniq_replay_ended() security invoker`, "put back the body of 1 function", changed},
		"body":        {`create or replace function soniq_waiting(queue text) returns boolean language plpgsql set search_path = pg_catalog, pg_temp as $$ begin return false; end $$`, "put back the body of 1 function", changed},
	} {
		exec(t, pool, c.sql)
		findings, err := soniq.Inspect(t.Context(), pool, soniq.Config{})
		if err != nil || len(findings) != 1 || !strings.HasPrefix(findings[0].Problem, c.finding) {
			t.Errorf("%s: found %+v, %v", name, findings, err)
		}
		// It locks no table.
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		exec(t, tx, `lock table soniq_jobs, soniq_dead_letter_jobs, soniq_workers in access exclusive mode`)
		if got := setup(t, pool); len(got.Applied)+len(got.Findings) != 0 || !slices.Equal(got.Mended, []string{c.mended}) {
			t.Errorf("%s: %+v, want %s", name, got, c.mended)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := setup(t, pool); len(got.Applied)+len(got.Mended)+len(got.Findings) != 0 {
			t.Errorf("%s: again %+v", name, got)
		}
	}
	// A newer release has functions of its own.
	exec(t, pool, `insert into soniq_migrations (version, name) values ('0299', 'of a later release')`)
	exec(t, pool, `create or replace function soniq_waiting(queue text) returns boolean language plpgsql set search_path = pg_catalog, pg_temp as $$ begin return true; end $$`)
	if got := setup(t, pool); len(got.Mended) != 0 || !strings.Contains(queryValue[string](t, pool, `select prosrc from pg_proc where proname = 'soniq_waiting'`), "return true") {
		t.Errorf("a later release's function: %+v", got)
	}
}

// Setup and a worker that starts say so where anybody may create objects beside
// the tables, or before them in the search_path.
func TestInspect_anybodyMayCreate_isFound(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	pool := openPool(t, url, `"First One", public, last`)
	exec(t, pool, `
		create schema "First One";
		create schema last;
		grant create on schema last to public;
		revoke create on schema public from public`)
	if findings, err := soniq.Inspect(t.Context(), pool, soniq.Config{}); err != nil || len(findings) > 0 {
		t.Errorf("found %+v, %v", findings, err)
	}
	exec(t, pool, `grant create on schema public, "First One" to public`)
	for name, found := range map[string]func() []soniq.Finding{
		"setup": func() []soniq.Finding { return setup(t, pool).Findings },
		"start": func() []soniq.Finding {
			findings, err := soniq.Inspect(t.Context(), newRole(t, pool, `grant usage on schema "First One" to %s`).pool(t, pool), soniq.Config{})
			if err != nil {
				t.Error(err)
			}
			return findings
		},
	} {
		var remedies []string
		for _, f := range found() {
			remedies = append(remedies, f.Remedy)
		}
		if !slices.Equal(remedies, []string{`revoke create on schema "First One" from public`, `revoke create on schema public from public`}) {
			t.Errorf("%s: %q", name, remedies)
		}
	}
	// The remedies are statements.
	exec(t, pool, `revoke create on schema "First One" from public; revoke create on schema public from public; grant execute on all functions in schema public to public`)
	var log bytes.Buffer
	soniq.WarnOfFindings(t.Context(), pool, soniq.Config{}, slog.New(slog.NewTextHandler(&log, nil)))
	functions := queryValue[int](t, pool, `select count(*) from pg_proc where proname like 'soniq\_%'`)
	if got := log.String(); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, fmt.Sprintf("any role that may log in can execute %d functions of Soniq", functions)) || !strings.Contains(got, "soniq setup") {
		t.Errorf("logged %s", got)
	}
	if findings, err := soniq.Inspect(t.Context(), emptyPool(t), soniq.Config{}); err != nil || len(findings) > 0 {
		t.Errorf("without tables: %+v, %v", findings, err)
	}
}
