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
	// SQL is the statement of the remedy, if it is one.
	SQL string `json:"sql,omitempty"`
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
	err = looking(ctx, pool, cfg, func(tx pgx.Tx, h *home, a *audit) (err error) {
		findings, err = h.findings(ctx, tx, a)
		return err
	})
	return findings, err
}

// looking calls do with what an audit finds, in a transaction that reads. It doesn't where there are no tables.
func looking(ctx context.Context, pool *pgxpool.Pool, cfg Config, do func(pgx.Tx, *home, *audit) error) error {
	tx, err := pool.BeginTx(ctx, readOnly)
	if err != nil {
		return err
	}
	// It has written nothing.
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	tx = pg.PlainTx(tx)
	home, err := findHome(ctx, tx, cfg)
	if err != nil || home.owner == "" {
		return err
	}
	// Who runs a worker owns nothing here: the tables' owner is the measure.
	audit, err := home.audit(ctx, tx, home.owner)
	if err != nil {
		return err
	}
	if audit.current, err = home.isCurrent(ctx, tx, audit); err != nil {
		return err
	}
	return do(tx, home, audit)
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
	found = h.foreignFindings(a)
	const runSetup = "run 'soniq setup' of this release"
	if n := a.count(isPublic); n > 0 {
		found = append(found, Finding{Problem: fmt.Sprintf("any role that may log in can execute %d functions of Soniq, and run code as their owner", n), Remedy: runSetup})
	}
	if n := a.count(isLoose); n > 0 {
		found = append(found, Finding{Problem: fmt.Sprintf("%d functions of Soniq look names up in schemas where others may create objects", n), Remedy: runSetup})
	}
	if n := a.count(isOther) + len(a.missing) - len(a.lost); n > 0 && a.current {
		found = append(found, Finding{
			Problem: fmt.Sprintf("%d functions, triggers or objects of Soniq are not this release's, or are missing ('soniq migrate check' lists them): the schema was renamed, single tables were restored, or somebody edited them; "+
				"what is inserted may fail, and nobody is told of it", n), Remedy: runSetup,
		})
	}
	if a.current {
		found = append(found, a.lostFinding()...)
	}
	ways, err := h.waysIn(ctx, tx, a)
	return append(found, ways...), err
}

// foreignFindings are about objects whose owner isn't trusted.
func (h *home) foreignFindings(a *audit) (found []Finding) {
	for _, o := range a.foreign {
		found = append(found, Finding{
			Problem: fmt.Sprintf("%s belongs to role %q, which can run code as whoever uses Soniq's tables", o.Name, o.Owner),
			Remedy:  "drop it or give it to the owner of the tables, " + fmt.Sprintf("%q", h.owner),
		})
	}
	return found
}

// waysIn are triggers elsewhere that use our functions, and schemas in which everybody may create objects.
func (h *home) waysIn(ctx context.Context, tx pgx.Tx, a *audit) (found []Finding, err error) {
	for _, s := range a.stray {
		drop := "drop trigger " + s.name + " on " + s.table
		found = append(found, Finding{
			Problem: fmt.Sprintf("trigger %s of table %s, which belongs to role %q, uses a function of Soniq", s.name, s.table, s.owner),
			Remedy:  "it does nothing there: find out who made it, and " + drop,
			SQL:     drop,
		})
	}
	rows, _ := tx.Query(ctx, openSchemasSQL, h.path)
	open, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read the rights on schemas: %w", err)
	}
	for _, schema := range open {
		revoke := "revoke create on schema " + schema + " from public"
		found = append(found, Finding{
			Problem: "any role may create objects in schema " + schema + ", and have them used by statements of workers and applications whose search_path has it",
			Remedy:  revoke, SQL: revoke,
		})
	}
	return found, nil
}
