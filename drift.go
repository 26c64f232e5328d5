package soniq

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A Drift is something of Soniq's in a database that is not as this release's schema has it.
type Drift struct {
	// Object is its kind and name, such as 'trigger soniq_jobs_inserted of soniq_jobs'.
	Object string `json:"object"`
	// Problem says how it differs, and completes a sentence that begins with Object.
	Problem string `json:"problem"`
	// SQL are statements that mend it, for the owner of the tables, in their order. Empty
	// where no statement can: a column or a table has to come from a backup.
	SQL []string `json:"sql"`
	// Setup reports whether [Setup] mends it.
	Setup bool `json:"setup"`
}

// A Diagnosis is what [Diagnose] found.
type Diagnosis struct {
	// Drift is what differs from the schema of this release. Empty in a database that is
	// not at this release's newest migration: there 'soniq setup' has to run first.
	Drift []Drift
	// Trust is what lets other roles in, beside functions, which Drift has.
	Trust []Finding
}

// Diagnose compares what is there with the schema of this release: tables, columns with their
// types, defaults and NOT NULL, indexes, triggers and functions. [Setup] mends most of it;
// the statements are for those who want to see them, or to mend one thing.
//
// It only reads the catalog, in a transaction of its own. Any role may call it. Where there
// are no tables it finds nothing.
//
// Errors: an [*OtherSchemaError]; [ErrSchemaName]; else those of the database.
func Diagnose(ctx context.Context, pool *pgxpool.Pool, cfg Config) (d Diagnosis, err error) {
	err = looking(ctx, pool, cfg, func(tx pgx.Tx, h *home, a *audit) error {
		ways, err := h.waysIn(ctx, tx, a)
		if err != nil {
			return err
		}
		d.Trust = append(h.foreignFindings(a), ways...)
		if !a.current {
			return nil
		}
		for _, part := range []func(context.Context, pgx.Tx, *audit) ([]Drift, error){
			h.objectDrift, h.functionDrift, h.columnDrift, h.indexDrift, h.triggerDrift,
		} {
			found, err := part(ctx, tx, a)
			if err != nil {
				return err
			}
			d.Drift = append(d.Drift, found...)
		}
		return nil
	})
	if err != nil {
		return Diagnosis{}, fmt.Errorf("diagnose schema: %w", err)
	}
	return d, nil
}

// objectDrift are tables, columns, indexes and the like that are missing or half made.
func (h *home) objectDrift(_ context.Context, _ pgx.Tx, a *audit) (found []Drift, err error) {
	for _, o := range a.made {
		d := Drift{Object: o.String(), Problem: "is missing", Setup: true}
		if r, ok := a.relations[o.name]; ok && !r.valid {
			d.Problem = "is INVALID: it was begun and not finished, so it is written and never read"
			if o.kind == "sequence" {
				d.Problem = "can't be read"
			}
		}
		one := &audit{made: []object{o}, relations: a.relations}
		before, after := one.makeObjects()
		d.SQL = h.each(slices.Concat(before, after))
		if o.kind == "table" {
			for _, t := range triggersOfSchema() {
				if t[2] == o.name {
					d.SQL = append(d.SQL, h.sql(strings.TrimSuffix(t[0], ";")))
				}
			}
		}
		found = append(found, d)
	}
	for _, name := range a.lost {
		found = append(found, Drift{Object: name, Problem: "is missing, and nothing can make up what it had"})
	}
	return found, nil
}

// each has the schema in each statement.
func (h *home) each(statements []string) (list []string) {
	for _, s := range statements {
		list = append(list, h.sql(s))
	}
	return list
}

// makesFunction are the statements that make a function of the schema: it, and the revoke.
func (h *home) makesFunction(key string) []string {
	for _, f := range functionsOfSchema() {
		if f[1]+"("+typeNames(f[5])+")" == key {
			return h.each(statements(f[0]))
		}
	}
	return nil
}

// functionDrift are functions that are missing, have another body, or that others may call.
func (h *home) functionDrift(_ context.Context, _ pgx.Tx, a *audit) (found []Drift, err error) {
	for _, what := range a.missing {
		if key, ok := strings.CutPrefix(what, "function "); ok {
			found = append(found, Drift{Object: what, Problem: "is missing", SQL: h.makesFunction(key), Setup: true})
		}
	}
	for _, f := range a.functions {
		d := Drift{Object: "function " + f.name, Setup: true}
		switch {
		case f.other:
			d.Problem, d.SQL = "was altered: it is not this release's", h.makesFunction(f.key)
		case f.loose:
			d.Problem = "looks names up in schemas where others may create objects"
			d.SQL = []string{"alter function " + f.name + " set search_path = pg_catalog, pg_temp"}
		case f.public:
			d.Problem = "can be executed by any role, as its owner"
		default:
			continue
		}
		if f.public && !f.other {
			d.SQL = append(d.SQL, "revoke all on function "+f.name+" from public")
		}
		found = append(found, d)
	}
	return found, nil
}

// $1 the schema, $2 the names of tables.
const columnDefinitionsSQL = `
select c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull,
  coalesce(pg_get_expr(d.adbin, d.adrelid), ''), a.attidentity <> ''
from pg_attribute a
join pg_class c on c.oid = a.attrelid
join pg_namespace n on n.oid = c.relnamespace
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where n.nspname = $1
  and c.relname = any ($2)
  and c.relkind in ('r', 'p')
  and a.attnum > 0
  and not a.attisdropped
order by 1, a.attnum`

// columnSQL takes a column's definition apart: its type, and what follows.
var columnSQL = regexp.MustCompile(`(?s)^add column if not exists \w+ (.+?)( (?:not null|default|primary key|check|unique|generated|references) .*| (?:not null|primary key|unique))?$`)

// defaultSQL is the default in what follows a column's type.
var defaultSQL = regexp.MustCompile(`(?s) default (.+?)(?: not null| check \(.*| unique| primary key)?$`)

// typeAliases are the names that the catalog has for those of schema.sql.
var typeAliases = map[string]string{"timestamptz": "timestamp with time zone"}

// columnDrift are columns of another type, without their default, or with another NOT NULL.
func (h *home) columnDrift(ctx context.Context, tx pgx.Tx, _ *audit) (found []Drift, err error) {
	want := map[string]object{}
	var tables []string
	for _, o := range objectsOfSchema() {
		switch o.kind {
		case "table":
			if o.name != "soniq_migrations" { // Python Soniq made it, in one of its ways
				tables = append(tables, o.name)
			}
		case "column":
			want[o.table+"."+o.name] = o
		}
	}
	var table, column, kind, fallback string
	var notNull, identity bool
	rows, _ := tx.Query(ctx, columnDefinitionsSQL, h.name(), tables)
	_, err = pgx.ForEachRow(rows, []any{&table, &column, &kind, &notNull, &fallback, &identity}, func() error {
		if o, ok := want[table+"."+column]; ok {
			found = append(found, h.comparedColumn(o, kind, fallback, notNull, identity)...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the columns: %w", err)
	}
	return found, nil
}

// comparedColumn is how a column differs from its definition.
func (h *home) comparedColumn(o object, kind, fallback string, notNull, identity bool) (found []Drift) {
	parts := columnSQL.FindStringSubmatch("add column if not exists " + o.name + " " + o.definition)
	if parts == nil {
		return nil
	}
	wantType, rest := cmp.Or(typeAliases[parts[1]], parts[1]), parts[2]
	alter := "alter table public." + o.table + " alter column " + o.name + " "
	add := func(problem, sql string) {
		found = append(found, Drift{Object: o.String(), Problem: problem, SQL: []string{h.sql(alter + sql)}})
	}
	if kind != wantType {
		add("is of type "+kind+", not "+wantType, "type "+wantType+" using "+o.name+"::"+wantType)
	}
	key := strings.Contains(rest, "primary key") || o.inKey
	if wantNotNull := strings.Contains(rest, "not null"); !key && wantNotNull != notNull && !identity {
		if wantNotNull {
			add("may be NULL", "set not null")
		} else {
			add("may not be NULL, so rows of other programs are refused", "drop not null")
		}
	}
	if identity || strings.Contains(rest, "generated") {
		return found
	}
	wantDefault := ""
	if d := defaultSQL.FindStringSubmatch(rest); d != nil {
		wantDefault = d[1]
	}
	switch {
	case plain(wantDefault) == plain(fallback):
	case wantDefault == "":
		add("has the default "+fallback+", where the schema has none", "drop default")
	case fallback == "":
		add("has lost its default "+wantDefault, "set default "+wantDefault)
	default:
		add("has the default "+fallback+", not "+wantDefault, "set default "+wantDefault)
	}
	return found
}

var (
	castSQL     = regexp.MustCompile(`::(?:timestamp with time zone|timestamptz|[a-z_]+)(?:\[\])?`)
	intervalSQL = regexp.MustCompile(`interval '[^']*'|'[^']*'::interval`)
	literalSQL  = regexp.MustCompile(`timestamptz '`)
	emptySQL    = regexp.MustCompile(`[\s()"\[\];]+`)
)

// plain is an expression or a definition without what the server adds and leaves out when it
// prints one: casts, brackets, quotes of names, spaces, the schema of built-ins.
func plain(sql string) string {
	sql = strings.ToLower(sql)
	sql = intervalSQL.ReplaceAllString(sql, "'an interval'")
	sql = literalSQL.ReplaceAllString(sql, "'")
	sql = castSQL.ReplaceAllString(sql, "")
	for _, cut := range []string{"pg_catalog.", "using btree", "or replace ", "if not exists ", "= any (array", " in ", "= any array"} {
		to := ""
		if cut == " in " || strings.HasPrefix(cut, "= any") {
			to = "=any"
		}
		sql = strings.ReplaceAll(sql, cut, to)
	}
	return emptySQL.ReplaceAllString(sql, "")
}

// plainIn is plain of a definition that names tables and functions of this schema.
func (h *home) plainIn(sql string) string {
	for _, prefix := range []string{"public.", h.quoted() + ".", h.name() + "."} {
		sql = strings.ReplaceAll(sql, prefix, "")
	}
	return plain(sql)
}

// $1 the schema, $2 names of indexes.
const indexDefinitionsSQL = `
select c.relname::text, pg_get_indexdef(c.oid)
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_index i on i.indexrelid = c.oid
where n.nspname = $1
  and c.relname = any ($2)
  and i.indisvalid`

// indexDrift are indexes with another definition than the schema's.
func (h *home) indexDrift(ctx context.Context, tx pgx.Tx, _ *audit) (found []Drift, err error) {
	want := map[string]object{}
	var names []string
	for _, o := range objectsOfSchema() {
		if o.kind == "index" {
			want[o.name], names = o, append(names, o.name)
		}
	}
	var name, definition string
	rows, _ := tx.Query(ctx, indexDefinitionsSQL, h.name(), names)
	_, err = pgx.ForEachRow(rows, []any{&name, &definition}, func() error {
		o := want[name]
		if h.plainIn(definition) != h.plainIn(o.statement) {
			found = append(found, Drift{
				Object: o.String(), Problem: "has another definition than this release's",
				SQL: []string{h.sql("drop index public." + name), h.sql(o.statement)},
			})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the definitions of indexes: %w", err)
	}
	return found, nil
}

// whenSQL is the condition of a trigger, in the form of plain.
var whenSQL = regexp.MustCompile(`(?s)when.*executefunction`)

// sameTrigger compares what two triggers do. A condition that compares rows, which the server
// prints as one of each column, is not compared.
func (h *home) sameTrigger(is, want string) bool {
	rows := strings.Contains(want, ") is distinct from (")
	is, want = h.plainIn(is), h.plainIn(want)
	if rows {
		is, want = whenSQL.ReplaceAllString(is, "executefunction"), whenSQL.ReplaceAllString(want, "executefunction")
	}
	return is == want
}

// $1 the schema.
const triggerDefinitionsSQL = `
select t.tgname::text, c.relname::text, t.tgenabled::text, pg_get_triggerdef(t.oid)
from pg_trigger t
join pg_class c on c.oid = t.tgrelid
join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1
  and not t.tgisinternal`

// triggerDrift are triggers that are missing, altered, disabled or fire only for replication.
func (h *home) triggerDrift(ctx context.Context, tx pgx.Tx, a *audit) (found []Drift, err error) {
	type trigger struct{ enabled, definition string }
	there := map[string]trigger{}
	var name, table string
	var t trigger
	rows, _ := tx.Query(ctx, triggerDefinitionsSQL, h.name())
	if _, err := pgx.ForEachRow(rows, []any{&name, &table, &t.enabled, &t.definition}, func() error {
		there[name+" of "+table] = t
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read the definitions of triggers: %w", err)
	}
	for _, want := range triggersOfSchema() {
		if _, ok := a.relations[want[2]]; !ok {
			continue // the table is missing
		}
		d := Drift{Object: "trigger " + want[1] + " of " + want[2]}
		is, ok := there[want[1]+" of "+want[2]]
		create := h.sql(strings.TrimSuffix(want[0], ";"))
		enable := h.sql("alter table public." + want[2] + " enable trigger " + want[1])
		switch {
		case !ok:
			d.Problem, d.SQL, d.Setup = "is missing", []string{create}, true
		case !h.sameTrigger(is.definition, want[0]):
			d.Problem, d.SQL = "was altered: it is not this release's", []string{create}
		case is.enabled == "D":
			d.Problem, d.SQL, d.Setup = "is disabled", []string{enable}, true
		case is.enabled == "R":
			d.Problem, d.SQL = "fires only for rows that replication brings", []string{enable}
		case is.enabled == "A":
			d.Problem, d.SQL = "fires for rows that replication brings too, and announces them again", []string{enable}
		default:
			continue
		}
		found = append(found, d)
	}
	return found, nil
}
