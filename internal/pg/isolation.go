package pg

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"soniq/internal/pause"
)

// Conn is a pool or a connection.
type Conn interface {
	Session
	BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error)
}

// ReadCommitted runs statements that are written for the isolation level read committed,
// whatever the role or the database has as its default. A transaction begins at that
// level, unless its options name another one, which costs nothing. A statement by itself
// runs at the default. If that makes it fail, for it found a row changed since it began
// (SQLSTATE 40001), or if it ended a deadlock, it has done nothing, and is run again in a
// transaction of its own at read committed. So is one that found no room in the queue of
// notifications, where there is some; see [FreeNotifyQueue]. (A session's default is not set: behind a
// pooler it would be left to others.) A batch is not run again: who sends one tries again.
type ReadCommitted struct{ Conn }

// mostTries bounds how often a statement is run again for deadlocks.
const mostTries = 10

// again runs do in a transaction at read committed.
func (c ReadCommitted) again(ctx context.Context, do func(pgx.Tx) error) (err error) {
	for range mostTries {
		err = InTxWith(ctx, c.Conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, do)
		if !conflicts(err) || pause.For(ctx, rand.N(50*time.Millisecond)) != nil {
			break
		}
	}
	return err
}

// conflicts reports whether another transaction was the reason for an error.
func conflicts(err error) bool { return IsCode(err, SerializationFailure, DeadlockDetected) }

// FreeNotifyQueue makes room in the server's queue of notifications, if nobody needs what
// is in it, and returns how full it is then, from 0 to 1. PostgreSQL makes room when
// somebody adds a notification, which nobody can once the queue is full: then it stays
// full after the session has ended that held it, and every NOTIFY fails until somebody
// asks how full it is (seen in PostgreSQL 17 and 18).
func FreeNotifyQueue(ctx context.Context, db Session) (usage float64, err error) {
	err = db.QueryRow(ctx, `select pg_notification_queue_usage()`).Scan(&usage)
	return usage, err
}

// freed reports whether err is that the queue of notifications is full, which it is no
// longer.
func freed(ctx context.Context, db Session, err error) bool {
	if !IsNotifyQueueFull(err) {
		return false
	}
	usage, err := FreeNotifyQueue(ctx, db)
	return err == nil && usage < 1
}

// Again runs do on db and, where db is a pool and do ends in a conflict, again in transactions of
// their own at read committed. Use it for statements that are no transaction of their own (a
// batch), and for those whose rows are read one by one: at serializable the conflict may be found
// when they are committed, after the last row. do must begin anew each time.
//
// Errors: those of do, and of the transaction.
func Again(ctx context.Context, db Querier, do func(Querier) error) error {
	err := do(db)
	if pool, ok := db.(Conn); ok && (conflicts(err) || freed(ctx, pool, err)) {
		err = ReadCommitted{pool}.again(ctx, func(tx pgx.Tx) error { return do(tx) })
	}
	return err
}

// Collect runs a statement and returns its rows, by [Again].
//
// Errors: those of the database, and of to.
func Collect[T any](ctx context.Context, db Querier, to pgx.RowToFunc[T], sql string, args ...any) (list []T, err error) {
	err = Again(ctx, db, func(db Querier) (err error) {
		rows, _ := db.Query(ctx, sql, args...) // its error is that of the rows too
		list, err = pgx.CollectRows(rows, to)
		return err
	})
	return list, err
}

// Exec runs a statement.
func (c ReadCommitted) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	tag, err := c.Conn.Exec(ctx, sql, args...)
	if conflicts(err) || freed(ctx, c.Conn, err) {
		err = c.again(ctx, func(tx pgx.Tx) (err error) {
			tag, err = tx.Exec(ctx, sql, args...)
			return err
		})
	}
	return tag, err
}

// QueryRow runs a statement whose first row Scan returns.
func (c ReadCommitted) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return rowAgain{c, ctx, c.Conn.QueryRow(ctx, sql, args...), sql, args}
}

type rowAgain struct {
	c    ReadCommitted
	ctx  context.Context //nolint:containedctx // As pgx's own rows, it is used at once.
	row  pgx.Row
	sql  string
	args []any
}

func (r rowAgain) Scan(dest ...any) error {
	err := r.row.Scan(dest...)
	if conflicts(err) || freed(r.ctx, r.c.Conn, err) {
		err = r.c.again(r.ctx, func(tx pgx.Tx) error { return tx.QueryRow(r.ctx, r.sql, r.args...).Scan(dest...) })
	}
	return err
}

// Query runs a statement. It is run again only if no row of it was read; see [Again].
func (c ReadCommitted) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	rows, err := c.Conn.Query(ctx, sql, args...)
	again := func() (pgx.Tx, pgx.Rows, error) {
		tx, err := c.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
		if err != nil {
			return nil, nil, err
		}
		rows, err := tx.Query(ctx, sql, args...)
		return tx, rows, err
	}
	r := &rowsAgain{Rows: rows, ctx: ctx, again: again}
	if conflicts(err) && r.retry(err) {
		err = r.Err()
	}
	return r, err
}

type rowsAgain struct {
	pgx.Rows
	ctx   context.Context //nolint:containedctx // As pgx's own rows, it ends with them.
	again func() (pgx.Tx, pgx.Rows, error)
	tries int
	read  bool
	// tx is the transaction of the rows that are read now; nil if it is over, or none.
	tx  pgx.Tx
	err error
}

// retry reports whether there are other rows, or another error, after err.
func (r *rowsAgain) retry(err error) bool {
	if r.read || r.tries >= mostTries || !conflicts(err) {
		return false
	}
	r.tries++
	r.Rows.Close()
	r.end()
	tx, rows, err := r.again()
	r.tx, r.err = tx, nil
	if rows == nil {
		r.err = err
		return true
	}
	r.Rows = rows
	return true
}

// end ends the transaction of the rows.
func (r *rowsAgain) end() {
	if r.tx == nil {
		return
	}
	tx := r.tx
	r.tx = nil
	if r.Rows.Err() != nil {
		_ = tx.Rollback(context.WithoutCancel(r.ctx)) // the rows have the error
		return
	}
	r.err = tx.Commit(r.ctx)
}

func (r *rowsAgain) Next() bool {
	if r.err != nil {
		return false
	}
	if r.Rows.Next() {
		r.read = true
		return true
	}
	if r.retry(r.Rows.Err()) {
		return r.Next()
	}
	r.end()
	return false
}

func (r *rowsAgain) Err() error {
	if r.err != nil {
		return r.err
	}
	return r.Rows.Err()
}

func (r *rowsAgain) Close() {
	r.Rows.Close()
	r.end()
}

// Begin begins a transaction at read committed.
func (c ReadCommitted) Begin(ctx context.Context) (pgx.Tx, error) {
	return c.BeginTx(ctx, pgx.TxOptions{})
}

// BeginTx begins a transaction, at read committed unless the options name another level.
func (c ReadCommitted) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	if options.IsoLevel == "" {
		options.IsoLevel = pgx.ReadCommitted
	}
	return c.Conn.BeginTx(ctx, options)
}
