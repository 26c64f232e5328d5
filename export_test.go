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
func InMigration(ctx context.Context, pool *pgxpool.Pool, do func(pgx.Tx) error) error {
	return pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
		r := &runner{conn: c.Conn()}
		return r.inTx(ctx, func() string { return "a test" }, func(tx pgx.Tx, _ *home) error { return do(tx) })
	})
}
