package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"soniq"
	"soniq/internal/incarnation"
	"soniq/internal/pg"
	"soniq/internal/rights"
)

const runSetup = "soniq setup"

// $1 the schema.
const otherTablesSQL = `
select quote_ident(n.nspname)
from pg_namespace n
join pg_class j on j.relnamespace = n.oid and j.relname = 'soniq_jobs' and j.relkind in ('r', 'p')
where n.nspname <> $1
  and n.nspname !~ '^pg_'
order by 1
limit 5`

func checkSchema(ctx context.Context, e *Exam) error {
	status, err := soniq.ReadStatus(ctx, e.config.Pool, soniq.Config{Schema: e.config.Schema})
	var other *soniq.OtherSchemaError
	switch {
	case errors.As(err, &other):
		e.find(Critical, fmt.Sprintf("schema %s has no Soniq tables, but schema %s has", e.schema.Quoted(), pgx.Identifier{other.Found}.Sanitize()),
			"name it: --schema or SONIQ_SCHEMA")
		return nil
	case err != nil:
		return err
	case len(status.In(soniq.Applied))+len(status.In(soniq.Edited)) == 0:
		e.find(Critical, "there are no Soniq tables in schema "+e.schema.Quoted(), runSetup)
		return nil
	}
	if pending := status.In(soniq.Pending); len(pending) > 0 {
		e.find(Critical, fmt.Sprintf("%d migrations are pending, from %s on: programs of this release don't start", len(pending), pending[0]), runSetup)
	}
	if edited := status.In(soniq.Edited); len(edited) > 0 {
		e.find(Warning, fmt.Sprintf("%d migrations were applied in another form than this release's, %s first", len(edited), edited[0]), "compare with 'soniq migrate sql', and see the check drift")
	}
	if newer := status.In(soniq.Newer); len(newer) > 0 {
		e.find(Note, fmt.Sprintf("the tables are of a later release (%s): this program works, and can't tell what differs", newer[len(newer)-1]), "use the later release's doctor")
	}
	var schema string
	return e.rows(ctx, otherTablesSQL, []any{e.schema.Name()}, []any{&schema}, func() {
		e.find(Note, "schema "+schema+" has tables of Soniq as well: a program that names no schema, or another, works there", "see that each program names its schema: --schema, SONIQ_SCHEMA")
	})
}

// mostDrift is how many objects are listed. A schema that was restored in part lacks many.
const mostDrift = 50

func checkDrift(ctx context.Context, e *Exam) error {
	d, err := soniq.Diagnose(ctx, e.config.Pool, soniq.Config{Schema: e.config.Schema})
	if err != nil {
		return err
	}
	for i, drift := range d.Drift {
		if i == mostDrift {
			e.find(Critical, fmt.Sprintf("%d more objects differ", len(d.Drift)-mostDrift), runSetup)
			break
		}
		problem := drift.Object + " " + drift.Problem
		switch {
		case len(drift.SQL) == 0:
			e.find(Critical, problem, "restore the table from a backup")
		case len(drift.SQL) == 1 && !strings.Contains(drift.SQL[0], "\n"):
			e.find(drifted(drift), problem, drift.SQL[0], drift.SQL...)
		case drift.Setup:
			e.find(drifted(drift), problem, runSetup+" (--sql prints the statements)", drift.SQL...)
		default:
			e.find(drifted(drift), problem, "soniq doctor --only drift --sql prints the statements", drift.SQL...)
		}
	}
	return nil
}

// drifted is how bad it is: an index makes things slow, a trigger or a table makes them wrong.
func drifted(d soniq.Drift) Severity {
	if kind, _, _ := strings.Cut(d.Object, " "); kind == "index" || kind == "statistics" {
		return Warning
	}
	return Critical
}

func checkTrust(ctx context.Context, e *Exam) error {
	d, err := soniq.Diagnose(ctx, e.config.Pool, soniq.Config{Schema: e.config.Schema})
	if err != nil {
		return err
	}
	for _, f := range d.Trust {
		var sql []string
		if f.SQL != "" {
			sql = []string{f.SQL}
		}
		e.find(Warning, f.Problem, f.Remedy, sql...)
	}
	return nil
}

// $1 the schema.
const additionsSQL = `
with ours as (
  select c.oid, c.relnamespace, quote_ident(n.nspname) || '.' || quote_ident(c.relname) as name, c.relrowsecurity
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = $1
    and c.relname like 'soniq\_%'
    and c.relkind in ('r', 'p')
)
select 'trigger', quote_ident(t.tgname), o.name, 'drop trigger ' || quote_ident(t.tgname) || ' on ' || o.name
from ours o
join pg_trigger t on t.tgrelid = o.oid and not t.tgisinternal and t.tgenabled <> 'D'
join pg_proc p on p.oid = t.tgfoid
where p.pronamespace <> o.relnamespace
   or p.proname !~ '^soniq_'
union all
select 'rule', quote_ident(w.rulename), o.name, 'drop rule ' || quote_ident(w.rulename) || ' on ' || o.name
from ours o
join pg_rewrite w on w.ev_class = o.oid
union all
select 'key', quote_ident(k.conname), k.conrelid::regclass::text || ' to ' || o.name,
  'alter table ' || k.conrelid::regclass || ' drop constraint ' || quote_ident(k.conname)
from ours o
join pg_constraint k on k.confrelid = o.oid and k.contype = 'f'
where k.conrelid not in (select oid from ours)
union all
select 'security', '', o.name, 'alter table ' || o.name || ' disable row level security'
from ours o
where o.relrowsecurity
order by 1, 2, 3`

func checkAdditions(ctx context.Context, e *Exam) error {
	var kind, name, table, sql string
	return e.rows(ctx, additionsSQL, []any{e.schema.Name()}, []any{&kind, &name, &table, &sql}, func() {
		remedy := "if nobody needs it: " + sql
		switch kind {
		case "trigger":
			e.find(Note, "trigger "+name+" of "+table+" is not Soniq's: what it refuses is refused to Soniq, and what it takes time for takes Soniq's", remedy, sql)
		case "rule":
			e.find(Warning, "rule "+name+" of "+table+" changes what statements do there", remedy, sql)
		case "key":
			e.find(Note, "foreign key "+name+" of "+table+" keeps rows that are referenced from expiring and from being cleaned up, unless it has ON DELETE", remedy, sql)
		case "security":
			e.find(Note, "row-level security is on for "+table+": who has no policy sees no rows", remedy, sql)
		}
	})
}

const readerSQL = `select has_table_privilege('public.soniq_jobs', 'UPDATE'), quote_ident(current_user)`

func checkRights(ctx context.Context, e *Exam) error {
	grants, vital, err := rights.Lacking(ctx, e.schema.Pool(e.config.Pool))
	if err != nil && !pg.IsCode(err, pg.InsufficientPrivilege) {
		if pg.Code(err) != "" {
			return err
		}
		e.find(Critical, message(err), "see docs/security.md")
		return nil
	}
	var worker bool
	var role string
	if err := e.tx.QueryRow(ctx, readerSQL).Scan(&worker, &role); err != nil {
		return err
	}
	switch {
	case len(grants) == 0:
	case !worker:
		e.find(Note, "role "+role+" may not change jobs, so no worker can run as it", "to let it, see 'soniq grants'")
	default:
		severity := Warning
		if vital {
			severity = Critical
		}
		for _, grant := range grants {
			e.mend(severity, "role "+role+" lacks rights that a worker needs", e.schema.SQL(grant))
		}
	}
	return nil
}

func checkIdentity(ctx context.Context, e *Exam) error {
	plan, err := incarnation.Look(ctx, e.tx, e.schema)
	if err != nil {
		return err
	}
	if plan.Held != "" {
		e.find(Warning, "hooks hold still: "+plan.Held, "soniq adopt, if this database is the one")
	}
	if plan.Epoch {
		e.find(Critical, "there are dead letters of a later epoch than this server's: followers of the channel would skip new ones", "soniq adopt")
	}
	for _, c := range plan.Counters {
		table := e.schema.Quoted() + "." + c.Table
		e.mend(Critical, fmt.Sprintf("the sequence of %s.%s is at %d, and there is %d already: inserts fail until it has passed that", c.Table, c.Column, c.Sequence, c.Greatest),
			fmt.Sprintf("select setval(pg_get_serial_sequence(%s, %s), %d)", literal(table), literal(c.Column), c.Greatest))
	}
	return nil
}

// $1 the schema. What a table would have if its rows were packed is estimated from statistics.
const vacuumSQL = `
select quote_ident(n.nspname) || '.' || quote_ident(c.relname),
  coalesce(c.reloptions::text like '%autovacuum_enabled=false%' or c.reloptions::text like '%autovacuum_enabled=off%', false),
  coalesce(s.n_live_tup, 0), coalesce(s.n_dead_tup, 0),
  coalesce(extract(epoch from clock_timestamp() - greatest(s.last_vacuum, s.last_autovacuum))::float8, -1),
  pg_relation_size(c.oid),
  (greatest(c.reltuples, s.n_live_tup, 0) * (28 + coalesce((
    select sum(w.avg_width)
    from pg_stats w
    where w.schemaname = n.nspname
      and w.tablename = c.relname
  ), 1000)))::bigint,
  age(c.relfrozenxid)
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
left join pg_stat_user_tables s on s.relid = c.oid
where n.nspname = $1
  and c.relname like 'soniq\_%'
  and c.relkind = 'r'
order by 1`

// nearWraparound is an age of rows at which PostgreSQL warns itself some weeks later.
const nearWraparound = 1_200_000_000

func checkVacuum(ctx context.Context, e *Exam) error {
	var table string
	var off bool
	var live, dead, bytes, packed int64
	var age int
	var ago float64
	return e.rows(ctx, vacuumSQL, []any{e.schema.Name()}, []any{&table, &off, &live, &dead, &ago, &bytes, &packed, &age}, func() {
		if off {
			e.mend(Warning, "autovacuum is off for "+table+": its dead rows stay, and make claims slower", "alter table "+table+" reset (autovacuum_enabled)")
		}
		if dead >= e.limits.DeadRows && 5*dead >= live {
			last := "never vacuumed"
			if ago >= 0 {
				last = "vacuumed " + span(ago) + " ago"
			}
			e.mend(Warning, fmt.Sprintf("%s has %d dead rows beside %d, %s: see the check transactions for what keeps them", table, dead, live, last), "vacuum (analyze) "+table)
		}
		if bytes >= e.limits.Bloat && bytes > 5*packed {
			e.find(Warning, fmt.Sprintf("%s has %s for what would fit into %s", table, size(bytes), size(packed)),
				"when no worker runs: vacuum (full, analyze) "+table, "vacuum (full, analyze) "+table)
		}
		if age >= nearWraparound {
			e.mend(Critical, fmt.Sprintf("%s was not frozen for %d transactions: at 2,100 million the server stops to take writes", table, age), "vacuum (freeze) "+table)
		}
	})
}
