package soniq_test

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
)

// trapSQL makes, in the schema of our tables, overloads of the built-in functions
// and operators whose names our functions use: of the very types that the
// built-in has, and of types that match better where one is cast. Whoever picks
// one up writes down who it is.
const trapSQL = `
create table mallory.caught (who name, what text);
grant usage on schema mallory to public;
grant insert on mallory.caught to public;
do $trap$
declare
  f record;
begin
  for f in
    select distinct p.proname, t.signature, t.result
    from pg_proc p
    cross join lateral (
      select pg_get_function_identity_arguments(p.oid) as signature, format_type(p.prorettype, null) as result
      union all
      select replace(pg_get_function_identity_arguments(p.oid), 'text', 'character varying'), format_type(p.prorettype, null)
      union all
      select replace(replace(pg_get_function_identity_arguments(p.oid), 'bigint', 'integer'), 'boolean', 'text'), format_type(p.prorettype, null)
    ) t
    where p.pronamespace = 'pg_catalog'::regnamespace
      and p.prokind = 'f'
      and not p.proretset
      and p.proname = any ((select string_to_array(current_setting('trap.functions'), ' '))::name[])
      and p.prorettype not in (select oid from pg_type where typtype = 'p')
      and not exists (select from unnest(p.proargtypes::oid[]) a join pg_type y on y.oid = a where y.typtype = 'p')
      and t.signature !~ 'VARIADIC'
  loop
    begin
      execute format('create function public.%I(%s) returns %s language plpgsql as $f$ begin insert into mallory.caught values (current_user, %L); return null; end $f$',
        f.proname, f.signature, f.result, f.proname);
    exception when duplicate_function then
      null;
    end;
  end loop;
  for f in
    select o.oprname, l.type as l, r.type as r, format_type(o.oprresult, null) as result, row_number() over () as n
    from unnest('{text,varchar,uuid,integer,bigint,timestamptz,interval,jsonb,boolean,text[],xid8,oid,regclass,name}'::text[]) l (type)
    cross join unnest('{text,varchar,uuid,integer,bigint,timestamptz,interval,jsonb,boolean,text[],xid8,oid,regclass,name}'::text[]) r (type)
    cross join (
      select distinct on (oprname) oprname, oprresult
      from pg_operator
      where oprnamespace = 'pg_catalog'::regnamespace
        and oprkind = 'b'
        and oprname = any ((select string_to_array(current_setting('trap.operators'), ' '))::name[])
        and oprresult not in (select oid from pg_type where typtype = 'p')
      order by oprname, oid
    ) o
  loop
    execute format('create function public.trap_%s(%s, %s) returns %s language plpgsql as $f$ begin insert into mallory.caught values (current_user, %L); return null; end $f$',
      f.n, f.l, f.r, f.result, f.oprname);
    execute format('create operator public.%s (function = public.trap_%s, leftarg = %s, rightarg = %s)', f.oprname, f.n, f.l, f.r);
  end loop;
end
$trap$`

// callSQL runs each function of ours, and calls no other one itself: whatever is
// caught was picked up by ours.
const callSQL = `
insert into public.soniq_workers (id, hostname, pid, queues) values ('00000000-0000-4000-8000-000000000001', 'h', 1, '{}'), ('00000000-0000-4000-8000-000000000002', 'h', 2, '{mail}');
insert into public.soniq_hooks (name, kind, events, jobs, queues, reasons, tags)
  values ('a', 'webhook', '{job.dead_lettered,job.resolved,job.resurrected}', '{n*,*_%}', '{default}', '{timeout}', null), ('b', 'webhook', '{job.dead_lettered}', null, null, null, '{"a": 1}');
insert into public.soniq_jobs (id, job_name, args, queue) values ('00000000-0000-4000-8000-000000000003', 'n', '{}', 'mail');
begin isolation level serializable;
insert into public.soniq_jobs (id, job_name, args, scheduled_at) values ('00000000-0000-4000-8000-000000000004', 'n', '{}', '2020-01-01');
commit;
update public.soniq_jobs set status = 'processing';
update public.soniq_jobs set cancel_requested_at = '2020-01-01';
update public.soniq_jobs set status = 'queued';
update public.soniq_jobs set status = 'processing', cancel_requested_at = null;
update public.soniq_jobs set status = 'queued';
insert into public.soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, last_error, dead_letter_reason, original_created_at, moved_to_dead_letter_at, tags)
  values ('00000000-0000-4000-8000-000000000005', 'n', '{}', 'default', 1, 1, 1, 'e 1', 'timeout', '2020-01-01', '2020-01-01', '"{\"a\": 1}"');
update public.soniq_dead_letter_jobs set moved_to_dead_letter_at = '2020-01-02', resurrection_count = 1;
update public.soniq_jobs set replay_of = '00000000-0000-4000-8000-000000000005';
update public.soniq_dead_letter_jobs set state = 'replaying', replay_job_id = '00000000-0000-4000-8000-000000000003';
update public.soniq_jobs set status = 'done';
update public.soniq_dead_letter_jobs set state = 'resolved';
update public.soniq_jobs set status = 'processing';
delete from public.soniq_jobs;
update public.soniq_hooks set url = 'x';
insert into public.soniq_queues (name, paused_at) values ('q', '2020-01-01'), ('r', '2020-01-01');
update public.soniq_queues set paused_at = null;
update public.soniq_queues set paused_at = '2020-01-01';
delete from public.soniq_queues;
select public.soniq_add_errors('[1]', '{}'), public.soniq_dead_letter_replays('00000000-0000-4000-8000-000000000005');
update public.soniq_workers set status = 'stopped';
delete from public.soniq_workers;
delete from public.soniq_dead_letter_jobs;
delete from public.soniq_hooks`

// usedBySQL finds what refers to a function of somebody else's and is not his.
const usedBySQL = `
select distinct p.oid::regprocedure::text
from pg_depend d
join pg_proc p on d.refclassid = 'pg_proc'::regclass and p.oid = d.refobjid
where p.proowner <> current_user::regrole
  and d.classid <> 'pg_operator'::regclass`

var (
	noCode    = regexp.MustCompile(`(?m)--.*$|'(?:[^']|'')*'|\$\$|\(\*\)`)
	callOf    = regexp.MustCompile(`\.?\b[a-z_]\w*\(`)
	operatorT = regexp.MustCompile(`[-+*/<>=~!@#%^&|?]+`)
)

// used are the names of built-ins that the bodies of our functions use without a
// schema.
func used() (functions, operators []string) {
	bodies := noCode.ReplaceAllString(soniq.FunctionsSQL(), " ")
	names := map[string]bool{}
	for _, call := range callOf.FindAllString(bodies, -1) {
		if call[0] != '.' {
			names[strings.TrimSuffix(call, "(")] = true
		}
	}
	// What 'like' stands for, and 'in' and 'distinct from'.
	symbols := map[string]bool{"~~": true, "=": true}
	for _, o := range operatorT.FindAllString(bodies, -1) {
		symbols[o] = true
	}
	return slices.Sorted(maps.Keys(names)), slices.Sorted(maps.Keys(symbols))
}

// Functions and operators of a role that may create them in the schema of our
// tables are picked up by none of ours, nor by Setup, whatever the caller's
// search_path.
func TestTrust_overloadsOfWhatIsBuiltIn_areNotPicked(t *testing.T) {
	t.Parallel()
	functions, operators := used()
	if len(functions) < 20 || len(operators) < 10 {
		t.Fatalf("used: %q, %q", functions, operators)
	}
	t.Logf("used in bodies: %q, %q", functions, operators)
	// What the indexes and Setup use.
	functions = append(functions, "lpad", "to_hex", "hashtextextended", "regexp_replace", "left", "split_part", "chr", "timezone",
		"pg_try_advisory_lock", "pg_advisory_unlock", "current_schemas", "format_type", "pg_get_userbyid", "quote_ident")
	for name, prepare := range map[string]func(t *testing.T, pool *pgxpool.Pool){
		"empty":      func(*testing.T, *pgxpool.Pool) {},
		"schema.sql": func(*testing.T, *pgxpool.Pool) {},
		"0.1.0":      func(t *testing.T, pool *pgxpool.Pool) { t.Helper(); makeOld(t, pool) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := emptyPool(t)
			prepare(t, pool)
			mallory := newRole(t, pool, `grant create on schema public to %s`, `create schema mallory authorization %s`)
			conn := mallory.connect(t, pool)
			exec(t, conn, `select set_config('trap.functions', $1, false), set_config('trap.operators', $2, false)`,
				strings.Join(functions, " "), strings.Join(operators, " "))
			exec(t, conn, trapSQL)
			if n := queryValue[int](t, conn, `select count(*)::int from pg_proc where proowner = current_user::regrole`); n < 300 {
				t.Fatalf("only %d overloads", n)
			}
			if name == "schema.sql" { // what psql makes of the file
				exec(t, pool, soniq.SchemaSQL())
			}
			setup(t, pool)
			setup(t, pool)
			if _, err := soniq.Inspect(t.Context(), pool, soniq.Config{}); err != nil {
				t.Error(err)
			}
			if _, err := soniq.Optimize(t.Context(), pool, soniq.Config{}); err != nil {
				t.Error(err)
			}
			if foreign := queryColumn[string](t, openPool(t, pool.Config().ConnString(), "pg_catalog"), usedBySQL); len(foreign) > 0 {
				t.Errorf("objects of ours use: %q", foreign)
			}
			for _, path := range []string{"public, pg_catalog", "pg_catalog", "public", "''", "pg_temp, public, pg_catalog"} {
				caller, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig)
				if err != nil {
					t.Fatal(err)
				}
				exec(t, caller, `set search_path = `+path)
				for statement := range strings.SplitSeq(callSQL, ";\n") {
					exec(t, caller, statement)
				}
				if err := caller.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if caught := queryColumn[string](t, pool, `select distinct concat(what, ' as ', who) from mallory.caught`); len(caught) > 0 {
				t.Errorf("picked up: %q", caught)
			}
			// The traps work.
			victim := openPool(t, pool.Config().ConnString(), "public, pg_catalog")
			exec(t, victim, `select left('a'::text, 1), 'a'::text || 'b'::text`)
			if n := queryValue[int](t, pool, `select count(distinct what)::int from mallory.caught`); n != 2 {
				t.Errorf("%d of 2 were caught that look for them", n)
			}
		})
	}
}
