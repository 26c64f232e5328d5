// Package byindex runs the statements that each job needs, so that the server can
// keep their plans.
//
// Making a plan takes the server longer than claiming one job: 0.5 of 0.7 ms. So
// the plan should be kept. But a plan that was made while the table was empty
// reads the whole table, and is used until the next ANALYZE, a minute after
// 200,000 jobs have come: a claim then takes 250 ms. So these statements are
// planned without sequential scans.
//
// The server keeps a plan only if it doesn't depend on the parameters. Hide a
// parameter that the planner makes an estimate of, such as an array, in a
// sub-select: (select $1::uuid[]).
package byindex

import (
	"context"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
)

// The settings last for the transaction, which is that of the statement that
// follows. A plan that needs a sequential scan all the same counts as so expensive
// that the server would compile it each time, for most of a second: jit is off. A role's
// statement_timeout is meant for people: the callers limit these statements themselves.
const onlySQL = `select set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true), set_config('statement_timeout', '0', true)`

// Batcher sends a batch as one implicit transaction: a pgxpool.Pool or a pg.Pool.
type Batcher interface {
	SendBatch(ctx context.Context, batch *pgx.Batch) pgx.BatchResults
}

// Again is [pg.Again] for statements of this package.
//
// Errors: those of do, and of the transaction.
func Again(ctx context.Context, pool Batcher, do func(Batcher) error) error {
	db, ok := pool.(pg.Querier)
	if !ok {
		return do(pool)
	}
	return pg.Again(ctx, db, func(db pg.Querier) error { return do(db.(Batcher)) }) // the pool, or a transaction
}

// Query runs a statement whose plan is kept, in one round trip and a transaction
// of its own. As with [pgx.Conn.Query], the rows need no Close after an error.
//
// Errors: those of the database.
func Query(ctx context.Context, pool Batcher, sql string, args ...any) (pgx.Rows, error) {
	var batch pgx.Batch
	batch.Queue(onlySQL)
	return query(ctx, pool, &batch, sql, args)
}

// LockPatience is how long an outcome waits for a lock: of its row, or of a unique key
// that somebody has inserted and not committed, for as long as they like. All outcomes
// of its batch wait with it.
const LockPatience = 300 * time.Millisecond

const patientSQL = onlySQL + `, set_config('lock_timeout', $1, true)`

// QueryPatient is [Query] with a lock_timeout of patience.
//
// Errors: those of the database; SQLSTATE 55P03 for a lock that was not free in
// time.
func QueryPatient(ctx context.Context, pool Batcher, patience time.Duration, sql string, args ...any) (pgx.Rows, error) {
	var batch pgx.Batch
	batch.Queue(patientSQL, strconv.FormatInt(patience.Milliseconds(), 10)+"ms")
	return query(ctx, pool, &batch, sql, args)
}

// query adds the statement to the batch and sends it.
func query(ctx context.Context, pool Batcher, batch *pgx.Batch, sql string, args []any) (pgx.Rows, error) {
	batch.Queue(sql, args...)
	results := pool.SendBatch(ctx, batch)
	// If the first statement fails, so does the second, with the same error.
	_, _ = results.Exec()
	inner, err := results.Query()
	rows := &rowsOf{Rows: inner, results: results, denied: func(err error) error { return pg.Denied(ctx, pool, err, sql) }}
	if err != nil {
		rows.Close()
		err = rows.denied(err)
	}
	return rows, err
}

// rowsOf ends the transaction after the last row. Once Next has returned false,
// what was read is committed, or Err says why not.
type rowsOf struct {
	pgx.Rows
	results pgx.BatchResults
	denied  func(error) error
	closed  bool
	err     error
}

func (r *rowsOf) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

// Close returns the connection to the pool. A second call does nothing: another
// caller may have the connection by then.
func (r *rowsOf) Close() {
	if r.closed {
		return
	}
	r.closed = true
	r.Rows.Close()
	r.err = r.results.Close()
}

func (r *rowsOf) Err() error {
	err := r.Rows.Err()
	if err == nil {
		err = r.err
	}
	if err != nil && r.closed {
		err = r.denied(err)
	}
	return err
}
