package byindex

import (
	"cmp"
	"context"

	"github.com/jackc/pgx/v5"
)

// UnhurriedSQL keeps the rest of its transaction from being ended by a timeout that was
// set for the role or the database: these are meant for statements that nobody expects to
// take long. (transaction_timeout is unknown before PostgreSQL 17.)
const UnhurriedSQL = `
select count(set_config(s.name, '0', true))
from pg_catalog.pg_settings s
where s.name in ('statement_timeout', 'lock_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')`

// SettingsSQL has the rest of its transaction planned as [Query] has its statement.
const SettingsSQL = onlySQL

// Unhurried runs a statement that may take as long as it needs, in one round trip and a
// transaction of its own. As with [pgx.Conn.Query], the rows need no Close after an
// error.
//
// Errors: those of the database.
func Unhurried(ctx context.Context, pool Batcher, sql string, args ...any) (pgx.Rows, error) {
	var batch pgx.Batch
	batch.Queue(UnhurriedSQL)
	return query(ctx, pool, &batch, sql, args)
}

// UnhurriedRow is [Unhurried] for a statement that returns one row, which is scanned.
//
// Errors: [pgx.ErrNoRows]; those of the database.
func UnhurriedRow(ctx context.Context, pool Batcher, sql string, args []any, dest ...any) error {
	return Again(ctx, pool, func(pool Batcher) error {
		rows, err := Unhurried(ctx, pool, sql, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		if !rows.Next() {
			return cmp.Or(rows.Err(), pgx.ErrNoRows)
		}
		err = rows.Scan(dest...)
		rows.Close()
		return cmp.Or(err, rows.Err())
	})
}
