package soniq

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
)

// object is a table, column, index, view, sequence or statistics object of schema.sql.
type object struct {
	kind, name string
	// table is that of a column, a primary key or an index.
	table string
	// statement makes it; empty of a column that no statement can give to rows that are there.
	statement string
	// definition of a column is what follows its name. inKey: it is a part of the primary key.
	definition string
	inKey      bool
}

// String is how a missing object is named, such as 'index idx_soniq_jobs_claim of soniq_jobs'.
func (o object) String() string {
	if o.table == "" {
		return o.kind + " " + o.name
	}
	return o.kind + " " + o.name + " of " + o.table
}

var (
	tableSQL      = regexp.MustCompile(`(?s)^create table public\.(\w+) \(\n(.*?)\n\)(?:(?:\s|--[^\n]*\n)*with \([^()]*\))?$`)
	indexSQL      = regexp.MustCompile(`^create (?:unique )?index (\w+)\s+on public\.(\w+)`)
	otherSQL      = regexp.MustCompile(`^create (view|sequence|statistics) public\.(\w+)`)
	lineComment   = regexp.MustCompile(`(?m)--[^\n]*$`)
	primaryKeySQL = regexp.MustCompile(`^primary key \(.*\)$`)
)

// objectsOfSchema are those of schema.sql, in its order.
var objectsOfSchema = sync.OnceValue(func() (list []object) {
	for _, s := range statements(schemaSQL) {
		if table := tableSQL.FindStringSubmatch(s); table != nil {
			list = append(list, object{kind: "table", name: table[1], statement: s})
			list = append(list, partsOfTable(table[1], table[2])...)
		} else if index := indexSQL.FindStringSubmatch(s); index != nil {
			list = append(list, object{kind: "index", name: index[1], table: index[2], statement: strings.Replace(s, "index ", "index if not exists ", 1)})
		} else if other := otherSQL.FindStringSubmatch(s); other != nil {
			list = append(list, object{kind: other[1], name: other[2], statement: s})
		}
	}
	return list
})

// partsOfTable are the columns and the primary key that stand between the brackets of CREATE TABLE.
func partsOfTable(table, body string) (list []object) {
	key := ""
	for _, part := range topLevel(lineComment.ReplaceAllString(body, "")) {
		if primaryKeySQL.MatchString(part) {
			key = part
			continue
		}
		name, definition, _ := strings.Cut(part, " ")
		column := object{kind: "column", name: name, table: table, definition: definition, statement: "alter table public." + table + " add column if not exists " + part}
		if strings.Contains(definition, "primary key") {
			key = "primary key (" + name + ")"
			column.statement = ""
		}
		if strings.Contains(definition, "not null") && !strings.Contains(definition, " default ") {
			column.statement = ""
		}
		list = append(list, column)
	}
	if key != "" {
		columns := strings.FieldsFunc(key, func(r rune) bool { return strings.ContainsRune("(), ", r) })
		for i, o := range list {
			list[i].inKey = slices.Contains(columns, o.name)
		}
		list = append(list, object{kind: "primary key", name: table + "_pkey", table: table, statement: "alter table public." + table + " add constraint " + table + "_pkey " + key})
	}
	return list
}

// topLevel splits at the commas that are in no brackets and no text.
func topLevel(list string) (parts []string) {
	depth, start, text := 0, 0, false
	for i, c := range list {
		switch {
		case c == '\'':
			text = !text
		case text:
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == ',' && depth == 0:
			parts = append(parts, strings.Join(strings.Fields(list[start:i]), " "))
			start = i + 1
		}
	}
	return append(parts, strings.Join(strings.Fields(list[start:]), " "))
}

// notFinished follows the name of an index that CREATE INDEX CONCURRENTLY began and did not finish: it is written
// and never read.
const notFinished = ", which was begun and not finished"

// unreadable follows the name of a sequence whose only page is gone.
const unreadable = ", which can't be read"

// auditObjects adds the objects that are missing. Those of a missing table are its own.
func (a *audit) auditObjects() {
	for _, o := range objectsOfSchema() {
		r, there := a.relations[o.name]
		switch o.kind {
		case "column":
			t, exists := a.relations[o.table]
			there = !exists || slices.Contains(t.columns, o.name)
		case "index", "primary key":
			if _, exists := a.relations[o.table]; !exists {
				continue
			}
			if there && !r.valid {
				a.missing = append(a.missing, o.String()+notFinished)
				a.made = append(a.made, o)
				continue
			}
		case "sequence":
			if there && !r.valid {
				a.missing = append(a.missing, o.String()+unreadable)
				a.made = append(a.made, o)
				continue
			}
		case "statistics":
			there = slices.ContainsFunc(a.objects, func(name string) bool {
				return strings.HasPrefix(name, "statistics ") && strings.HasSuffix(name, "."+o.name)
			})
		}
		switch {
		case there:
		case o.statement == "":
			a.missing = append(a.missing, o.String())
			a.lost = append(a.lost, o.String())
		default:
			a.missing = append(a.missing, o.String())
			a.made = append(a.made, o)
		}
	}
}

// $1 the sequence. Who may not read it, or is on a standby, learns nothing.
const readSequenceSQL = `
select case
  when not pg_is_in_recovery() and has_sequence_privilege(to_regclass($1), 'USAGE, SELECT') then pg_sequence_last_value(to_regclass($1))
end`

// auditSequences finds the sequences that can't be read. A standby that is promoted before its first restartpoint
// after an unlogged sequence was made has zeros in its place, and so has a recovery: PostgreSQL 15.18 writes
// the page that they reset it to, when they replay it, to memory alone.
func (h *home) auditSequences(ctx context.Context, tx pgx.Tx, a *audit) error {
	for _, o := range objectsOfSchema() {
		r, there := a.relations[o.name]
		if o.kind != "sequence" || !there || r.kind != "S" {
			continue
		}
		err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
			var last *int64
			return tx.QueryRow(ctx, readSequenceSQL, h.sql("public."+o.name)).Scan(&last)
		})
		switch {
		case pg.IsCode(err, pg.InternalError):
			r.valid = false
			a.relations[o.name] = r
		case err != nil:
			return fmt.Errorf("read sequence %s: %w", o.name, err)
		}
	}
	return nil
}

// makeObjects are the statements that make what is missing: what functions need, and what needs them.
func (a *audit) makeObjects() (before, after []string) {
	for _, o := range a.made {
		switch o.kind {
		case "table":
			before = append(before, o.statement)
			for _, index := range objectsOfSchema() {
				if index.kind == "index" && index.table == o.name {
					after = append(after, index.statement)
				}
			}
		case "column":
			before = append(before, o.statement)
		case "sequence":
			if _, ok := a.relations[o.name]; ok {
				before = append(before, "drop sequence public."+o.name)
			}
			before = append(before, o.statement)
			// Its settings that not every server knows.
			for _, s := range statements(schemaSQL) {
				if strings.HasPrefix(s, "do ") && strings.Contains(s, "alter sequence public."+o.name+" ") {
					before = append(before, s)
				}
			}
		default:
			if r, ok := a.relations[o.name]; ok && !r.valid {
				after = append(after, "drop index if exists public."+o.name)
			}
			after = append(after, o.statement)
		}
	}
	return before, after
}

// lostFinding is the one for what can't be made anew.
func (a *audit) lostFinding() []Finding {
	if len(a.lost) == 0 {
		return nil
	}
	return []Finding{{
		Problem: fmt.Sprintf("%s is missing, and nothing can make up what it had", strings.Join(a.lost, ", ")),
		Remedy:  "restore the table from a backup",
	}}
}
