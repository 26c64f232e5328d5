package soniq

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/pg"
)

// A Finding is a way for other roles into Soniq's tables that a person has to close.
type Finding struct {
	// Problem is what was found, and what it makes possible.
	Problem string `json:"problem"`
	// Remedy closes it. It is mostly a statement, for the owner or a superuser.
	Remedy string `json:"remedy"`
}

func (f Finding) String() string { return f.Problem + ": " + f.Remedy }

// Inspect looks for ways in for other roles:
//
//   - objects under Soniq's names whose owner isn't trusted (see [ForeignError])
//   - functions of Soniq that PUBLIC may execute, or that run under another
//     search_path than their own
//   - in a database that is up to date, functions and triggers of Soniq that are missing or other
//     ones than this release's, and tables, columns and indexes that are missing
//   - triggers of other tables that use Soniq's functions
//   - schemas in which everybody may create objects
//
// It returns nothing for a database as [Setup] leaves it on PostgreSQL 15 and
// later. Before 15, PUBLIC may create objects in the schema 'public'.
//
// It only reads the catalog, in a transaction of its own. Any role may call it.
//
// Errors: an [*OtherSchemaError]; [ErrSchemaName]; else those of the database.
func Inspect(ctx context.Context, pool *pgxpool.Pool, cfg Config) ([]Finding, error) {
	findings, err := inspect(ctx, pool, cfg)
	if err != nil {
		return nil, fmt.Errorf("inspect schema: %w", err)
	}
	return findings, nil
}

func inspect(ctx context.Context, pool *pgxpool.Pool, cfg Config) (findings []Finding, err error) {
	tx, err := pool.BeginTx(ctx, readOnly)
	if err != nil {
		return nil, err
	}
	// It has written nothing.
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	tx = pg.PlainTx(tx)
	home, err := findHome(ctx, tx, cfg)
	if err != nil || home.owner == "" {
		return nil, err
	}
	// Who runs a worker owns nothing here: the tables' owner is the measure.
	audit, err := home.audit(ctx, tx, home.owner)
	if err != nil {
		return nil, err
	}
	if audit.current, err = home.isCurrent(ctx, tx, audit); err != nil {
		return nil, err
	}
	return home.findings(ctx, tx, audit)
}

// isCurrent reports whether the database is at this release's newest migration, as far as the role may know.
func (h *home) isCurrent(ctx context.Context, tx pgx.Tx, a *audit) (current bool, err error) {
	if !a.hasMigrations() {
		return false, nil
	}
	var may bool
	if err := tx.QueryRow(ctx, `select has_table_privilege($1, 'SELECT')`, h.sql("public.soniq_migrations")).Scan(&may); err != nil || !may {
		return false, err
	}
	recorded, err := h.recorded(ctx, tx)
	return err == nil && len(recorded.missing())+len(recorded.newer()) == 0, err
}

// WarnOfFindings logs each finding of [Inspect] as a warning. An error of Inspect is
// logged too, and nothing else. Long-running programs call it when they start.
func WarnOfFindings(ctx context.Context, pool *pgxpool.Pool, cfg Config, logger *slog.Logger) {
	findings, err := Inspect(ctx, pool, cfg)
	if err != nil && ctx.Err() == nil {
		logger.Warn("can't tell whether the database lets other roles in", "error", err)
	}
	for _, f := range findings {
		logger.Warn(f.Problem, "remedy", f.Remedy)
	}
}

// A ForeignObject is one that Soniq would use, and that another role can change.
type ForeignObject struct {
	// Name has the kind of object and its name, such as
	// 'function public.soniq_waiting(text)'.
	Name string
	// Owner is the role that owns it.
	Owner string
}

// ForeignError is the error for objects under Soniq's names whose owner isn't trusted.
// Setup would use them as its own. It trusts the role that runs it, the roles that were
// granted to that role, superusers, and the owners of the schema and of the database. A
// superuser that runs Setup trusts only roles that were granted to it.
type ForeignError struct {
	Objects []ForeignObject
	// User is the role that ran Setup.
	User string
	// After is the last migration that was applied before the objects were found; empty where nothing
	// was changed.
	After string
}

func (e *ForeignError) Error() string {
	first := e.Objects[0]
	changed := "nothing was changed"
	if e.After != "" {
		changed = "nothing was changed after " + e.After
	}
	text := fmt.Sprintf("%s belongs to role %q, which could run code as whoever uses Soniq's tables; %s: "+
		"drop it or give it to role %q (alter ... owner to); if Soniq's tables are %[2]q's, run setup as %[2]q or grant that role to %[4]q",
		first.Name, first.Owner, changed, e.User)
	if n := len(e.Objects) - 1; n > 0 {
		names := make([]string, 0, n)
		for _, o := range e.Objects[1:] {
			names = append(names, o.Name)
		}
		const most = 5
		if n > most {
			names = append(names[:most], fmt.Sprintf("%d more", n-most))
		}
		text += "; and so with " + strings.Join(names, ", ")
	}
	return text
}

// A definition is what schema.sql says of a function. gone is of one that an older
// migration made, and a later one drops.
type definition struct {
	body          string
	definer, gone bool
}

var (
	functionSQL = regexp.MustCompile(`(?s)create or replace function public\.(\w+)\(([^)]*)\) returns ([^$]*)\$\$(.*?)\$\$;\nrevoke all on function public\.\w+\(([^)]*)\) from public;`)
	dropSQL     = regexp.MustCompile(`drop function if exists public\.(\w+)\(([^)]*)\);`)
	triggerSQL  = regexp.MustCompile(`create or replace trigger (\w+)\s[^;]*?\son public\.(\w+)[^;]*;`)
	objectSQL   = regexp.MustCompile(`(?m)^create (?:unique )?(?:or replace )?(?:table|index|view|materialized view|sequence|type|statistics)(?: if not exists)? (?:public\.)?(\w+)`)
)

// What schema.sql and the migrations make and drop. They are read once: that takes longer
// than a migration.
var (
	functionsOfSchema = sync.OnceValue(func() [][]string { return functionSQL.FindAllStringSubmatch(schemaSQL, -1) })
	functionsMade     = sync.OnceValue(func() [][]string { return functionSQL.FindAllStringSubmatch(allUp(), -1) })
	triggersOfSchema  = sync.OnceValue(func() [][]string { return triggerSQL.FindAllStringSubmatch(schemaSQL, -1) })
	functionsDropped  = sync.OnceValue(func() [][]string { return dropSQL.FindAllStringSubmatch(allUp(), -1) })
	// functionsSQL are the statements that make the functions, and nothing else.
	functionsSQL = sync.OnceValue(func() string { return strings.Join(functionSQL.FindAllString(schemaSQL, -1), "\n") })
	// objectNames are those of all that the schema and its migrations make but for
	// functions and triggers.
	objectNames = sync.OnceValue(func() (names []string) {
		for _, o := range objectSQL.FindAllStringSubmatch(schemaSQL+allUp(), -1) {
			if !slices.Contains(names, o[1]) {
				names = append(names, o[1])
			}
		}
		return names
	})
)

// definitions are the functions of the schema, by name and types as in
// 'soniq_begin_hunger(uuid,_text)', with those that older migrations made, and their
// names alone.
func (h *home) definitions() (byKey map[string]definition, names []string) {
	byKey = map[string]definition{}
	add := func(name, types string, d definition) {
		key := name + "(" + typeNames(types) + ")"
		if _, ok := byKey[key]; !ok {
			byKey[key] = d
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, f := range functionsOfSchema() {
		add(f[1], f[5], definition{body: h.sql(f[4]), definer: strings.Contains(f[3], "security definer")})
	}
	for _, f := range functionsMade() {
		add(f[1], f[5], definition{gone: true})
	}
	for _, f := range functionsDropped() {
		add(f[1], f[2], definition{gone: true})
	}
	return byKey, names
}

// typeNames are those of a list of types, as the catalog has them.
func typeNames(list string) string {
	var types []string
	for t := range strings.SplitSeq(list, ",") {
		t = strings.TrimPrefix(strings.TrimSpace(t), "public.")
		if element, ok := strings.CutSuffix(t, "[]"); ok {
			t = "_" + element
		}
		types = append(types, t)
	}
	return strings.Join(types, ",")
}

// pinned is the setting of each function.
const pinned = "search_path=pg_catalog, pg_temp"

// audited is a function of ours as it is.
type audited struct {
	name string
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

// trustedSQL begins the statements that tell whom to trust: a role, those that it
// is a member of, superusers, and the owners of the schema and of the database. A
// superuser counts as a member of every role, so membership is read off the
// catalog. $1 the schema, $2 the names of relations and types, $3 the role.
const trustedSQL = `
with recursive member (role) as (
  select r.oid
  from pg_roles r
  where r.rolname = $3
  union
  select m.roleid
  from member b
  join pg_auth_members m on m.member = b.role
), trusted (role) as (
  select role from member
  union
  select r.oid from pg_roles r where r.rolsuper
  union
  select n.nspowner from pg_namespace n where n.nspname = $1
  union
  select d.datdba from pg_database d where d.datname = current_database()
), relation as (
  select c.oid, c.relname, c.relowner, c.relkind, c.relnamespace::regnamespace::text || '.' || quote_ident(c.relname) as name
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = $1
    and c.relname = any ($2)
)`

// The row types of relations are theirs. $4 the names of functions.
const objectsSQL = trustedSQL + `
select o.kind || ' ' || o.name, pg_get_userbyid(o.owner), o.owner in (select t.role from trusted t)
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
// constraints, indexes and columns use.
const codeSQL = trustedSQL + `, part (class, id, what) as (
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
where u.owner not in (select t.role from trusted t)
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
	var name, owner string
	var trusted bool
	rows, _ := tx.Query(ctx, objectsSQL, h.name(), objects, role, names)
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
	rows, _ = tx.Query(ctx, codeSQL, h.name(), objects, role)
	_, err = pgx.ForEachRow(rows, []any{&name, &owner}, func() error {
		a.foreign = append(a.foreign, ForeignObject{name, owner})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what the tables run: %w", err)
	}
	var r relation
	rows, _ = tx.Query(ctx, relationsSQL, h.name(), objects)
	_, err = pgx.ForEachRow(rows, []any{&name, &r.kind, &r.valid, &r.table, &r.columns}, func() error {
		a.relations[name] = r
		r = relation{}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the tables and indexes: %w", err)
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
				name: name, public: public, loose: !slices.Equal(config, []string{pinned}),
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

// mending are the steps that make what is missing, the functions anew, and the triggers that are missing or
// disabled. The functions lock no table: to check a body, the server would open the tables that it names.
func (r *runner) mending(h *home, a *audit) []step {
	first, last := a.makeObjects()
	for _, t := range triggersOfSchema() {
		if slices.Contains(a.missing, "trigger "+t[1]+" of "+t[2]) {
			last = append(last, strings.TrimSuffix(t[0], ";"))
		}
	}
	steps := append(r.locks(h, a, slices.Concat(first, last)), h.step("set local check_function_bodies = off"))
	for _, statement := range slices.Concat(first, statements(functionsSQL()), last) {
		steps = append(steps, h.step(statement))
	}
	return steps
}

// becomeOwner makes the rest of the transaction run as the role that all of what
// is there belongs to. Then what is added belongs to it too: functions run as
// their owner, which must have rights on all tables. And a superuser's setup runs
// nothing of that role's with more rights than the role has.
func (h *home) becomeOwner(ctx context.Context, tx pgx.Tx, a *audit) error {
	if len(a.owners) != 1 || a.owners[0] == h.user {
		return nil
	}
	owner := pgx.Identifier{a.owners[0]}.Sanitize()
	if _, err := tx.Exec(ctx, "set local role "+owner); isCode(err, insufficientPrivilege) {
		return fmt.Errorf("role %q may not act as role %s, which owns what is there: run it as that role, or grant %[2]s to %[1]q", h.user, owner)
	} else if err != nil {
		return fmt.Errorf("become role %s, which owns what is there: %w", owner, err)
	}
	return nil
}

// mayCreate returns an error where the role, or the owner that it has become, may create nothing.
func (h *home) mayCreate(ctx context.Context, tx pgx.Tx) error {
	var create bool
	var role string
	if err := tx.QueryRow(ctx, `select has_schema_privilege($1, 'CREATE'), current_user`, h.name()).Scan(&create, &role); err != nil {
		return fmt.Errorf("read rights: %w", err)
	}
	if create {
		return nil
	}
	who := pgx.Identifier{role}.Sanitize()
	if role != h.user {
		return fmt.Errorf("role %s owns what is there and may create nothing in schema %s: "+
			"grant create on schema %[2]s to %[1]s, which can be revoked afterwards", who, h.quoted())
	}
	return fmt.Errorf("role %s may create nothing in schema %s: grant create on schema %[2]s to %[1]s, which can be revoked afterwards, "+
		"or run this as the schema's owner", who, h.quoted())
}

// $1 the schemas of the path.
const openSchemasSQL = `
select quote_ident(n.nspname)
from unnest($1::text[]) with ordinality s (name, place)
join pg_namespace n on n.nspname = s.name
where exists (
  select from aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
  where a.grantee = 0
    and a.privilege_type = 'CREATE'
)
order by s.place`

// findings are what a person has to end.
func (h *home) findings(ctx context.Context, tx pgx.Tx, a *audit) (found []Finding, err error) {
	for _, o := range a.foreign {
		found = append(found, Finding{
			fmt.Sprintf("%s belongs to role %q, which can run code as whoever uses Soniq's tables", o.Name, o.Owner),
			"drop it or give it to the owner of the tables, " + fmt.Sprintf("%q", h.owner),
		})
	}
	const runSetup = "run 'soniq setup' of this release"
	if n := a.count(isPublic); n > 0 {
		found = append(found, Finding{fmt.Sprintf("any role that may log in can execute %d functions of Soniq, and run code as their owner", n), runSetup})
	}
	if n := a.count(isLoose); n > 0 {
		found = append(found, Finding{fmt.Sprintf("%d functions of Soniq look names up in schemas where others may create objects", n), runSetup})
	}
	if n := a.count(isOther) + len(a.missing) - len(a.lost); n > 0 && a.current {
		found = append(found, Finding{
			fmt.Sprintf("%d functions, triggers or objects of Soniq are not this release's, or are missing ('soniq migrate check' lists them): the schema was renamed, single tables were restored, or somebody edited them; "+
				"what is inserted may fail, and nobody is told of it", n), runSetup,
		})
	}
	if a.current {
		found = append(found, a.lostFinding()...)
	}
	for _, s := range a.stray {
		found = append(found, Finding{
			fmt.Sprintf("trigger %s of table %s, which belongs to role %q, uses a function of Soniq", s.name, s.table, s.owner),
			"it does nothing there: find out who made it, and drop trigger " + s.name + " on " + s.table,
		})
	}
	rows, _ := tx.Query(ctx, openSchemasSQL, h.path)
	open, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read the rights on schemas: %w", err)
	}
	for _, schema := range open {
		found = append(found, Finding{
			"any role may create objects in schema " + schema + ", and have them used by statements of workers and applications whose search_path has it",
			"revoke create on schema " + schema + " from public",
		})
	}
	return found, nil
}
