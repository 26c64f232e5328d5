package soniq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
)

// ErrSchemaName is wrapped by the error for a name that no schema of Soniq's can have.
var ErrSchemaName = pg.ErrSchemaName

// home is where the tables are, or belong.
type home struct {
	schema pg.Schema
	// exists: the schema is there. tables: so is soniq_jobs.
	exists, tables bool
	// path are the schemas that whoever doesn't write a schema looks our names up in, up to and with
	// this one: a role that may create objects in one of them gets between a statement and our tables.
	path []string
	// user is the role that the session's statements run as. owner owns soniq_jobs; empty where it
	// isn't there yet.
	user, owner string
	// trusted are the roles whose objects are not foreign, by oid, as the last audit found them.
	trusted []string
}

// Of built-in functions whose arguments match exactly: nothing in the session's search_path matches
// better.
const pathSQL = `select pg_catalog.current_schemas(false)::pg_catalog.text[]`

// From here on nothing is picked up that somebody made in a schema of the session's path, be it by a
// statement or by what one leaves in the catalog. Names that the catalog quotes are compared with those of
// schema.sql. To compile a statement that reads the catalog takes
// longer than to run it.
const pinPathSQL = `
set local search_path = pg_catalog, pg_temp;
set local standard_conforming_strings = on;
set local quote_all_identifiers = off;
set local jit = off`

// $1 the schemas to look in.
const homesSQL = `
select n.nspname::text, coalesce(pg_get_userbyid(c.relowner)::text, '')
from unnest($1::text[]) with ordinality s (name, place)
join pg_namespace n on n.nspname = s.name
left join pg_class c on c.relnamespace = n.oid and c.relname = 'soniq_jobs'
order by s.place`

// The schemas that have tables of Soniq, $1 aside.
const otherHomesSQL = `
select n.nspname::text
from pg_namespace n
join pg_class j on j.relnamespace = n.oid and j.relname = 'soniq_jobs' and j.relkind in ('r', 'p')
join pg_class m on m.relnamespace = n.oid and m.relname = 'soniq_migrations'
where n.nspname <> $1
  and n.nspname !~ '^pg_'
order by n.nspname
limit 1`

// findHome looks for the schema and pins the search_path of the transaction to the built-ins.
func findHome(ctx context.Context, tx pgx.Tx, cfg Config) (*home, error) {
	schema, err := pg.NewSchema(cfg.Schema)
	if err != nil {
		return nil, err
	}
	h, name := &home{schema: schema}, schema.Name()
	var path []string
	if err := tx.QueryRow(ctx, pathSQL).Scan(&path); err != nil {
		return nil, fmt.Errorf("read search_path: %w", err)
	}
	if _, err := tx.Exec(ctx, pinPathSQL); err != nil {
		return nil, fmt.Errorf("pin search_path: %w", err)
	}
	if err := tx.QueryRow(ctx, `select current_user`).Scan(&h.user); err != nil {
		return nil, fmt.Errorf("read current_user: %w", err)
	}
	// What begins so is the system's: pg_catalog, and pg_temp_N.
	path = slices.DeleteFunc(path, func(s string) bool { return strings.HasPrefix(s, "pg_") })
	var found, owner, other string
	rows, _ := tx.Query(ctx, homesSQL, append(slices.Clone(path), name))
	if _, err := pgx.ForEachRow(rows, []any{&found, &owner}, func() error {
		switch {
		case found == name:
			h.exists, h.owner, h.tables = true, owner, owner != ""
		case owner != "" && other == "":
			other = found
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("find soniq_jobs: %w", err)
	}
	// A database whose tables 0.1.0 has found by the search_path.
	if cfg.Schema == "" && !h.tables && other != "" {
		return nil, &OtherSchemaError{Schema: name, Found: other}
	}
	// And one whose tables are in a schema that the search_path no longer has: a second set of tables, all empty,
	// would hide them.
	if cfg.Schema == "" && !h.tables {
		switch err := tx.QueryRow(ctx, otherHomesSQL, name).Scan(&other); {
		case err == nil:
			return nil, &OtherSchemaError{Schema: name, Found: other, OffPath: true}
		case !errors.Is(err, pgx.ErrNoRows):
			return nil, fmt.Errorf("find other tables of Soniq: %w", err)
		}
	}
	if i := slices.Index(path, name); i >= 0 {
		path = path[:i]
	}
	h.path = append(path, name)
	return h, nil
}

// OtherSchemaError says that no schema was named, the default one has no tables of Soniq, and another one has. 0.1.0
// used those that it found by the search_path; later releases use the schema that [Config] names.
type OtherSchemaError struct {
	// Schema is the one that was looked in, and Found one that has the tables.
	Schema, Found string
	// OffPath: the session's search_path does not have Found.
	OffPath bool
}

func (e *OtherSchemaError) Error() string {
	which := "of the search_path"
	if e.OffPath {
		which = "of this database"
	}
	text := fmt.Sprintf("schema %q has no Soniq tables, but schema %q %s has: name the schema with --schema (SONIQ_SCHEMA, Config.Schema)",
		e.Schema, e.Found, which)
	if e.OffPath {
		text += fmt.Sprintf("; with %q a second, separate Soniq is set up", e.Schema)
	}
	return text
}

// create makes the schema where it isn't there.
func (h *home) create(ctx context.Context, tx pgx.Tx) error {
	if h.exists {
		return nil
	}
	_, err := tx.Exec(ctx, "create schema "+h.quoted())
	switch {
	case isCode(err, insufficientPrivilege):
		return fmt.Errorf("schema %q does not exist, and role %q may not create it: create it as another role ('create schema %s authorization %s'), "+
			"or grant create on the database to the role", h.name(), h.user, h.quoted(), pgx.Identifier{h.user}.Sanitize())
	case madeAtOnce(err):
		return fmt.Errorf("create schema %q: %w: %w", h.name(), errMadeAtOnce, err)
	case err != nil:
		return fmt.Errorf("create schema %q: %w", h.name(), err)
	}
	h.exists = true
	return nil
}

// Whatever the role or the database has as its default, each look sees what was committed before it.
var (
	readCommitted = pgx.TxOptions{IsoLevel: pgx.ReadCommitted}
	readOnly      = pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}
)

// beginner is a pool or a connection.
type beginner interface {
	BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error)
}

// readPinned runs do in a transaction that reads the catalog, under a search_path of built-ins.
func readPinned(ctx context.Context, db beginner, do func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, db, readOnly, func(tx pgx.Tx) error {
		tx = pg.PlainTx(tx)
		if _, err := tx.Exec(ctx, pinPathSQL); err != nil {
			return fmt.Errorf("pin search_path: %w", err)
		}
		return do(tx)
	})
}

// sql is a statement, or many, for the schema.
func (h *home) sql(statements string) string { return h.schema.SQL(statements) }

// name and quoted are the schema's name as the catalog has it and as SQL writes it.
func (h *home) name() string   { return h.schema.Name() }
func (h *home) quoted() string { return h.schema.Quoted() }
