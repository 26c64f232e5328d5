package pg

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"soniq/internal/roles"
)

// DeniedError is a refusal for lack of a right to something of Soniq's. Its text is the
// server's, and then who lacks which right, and what grants it: PostgreSQL itself names no
// right.
type DeniedError struct {
	// Role is the role that the statement ran as, quoted where SQL needs that.
	Role string
	// Table has no schema. It is empty where the use of the schema is what lacks.
	Table string
	// Rights are those that lack, in lower case; all that the statement needs where
	// Exact is false, because the transaction was over before the server could be asked.
	Rights []string
	Exact  bool

	Schema Schema
	locks  bool // update is among Rights for a row lock alone
	err    error
}

func (e *DeniedError) Error() string { return e.err.Error() + "; " + e.Lack() }
func (e *DeniedError) Unwrap() error { return e.err }

// Lack says which right the role lacks, and what grants it.
func (e *DeniedError) Lack() string {
	verb := " lacks "
	if !e.Exact {
		verb = " needs "
	}
	object := e.Schema.Quoted() + "." + e.Table
	if e.Table == "" {
		object = "schema " + e.Schema.Quoted()
	}
	return "the role " + e.Role + verb + strings.Join(e.Rights, ", ") + " on " + object + ": " + e.remedy()
}

// grant is the statement that gives the rights.
func (e *DeniedError) grant() string {
	object := e.Schema.Quoted() + "." + e.Table
	if e.Table == "" {
		object = "schema " + e.Schema.Quoted()
	}
	return "grant " + strings.Join(e.Rights, ", ") + " on " + object + " to " + e.Role
}

// remedy names the kinds of role that may do this.
func (e *DeniedError) remedy() string {
	kinds := roles.Having(e.Table, e.Rights...)
	switch {
	case e.Table == "":
		return "'soniq grants' prints what a role needs, see its --help"
	case len(kinds) == 0:
		return "only the owner of the tables may do that"
	}
	name, where := strings.ReplaceAll(strings.Trim(e.Role, `"`), `""`, `"`), ""
	if e.Schema.Name() != DefaultSchema {
		where = " --schema " + shellWord(e.Schema.Name())
	}
	text := "'soniq grants" + where + " --" + string(kinds[0]) + " " + shellWord(name) + "'"
	for _, kind := range kinds[1:] {
		text += " or --" + string(kind)
	}
	return text + " prints what grants it"
}

var plainWord = regexp.MustCompile(`^[\w-]+$`)

func shellWord(text string) string {
	if plainWord.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

var (
	// ourTable finds a table in a message of the server's, in whatever language.
	ourTable  = regexp.MustCompile(`\bsoniq_[a-z_]+`)
	plainName = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)
	rowLocks  = regexp.MustCompile(`\bfor (no key )?update\b|\bfor (key )?share\b`)
)

// aclCheck is the routine of the server that refuses for lack of a right. Row-level
// security has the same SQLSTATE.
const aclCheck = "aclcheck_error"

// denied is the error of a statement, as a [DeniedError] if it is one. A transaction that
// has failed answers no question, nor does a connection with rows under way: then another
// connection is made, one at a time.
func (s session) denied(ctx context.Context, err error, sql string) error {
	if err == nil || !IsCode(err, InsufficientPrivilege) {
		return err
	}
	ask := func(func(Querier) bool) bool { return true }
	switch {
	case s.solo:
		ask = func(do func(Querier) bool) bool { return do(s.raw) }
	case s.beside != nil:
		ask = func(do func(Querier) bool) bool {
			if !s.mode.asking.TryLock() {
				return true
			}
			defer s.mode.asking.Unlock()
			conn, err := s.beside(ctx)
			if err != nil {
				return true
			}
			defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // it has read only
			return do(conn)
		}
	}
	return s.schema.denied(err, sql, s.mode.user, func(e *DeniedError) bool {
		return ask(func(db Querier) bool { return e.resolve(ctx, db) })
	})
}

// Denied is the error of a statement of a batch that db has sent and whose results are closed, as a [DeniedError]
// if it is one.
func Denied(ctx context.Context, db any, err error, sql string) error {
	if p, ok := db.(*Pool); ok {
		return p.denied(ctx, err, sql)
	}
	return err
}

// denied makes a *DeniedError of an error that says that a right lacks, unless resolve
// finds that none does. It returns others as they are.
func (s Schema) denied(err error, sql, user string, resolve func(*DeniedError) bool) error {
	var pgErr *pgconn.PgError
	var already *DeniedError
	if err == nil || errors.As(err, &already) || !errors.As(err, &pgErr) || pgErr.Code != InsufficientPrivilege ||
		pgErr.Routine != aclCheck && pgErr.Routine != "" {
		return err
	}
	e := &DeniedError{Role: quoteName(user), Schema: s, err: err}
	for _, name := range ourTable.FindAllString(pgErr.Message, -1) {
		if e.Rights, e.locks = needed(sql, s.Quoted(), name); len(e.Rights) > 0 {
			e.Table = name
			break
		}
	}
	if e.Table == "" {
		if !strings.Contains(pgErr.Message, s.Name()) {
			return err
		}
		e.Rights = []string{"usage"}
	}
	if !resolve(e) {
		return err
	}
	return e
}

// quoteName is quote_ident, but for key words.
func quoteName(name string) string {
	if plainName.MatchString(name) {
		return name
	}
	return pgx.Identifier{name}.Sanitize()
}

// needed returns the rights to a table that a statement needs. locks says that update is
// among them only for a row lock.
func needed(sql, schema, table string) (rights []string, locks bool) {
	name := `(public|` + regexp.QuoteMeta(schema) + `)\.` + regexp.QuoteMeta(table)
	has := func(pattern string) bool { return regexp.MustCompile(pattern + name + `\b`).MatchString(sql) }
	insert, update, remove := has(`\binsert into `), has(`\bupdate `), has(`\bdelete from `)
	if insert && strings.Contains(sql, "do update") {
		update = true
	}
	if !insert || update || remove || strings.Contains(sql, "returning") || strings.Contains(sql, "on conflict") ||
		has(`\b(from|join|using)\s+`) {
		if !has(``) {
			return nil, false
		}
		rights = append(rights, "select")
	}
	if insert {
		rights = append(rights, "insert")
	}
	locks = !update && !insert && rowLocks.MatchString(sql)
	if update || locks {
		rights = append(rights, "update")
	}
	if remove {
		rights = append(rights, "delete")
	}
	return rights, locks
}

// The catalog answers whoever may not use the schema too. $1 schema, $2 table, $3 rights.
const lackingSQL = `
select quote_ident(current_user), has_schema_privilege(n.oid, 'usage'),
  array(
    select r.name
    from unnest($3::text[]) with ordinality r (name, place)
    where not has_table_privilege(c.oid, r.name)
    order by r.place
  )
from pg_namespace n
left join pg_class c on c.relnamespace = n.oid and c.relname = $2
where n.nspname = $1`

// resolveWithin bounds the question after the right that lacks: the error is known without it.
const resolveWithin = 5 * time.Second

// resolve asks the server which of the rights lack, and reports whether any does.
func (e *DeniedError) resolve(ctx context.Context, db Querier) bool {
	ctx, cancel := context.WithTimeout(ctx, resolveWithin)
	defer cancel()
	var role string
	var usage bool
	var lacking []string
	rights := e.Rights
	if e.Table == "" {
		rights = []string{}
	}
	if err := db.QueryRow(ctx, lackingSQL, e.Schema.Name(), e.Table, rights).Scan(&role, &usage, &lacking); err != nil {
		return true // what is known without it is right too
	}
	e.Role, e.Exact = role, true
	switch {
	case !usage:
		e.Table, e.Rights = "", []string{"usage"}
	case e.Table == "" || len(lacking) == 0:
		return false
	case e.locks && lacking[0] == "select":
		e.Rights = slices.DeleteFunc(lacking, func(right string) bool { return right == "update" })
	default:
		e.Rights = lacking
	}
	return true
}

// GrantsHint says which 'soniq grants' prints all that a kind of role needs.
func GrantsHint(schema Schema, kind roles.Kind) string {
	where := ""
	if schema.Name() != DefaultSchema {
		where = "--schema " + shellWord(schema.Name()) + " "
	}
	return "'soniq grants " + where + "--" + string(kind) + " ROLE' prints all that it needs"
}
