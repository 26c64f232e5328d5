package database

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/cli/app"
	"soniq/internal/liveness"
	"soniq/internal/pg"
)

// $1 the schema.
const schemaExistsSQL = `
select exists (
  select
  from pg_catalog.pg_namespace n
  where n.nspname operator(pg_catalog.=) $1
)`

// The schemas of the tables that the role may look into.
const tableSchemasSQL = `
select coalesce(pg_catalog.array_agg(distinct n.nspname::pg_catalog.text), '{}')
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
where c.relname operator(pg_catalog.=) any ('{soniq_jobs,soniq_migrations}'::pg_catalog.name[])
  and c.relkind operator(pg_catalog.=) any ('{r,p}'::pg_catalog."char"[])
  and pg_catalog.has_schema_privilege(n.oid, 'usage')`

// missingSchema returns the schema of the tables where it does not exist, else
// the empty string.
func missingSchema(a *app.App, pool *pgxpool.Pool) (string, error) {
	schema, err := a.TableSchema()
	if err != nil {
		return "", err
	}
	var exists bool
	if err := (pg.Schema{}).Pool(pool).QueryRow(a.Ctx, schemaExistsSQL, schema.Name()).Scan(&exists); err != nil {
		return "", fmt.Errorf("look up schema %q: %w", schema.Name(), err)
	}
	if exists {
		return "", nil
	}
	return schema.Name(), nil
}

// requireSchema returns an error where a schema was named that does not exist. The
// error names the schemas that have Soniq's tables.
func requireSchema(a *app.App, pool *pgxpool.Pool) error {
	if a.SchemaName() == "" {
		return nil
	}
	missing, err := missingSchema(a, pool)
	if err != nil || missing == "" {
		return err
	}
	var others []string
	if err := (pg.Schema{}).Pool(pool).QueryRow(a.Ctx, tableSchemasSQL).Scan(&others); err != nil {
		return fmt.Errorf("look up the schemas with Soniq tables: %w", err)
	}
	if len(others) == 0 {
		return fmt.Errorf("schema %q does not exist, and no other schema has Soniq tables", missing)
	}
	return fmt.Errorf("schema %q does not exist; Soniq tables are in: %s", missing, strings.Join(others, ", "))
}

var liveWorkersSQL = `
select count(*)
from public.soniq_workers w
where version like 'go/%'
  and status <> 'stopped'
  and ` + liveness.LiveSQL("w", "'30 seconds'", "'30 seconds'")

// warnOfWorkers prints a warning where workers of Soniq for Go are alive, or where
// the role may not read that: it may still migrate as the owner of the tables.
func warnOfWorkers(a *app.App, pool *pgxpool.Pool) error {
	schema, err := a.TableSchema()
	if err != nil {
		return err
	}
	var alive int
	err = schema.Pool(pool).QueryRow(a.Ctx, liveWorkersSQL).Scan(&alive)
	switch {
	case err != nil:
		a.Note("Warning: cannot count live workers: %s", a.Describe(err))
	case alive == 0:
	case alive == 1:
		a.Note("Warning: 1 Go worker is alive. Stop it first if it is of this release: it does not run on an older schema.")
	default:
		a.Note("Warning: %d Go workers are alive. Stop those of this release first: they do not run on an older schema.", alive)
	}
	return nil
}
