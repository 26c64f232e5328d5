package soniq

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// What the schema's text says that it makes.
var (
	ObjectNames  = objectNames
	FunctionsSQL = functionsSQL
)

// Objects are those of schema.sql but for functions and triggers: their kind, name and table, and whether
// nothing can make them anew.
func Objects() (list [][3]string, lost map[string]bool) {
	lost = map[string]bool{}
	for _, o := range objectsOfSchema() {
		list = append(list, [3]string{o.kind, o.name, o.table})
		lost[o.String()] = o.statement == ""
	}
	return list, lost
}

// FunctionKeys are the functions, by name and types.
func FunctionKeys() map[string]bool {
	byKey, _ := (&home{}).definitions()
	keys := map[string]bool{}
	for key, d := range byKey {
		if !d.gone {
			keys[key] = d.definer
		}
	}
	return keys
}

// Statements splits SQL of ours.
var Statements = statements

// InMigration runs do in a transaction as that of a migration.
func InMigration(ctx context.Context, pool *pgxpool.Pool, cfg Config, do func(pgx.Tx) error) error {
	r := &runner{pool: pool, cfg: cfg}
	return r.inTx(ctx, func() string { return "a test" }, func(tx pgx.Tx, _ *home) error { return do(tx) })
}

// EachStep runs what a migration has to do, up or down, one statement after the other, and commits it. After each
// it calls after; lock tells that the statement only takes a lock.
func EachStep(ctx context.Context, pool *pgxpool.Pool, m Migration, up bool, after func(tx pgx.Tx, sql string, lock bool)) error {
	r := &runner{pool: pool}
	return r.inTx(ctx, m.String, func(tx pgx.Tx, h *home) error {
		before, err := h.open(ctx, tx)
		if err != nil {
			return err
		}
		if up {
			if _, err := h.ensureMigrations(ctx, tx, before); err != nil {
				return err
			}
		}
		sql := m.Up
		if !up {
			sql = m.Down
		}
		steps, err := r.script(h, before, sql)
		if err != nil {
			return err
		}
		for _, s := range steps {
			if _, err := tx.Exec(ctx, s.sql); err != nil {
				return err
			}
			after(tx, s.sql, s.sql != h.sql(s.source))
		}
		return nil
	})
}
