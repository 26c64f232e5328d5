package soniq

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// pinned is the setting of each function.
const pinned = "search_path=pg_catalog, pg_temp"

// audited is a function of ours as it is.
type audited struct {
	// name is as regprocedure prints it, and key as in definitions.
	name, key string
	// public: everybody may execute it. loose: it runs under another
	// search_path. other: its body is another one, or whose rights it has.
	public, loose, other bool
}

// audit is what the catalog says of our objects.
type audit struct {
	foreign []ForeignObject
	// objects are all that there are, such as 'table public.soniq_jobs', and
	// owners whom they belong to.
	objects, owners []string
	// relations are those of our names, by name.
	relations map[string]relation
	// functions are ours, by names and types of the schema.
	functions []audited
	// missing is what the schema has and the database has not, triggers that are disabled and indexes
	// that were not finished, such as 'trigger soniq_jobs_inserted of soniq_jobs'. Before the newest
	// migration that says nothing.
	missing []string
	// made are the missing objects that a statement makes, and lost those that none does.
	made []object
	lost []string
	// stray are triggers of other tables that use them.
	stray []strayTrigger
	// current: the database is at the newest migration, so that missing and the bodies of functions count.
	current bool
}

// relation is a table, an index, a view or a sequence.
type relation struct {
	// kind is that of pg_class.relkind.
	kind string
	// valid is false of an index that was begun and not finished, and of a sequence that can't be read. table is that
	// of an index.
	valid bool
	table string
	// columns are those of a table.
	columns []string
}

type strayTrigger struct{ name, table, owner string }

// trustedSQL finds whom to trust: a role, those that it is a member of, superusers, and the owners of the schema and
// of the database. A superuser counts as a member of every role, so membership is read off the catalog. $1 the schema,
// $2 the role.
const trustedSQL = `
with recursive member (role) as (
  select r.oid
  from pg_roles r
  where r.rolname = $2
  union
  select m.roleid
  from member b
  join pg_auth_members m on m.member = b.role
)
select role::text from member
union
select r.oid::text from pg_roles r where r.rolsuper
union
select n.nspowner::text from pg_namespace n where n.nspname = $1
union
select d.datdba::text from pg_database d where d.datname = current_database()`

// relationCTE begins statements on relations. $1 the schema, $2 the names of relations and types.
const relationCTE = `
with relation as (
  select c.oid, c.relname, c.relowner, c.relkind, c.relnamespace::regnamespace::text || '.' || quote_ident(c.relname) as name
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = $1
    and c.relname = any ($2)
)`

// The row types of relations are theirs. $3 the roles that are trusted, by oid, $4 the names of functions.
const objectsSQL = relationCTE + `
select o.kind || ' ' || o.name, pg_get_userbyid(o.owner), o.owner = any ($3::text[]::oid[])
from (
  select
    case r.relkind
      when 'r' then 'table' when 'i' then 'index' when 'S' then 'sequence' when 'v' then 'view'
      when 'm' then 'materialized view' when 'c' then 'type' when 'f' then 'foreign table'
      when 'p' then 'partitioned table' when 'I' then 'partitioned index' else 'relation'
    end as kind,
    r.name,
    r.relowner as owner
  from relation r
  union all
  select 'type', format_type(y.oid, null), y.typowner
  from pg_type y
  join pg_namespace n on n.oid = y.typnamespace
  where n.nspname = $1
    and y.typname = any ($2)
    and y.typrelid = 0
  union all
  select 'statistics', x.stxnamespace::regnamespace::text || '.' || quote_ident(x.stxname), x.stxowner
  from pg_statistic_ext x
  join pg_namespace n on n.oid = x.stxnamespace
  where n.nspname = $1
    and x.stxname = any ($2)
  union all
  select 'function', p.oid::regprocedure::text, p.proowner
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  where n.nspname = $1
    and p.proname = any ($4)
) o
order by 1`

// What is written to or read from a table runs the functions, the operators and
// the checks of the types that its triggers, rules, policies, defaults,
// constraints, indexes and columns use. $3 the roles that are trusted, by oid.
const codeSQL = relationCTE + `, part (class, id, what) as (
  select 'pg_trigger'::regclass, t.oid, 'trigger ' || quote_ident(t.tgname) || ' of ' || r.name
  from relation r
  join pg_trigger t on t.tgrelid = r.oid
  union all
  select 'pg_rewrite'::regclass, w.oid, 'rule ' || quote_ident(w.rulename) || ' of ' || r.name
  from relation r
  join pg_rewrite w on w.ev_class = r.oid
  union all
  select 'pg_policy'::regclass, l.oid, 'policy ' || quote_ident(l.polname) || ' of ' || r.name
  from relation r
  join pg_policy l on l.polrelid = r.oid
  union all
  select 'pg_attrdef'::regclass, f.oid, 'default of a column of ' || r.name
  from relation r
  join pg_attrdef f on f.adrelid = r.oid
  union all
  select 'pg_constraint'::regclass, k.oid, 'constraint ' || quote_ident(k.conname) || ' of ' || r.name
  from relation r
  join pg_constraint k on k.conrelid = r.oid
  union all
  select 'pg_class'::regclass, i.indexrelid, 'index ' || i.indexrelid::regclass
  from relation r
  join pg_index i on i.indrelid = r.oid
  union all
  select 'pg_class'::regclass, r.oid, 'column of ' || r.name
  from relation r
)
select distinct u.what || ', which uses ' || u.name || ',', pg_get_userbyid(u.owner)
from (
  select p.what, 'function ' || f.oid::regprocedure as name, f.proowner as owner
  from part p
  join pg_depend d on d.classid = p.class and d.objid = p.id and d.refclassid = 'pg_proc'::regclass
  join pg_proc f on f.oid = d.refobjid
  union all
  select p.what, 'type ' || format_type(y.oid, null), y.typowner
  from part p
  join pg_depend d on d.classid = p.class and d.objid = p.id and d.refclassid = 'pg_type'::regclass
  join pg_type y on y.oid = d.refobjid
  union all
  select p.what, 'operator ' || o.oid::regoperator, o.oprowner
  from part p
  join pg_depend d on d.classid = p.class and d.objid = p.id and d.refclassid = 'pg_operator'::regclass
  join pg_operator o on o.oid = d.refobjid
) u
where u.owner <> all ($3::text[]::oid[])
order by 1`

// $1 the schema, $2 the names of functions.
const functionsAsTheyAreSQL = `
select
  p.oid::regprocedure::text,
  p.proname || '(' || array_to_string(array(
    select y.typname
    from unnest(p.proargtypes::oid[]) with ordinality a (type, place)
    join pg_type y on y.oid = a.type
    order by a.place
  ), ',') || ')',
  p.prosecdef,
  coalesce(p.proconfig, '{}'),
  p.prosrc,
  exists (
    select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
    where a.grantee = 0
  )
from pg_proc p
join pg_namespace n on n.oid = p.pronamespace
where n.nspname = $1
  and p.proname = any ($2)
order by 1`

// $1 the schema, $2 the names of functions, $3 those of our tables.
const strayTriggersSQL = `
select quote_ident(t.tgname), c.oid::regclass::text, pg_get_userbyid(c.relowner)
from pg_trigger t
join pg_class c on c.oid = t.tgrelid
join pg_namespace cn on cn.oid = c.relnamespace
join pg_proc p on p.oid = t.tgfoid
join pg_namespace n on n.oid = p.pronamespace
where n.nspname = $1
  and p.proname = any ($2)
  and not (cn.nspname = $1 and c.relname = any ($3))
order by 1, 2`

// Statements for the end of a transaction, which fail where something is foreign: they make an integer of its
// name. Parameters as in objectsSQL and codeSQL.
const (
	foreignObjectsSQL = `
select pg_catalog.min(f.name || ' belongs to another role')::pg_catalog.int4
from (` + objectsSQL + `) f (name, owner, trusted)
where not f.trusted`
	foreignCodeSQL = `
select pg_catalog.min(f.name || ' which belongs to another role')::pg_catalog.int4
from (` + codeSQL + `) f (name, owner)`
)

// $1 the schema, $2 the names of relations.
const relationsSQL = `
select c.relname, c.relkind::text, coalesce(i.indisvalid, true), coalesce(t.relname, ''), array(
  select a.attname::text
  from pg_attribute a
  where a.attrelid = c.oid
    and a.attnum > 0
    and not a.attisdropped
    and c.relkind in ('r', 'p')
)
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
left join pg_index i on i.indexrelid = c.oid
left join pg_class t on t.oid = i.indrelid
where n.nspname = $1
  and (c.relname = any ($2) or t.relname = any ($2))`

// audit reads the catalog. What role trusts is not foreign.
func (h *home) audit(ctx context.Context, tx pgx.Tx, role string) (*audit, error) {
	_, names := h.definitions()
	objects := objectNames()
	a := &audit{relations: map[string]relation{}}
	if err := h.readTrusted(ctx, tx, role); err != nil {
		return nil, err
	}
	var name, owner string
	var trusted bool
	rows, _ := tx.Query(ctx, objectsSQL, h.name(), objects, h.trusted, names)
	_, err := pgx.ForEachRow(rows, []any{&name, &owner, &trusted}, func() error {
		a.objects = append(a.objects, name)
		if !slices.Contains(a.owners, owner) {
			a.owners = append(a.owners, owner)
		}
		if !trusted {
			a.foreign = append(a.foreign, ForeignObject{name, owner})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the owners of what is there: %w", err)
	}
	rows, _ = tx.Query(ctx, codeSQL, h.name(), objects, h.trusted)
	_, err = pgx.ForEachRow(rows, []any{&name, &owner}, func() error {
		a.foreign = append(a.foreign, ForeignObject{name, owner})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what the tables run: %w", err)
	}
	if err := h.auditRelations(ctx, tx, a); err != nil {
		return nil, err
	}
	if err := h.auditFunctions(ctx, tx, a); err != nil {
		return nil, err
	}
	if err := h.auditTriggers(ctx, tx, a); err != nil {
		return nil, err
	}
	if err := h.auditSequences(ctx, tx, a); err != nil {
		return nil, err
	}
	a.auditObjects()
	slices.Sort(a.missing)
	rows, _ = tx.Query(ctx, strayTriggersSQL, h.name(), names, objects)
	var s strayTrigger
	_, err = pgx.ForEachRow(rows, []any{&s.name, &s.table, &s.owner}, func() error {
		a.stray = append(a.stray, s)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read triggers: %w", err)
	}
	return a, nil
}

// readTrusted reads whom a role trusts.
func (h *home) readTrusted(ctx context.Context, tx pgx.Tx, role string) error {
	rows, _ := tx.Query(ctx, trustedSQL, h.name(), role)
	trusted, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read whom to trust: %w", err)
	}
	h.trusted = trusted
	return nil
}

// auditRelations adds the tables, indexes, views and sequences.
func (h *home) auditRelations(ctx context.Context, tx pgx.Tx, a *audit) error {
	var name string
	var r relation
	rows, _ := tx.Query(ctx, relationsSQL, h.name(), objectNames())
	_, err := pgx.ForEachRow(rows, []any{&name, &r.kind, &r.valid, &r.table, &r.columns}, func() error {
		a.relations[name] = r
		r = relation{}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the tables and indexes: %w", err)
	}
	return nil
}

// auditFunctions adds the functions of ours, and those that are missing.
func (h *home) auditFunctions(ctx context.Context, tx pgx.Tx, a *audit) error {
	var (
		name, key, body string
		definer         bool
		config          []string
		public          bool
	)
	byKey, names := h.definitions()
	there := map[string]bool{}
	rows, _ := tx.Query(ctx, functionsAsTheyAreSQL, h.name(), names)
	_, err := pgx.ForEachRow(rows, []any{&name, &key, &definer, &config, &body, &public}, func() error {
		there[key] = true
		if want, ok := byKey[key]; ok {
			a.functions = append(a.functions, audited{
				name: name, key: key, public: public, loose: !slices.Equal(config, []string{pinned}),
				other: !want.gone && (body != want.body || definer != want.definer),
			})
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read functions: %w", err)
	}
	for key, want := range byKey {
		if !want.gone && !there[key] {
			a.missing = append(a.missing, "function "+key)
		}
	}
	return nil
}

// $1 the schema. Of a table of ours, the triggers that fire.
const triggersSQL = `
select t.tgname || ' of ' || c.relname
from pg_trigger t
join pg_class c on c.oid = t.tgrelid
join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1
  and not t.tgisinternal
  and t.tgenabled <> 'D'`

// auditTriggers adds the triggers that are missing or disabled.
func (h *home) auditTriggers(ctx context.Context, tx pgx.Tx, a *audit) error {
	rows, _ := tx.Query(ctx, triggersSQL, h.name())
	there, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read the triggers of our tables: %w", err)
	}
	for _, t := range triggersOfSchema() {
		if name := t[1] + " of " + t[2]; !slices.Contains(there, name) {
			a.missing = append(a.missing, "trigger "+name)
		}
	}
	return nil
}

// hasMigrations reports whether the table of migrations was there.
func (a *audit) hasMigrations() bool {
	return slices.ContainsFunc(a.objects, func(name string) bool {
		return strings.HasPrefix(name, "table ") && strings.HasSuffix(name, ".soniq_migrations")
	})
}

// isEmpty reports whether nothing of ours was there.
func (a *audit) isEmpty() bool { return len(a.objects) == 0 }

// refusal is the error for what is foreign.
func (a *audit) refusal(h *home) error {
	if len(a.foreign) == 0 {
		return nil
	}
	return &ForeignError{Objects: a.foreign, User: h.user}
}

// count is the number of functions for which is holds.
func (a *audit) count(is func(audited) bool) (n int) {
	for _, f := range a.functions {
		if is(f) {
			n++
		}
	}
	return n
}

func isPublic(f audited) bool { return f.public }
func isLoose(f audited) bool  { return f.loose }
func isOther(f audited) bool  { return f.other }

func (a *audit) needsMending() bool {
	return a.count(isPublic)+a.count(isLoose)+a.count(isOther)+len(a.missing) > 0
}

// mended tells for how many functions something is no longer so.
func mended(before, after *audit, is func(audited) bool, format string) []string {
	switch n := before.count(is) - after.count(is); {
	case n == 1:
		return []string{fmt.Sprintf(format, "1 function")}
	case n > 1:
		return []string{fmt.Sprintf(format, fmt.Sprintf("%d functions", n))}
	}
	return nil
}

// madeAnew tells what is there again.
func madeAnew(before, after *audit) (lines []string) {
	for _, what := range before.missing {
		if !slices.Contains(after.missing, what) {
			lines = append(lines, "made "+strings.TrimSuffix(strings.TrimSuffix(what, notFinished), unreadable)+" anew")
		}
	}
	return lines
}
