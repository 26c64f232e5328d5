package soniq

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
)

// home is where the tables are, or belong.
type home struct {
	schema string
	// path are the schemas that the session looks names up in, up to and with
	// this one: whoever may create objects in one of them gets between a
	// statement and our tables.
	path []string
	// user is the role that the session's statements run as; owner is the one
	// that soniq_jobs belongs to, empty where it isn't there yet.
	user, owner string
}

// Of built-in functions whose arguments match exactly: nothing in the session's
// search_path matches better.
const pathSQL = `select pg_catalog.current_schemas(false)::pg_catalog.text[]`

// From here on nothing is picked up that somebody made in a schema of the
// session's path, be it by a statement or by what one leaves in the catalog. To
// compile a statement that reads the catalog takes longer than to run it.
const pinPathSQL = `
set local search_path = pg_catalog, pg_temp;
set local standard_conforming_strings = on;
set local jit = off`

// $1 the schemas of the path.
const homeSQL = `
select s.name, s.place, pg_get_userbyid(c.relowner)
from unnest($1::text[]) with ordinality s (name, place)
join pg_namespace n on n.nspname = s.name
join pg_class c on c.relnamespace = n.oid and c.relname = 'soniq_jobs'
order by s.place
limit 1`

// errNoSchema is the error of a search_path that leads to no schema.
var errNoSchema = errors.New("no schema of the search_path exists: create one, or set the search_path to the schema of Soniq's tables")

// findHome finds the schema of the tables and pins the search_path of the
// transaction to the built-ins.
func findHome(ctx context.Context, tx pgx.Tx) (*home, error) {
	var path []string
	if err := tx.QueryRow(ctx, pathSQL).Scan(&path); err != nil {
		return nil, fmt.Errorf("read search_path: %w", err)
	}
	if _, err := tx.Exec(ctx, pinPathSQL); err != nil {
		return nil, fmt.Errorf("pin search_path: %w", err)
	}
	h := &home{}
	for _, schema := range path {
		// What begins so is the system's: pg_catalog, and pg_temp_N.
		if !strings.HasPrefix(schema, "pg_") {
			h.path = append(h.path, schema)
		}
	}
	if len(h.path) == 0 {
		return nil, errNoSchema
	}
	if err := tx.QueryRow(ctx, `select current_user`).Scan(&h.user); err != nil {
		return nil, fmt.Errorf("read current_user: %w", err)
	}
	var place int
	err := tx.QueryRow(ctx, homeSQL, h.path).Scan(&h.schema, &place, &h.owner)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		h.schema, place = h.path[0], 1
	case err != nil:
		return nil, fmt.Errorf("find soniq_jobs: %w", err)
	}
	h.path = h.path[:place]
	// The only text that can end a function's body early.
	if strings.Contains(h.schema, "$$") {
		return nil, fmt.Errorf("the name of schema %q has $$ in it, which no function of Soniq's can refer to: use another schema", h.schema)
	}
	return h, nil
}

// locate is findHome for statements that need no transaction.
func locate(ctx context.Context, conn *pgx.Conn) (h *home, err error) {
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		h, err = findHome(ctx, tx)
		return err
	})
	return h, err
}

// schemaTokens finds what sql replaces, and what it must step over: a comment,
// where an apostrophe begins no literal, and a literal.
var schemaTokens = regexp.MustCompile(`--[^\n]*|'(?:[^']|'')*'|\bpublic\.`)

// sql is a statement, or many, that says 'public.' before our names, with the
// tables' schema in its place. A literal is changed if it begins with it, as
// 'public.soniq_jobs'::regclass does; comments stay as they are, so that a name
// with a line break can't end one.
func (h *home) sql(statements string) string {
	name := h.quoted() + "."
	literal := "'" + strings.ReplaceAll(name, "'", "''")
	return schemaTokens.ReplaceAllStringFunc(statements, func(token string) string {
		if token == "public." {
			return name
		}
		if rest, ok := strings.CutPrefix(token, "'public."); ok {
			return literal + rest
		}
		return token
	})
}

// quoted is the schema's name as SQL writes it.
func (h *home) quoted() string {
	if h.schema == "public" {
		return h.schema
	}
	return pgx.Identifier{h.schema}.Sanitize()
}
