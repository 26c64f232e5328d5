package byindex

import (
	"cmp"
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// UnhurriedSQL keeps the rest of its transaction from being ended by a timeout that was
// set for the role or the database: these are meant for statements that nobody expects to
// take long. (transaction_timeout is unknown before PostgreSQL 17.)
const UnhurriedSQL = `
select count(set_config(s.name, '0', true))
from pg_catalog.pg_settings s
where s.name in ('statement_timeout', 'lock_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')`

// LookupSQL has the rest of its transaction look up each row by an index, one by one, in the
// order of an index where that is the one asked for: the plan is the same whatever the
// planner knows of the tables. It is for statements that join few rows with tables of any
// size. A list of rows must not be joined with another one, which would be read once for
// each row.
const LookupSQL = onlySQL + `, set_config('enable_bitmapscan', 'off', true), set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true), set_config('enable_sort', 'off', true)`

// Collect runs a statement under [LookupSQL] and returns its rows, in one round trip and a
// transaction of its own.
//
// Errors: those of the database, and of to.
func Collect[T any](ctx context.Context, pool Batcher, to pgx.RowToFunc[T], sql string, args ...any) (list []T, err error) {
	err = Again(ctx, pool, func(pool Batcher) error {
		var batch pgx.Batch
		batch.Queue(LookupSQL)
		rows, _ := query(ctx, pool, &batch, sql, args) // its error is that of the rows too
		list, err = pgx.CollectRows(rows, to)
		return err
	})
	return list, err
}

// Exec runs a statement under [LookupSQL], in one round trip and a transaction of its own.
//
// Errors: those of the database.
func Exec(ctx context.Context, pool Batcher, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	err = Again(ctx, pool, func(pool Batcher) error {
		var batch pgx.Batch
		batch.Queue(LookupSQL)
		rows, err := query(ctx, pool, &batch, sql, args)
		if err != nil {
			return err
		}
		for rows.Next() {
			continue
		}
		tag = rows.CommandTag()
		return rows.Err()
	})
	return tag, err
}

// LookupRow runs a statement under [LookupSQL] that returns one row, which is scanned, in one
// round trip and a transaction of its own.
//
// Errors: [pgx.ErrNoRows]; those of the database.
func LookupRow(ctx context.Context, pool Batcher, sql string, args []any, dest ...any) error {
	return row(ctx, pool, LookupSQL, sql, args, dest)
}

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
	return row(ctx, pool, UnhurriedSQL, sql, args, dest)
}

func row(ctx context.Context, pool Batcher, settings, sql string, args, dest []any) error {
	return Again(ctx, pool, func(pool Batcher) error {
		var batch pgx.Batch
		batch.Queue(settings)
		rows, err := query(ctx, pool, &batch, sql, args)
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
