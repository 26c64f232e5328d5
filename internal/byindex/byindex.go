// Package byindex runs the statements of every job in such a way that the server
// can keep their plans.
//
// A plan takes the server longer to make than a claim of one job to run, 0.5 of
// 0.7 ms, so it should be kept. But a plan that was made while the table was
// empty, as an idle queue's is, reads the whole table, and goes on to do so
// until the next ANALYZE, a minute after 200,000 jobs have come: 250 ms a claim.
// So these statements are planned as if no table were small.
//
// A statement's plan is kept where it doesn't depend on the parameters: one that
// the planner makes an estimate of, as of the length of an array, it must not
// see. Hide it in a sub-select: (select $1::uuid[]).
package byindex

import (
	"context"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// For the transaction, which is that of the statement that follows. Where a
// table can be read in no other way, the plan counts as so expensive that the
// server would compile it each time: for most of a second.
const onlySQL = `select set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)`

// Query is pool.Query of a statement whose plan is kept. It is one round trip
// and a transaction of its own. As there, the rows need no Close after an error.
func Query(ctx context.Context, pool *pgxpool.Pool, sql string, args ...any) (pgx.Rows, error) {
	var batch pgx.Batch
	batch.Queue(onlySQL)
	return query(ctx, pool, &batch, sql, args)
}

const patientSQL = onlySQL + `, set_config('lock_timeout', $1, true)`

// QueryPatient is Query that waits for each lock no longer than patience.
func QueryPatient(ctx context.Context, pool *pgxpool.Pool, patience time.Duration, sql string, args ...any) (pgx.Rows, error) {
	var batch pgx.Batch
	batch.Queue(patientSQL, strconv.FormatInt(patience.Milliseconds(), 10)+"ms")
	return query(ctx, pool, &batch, sql, args)
}

// query adds the statement to what goes before it.
func query(ctx context.Context, pool *pgxpool.Pool, batch *pgx.Batch, sql string, args []any) (pgx.Rows, error) {
	batch.Queue(sql, args...)
	results := pool.SendBatch(ctx, batch)
	// Its error is that of the second, too.
	_, _ = results.Exec()
	inner, err := results.Query()
	rows := &rowsOf{Rows: inner, results: results}
	if err != nil {
		rows.Close()
	}
	return rows, err
}

// rowsOf are at their end once the transaction is: what was read is then
// committed, or Err says why not.
type rowsOf struct {
	pgx.Rows
	results pgx.BatchResults
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

// Close gives the connection back, which is somebody else's from then on.
func (r *rowsOf) Close() {
	if r.closed {
		return
	}
	r.closed = true
	r.Rows.Close()
	r.err = r.results.Close()
}

func (r *rowsOf) Err() error {
	if err := r.Rows.Err(); err != nil {
		return err
	}
	return r.err
}
