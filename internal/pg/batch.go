package pg

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// SendBatch sends a batch, which is one implicit transaction and must not be a batch
// that begins one itself. It rewrites the batch in place: a batch is sent once.
//
// pgx sends a batch in the mode of the connection. Where the statements are sent in
// another one, they are run in turns, in a transaction.
func (s session) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	forced := pgx.QueryExecMode(s.mode.forced.Load())
	for _, q := range b.QueuedQueries {
		q.SQL = s.schema.SQL(q.SQL)
		if s.mode.isText(forced) {
			q.Arguments = textArgs(q.Arguments)
		}
	}
	if forced != 0 && s.mode.base == pgx.QueryExecModeCacheStatement {
		return &turns{ctx: ctx, session: s, queries: b.QueuedQueries}
	}
	return &batch{BatchResults: s.raw.SendBatch(ctx, b), ctx: ctx, session: s, sent: forced, queries: b.QueuedQueries}
}

// batch is a batch under way, which is run in turns if the first of its statements that
// fails was refused for how it was sent.
type batch struct {
	pgx.BatchResults
	ctx     context.Context
	session session
	sent    pgx.QueryExecMode
	queries []*pgx.QueuedQuery
	next    int // the number of results that were taken
	closed  bool
}

// failed reports whether the results are now those of turns.
func (b *batch) failed(err error) bool {
	if _, already := b.BatchResults.(*turns); already || !b.session.failed(err, b.sent) {
		return false
	}
	_ = b.BatchResults.Close() // nothing of it was done
	b.BatchResults = &turns{ctx: b.ctx, session: b.session, queries: b.queries, skip: b.next}
	return true
}

// denied is an error with the right that the role lacks for the next statement.
func (b *batch) denied(err error) error {
	if err == nil || b.next >= len(b.queries) {
		return err
	}
	s := b.session
	s.solo = false // the connection is not free
	return s.denied(b.ctx, err, b.queries[b.next].SQL)
}

func (b *batch) Exec() (pgconn.CommandTag, error) {
	tag, err := b.BatchResults.Exec()
	if b.failed(err) {
		tag, err = b.BatchResults.Exec()
	}
	err = b.denied(err)
	b.next++
	return tag, err
}

func (b *batch) Query() (pgx.Rows, error) {
	inner, err := b.BatchResults.Query()
	if b.failed(err) {
		inner, err = b.BatchResults.Query()
	}
	err = b.denied(err)
	b.next++
	return inner, err
}

func (b *batch) QueryRow() pgx.Row {
	inner, _ := b.Query() // Scan has the error
	return row{inner}
}

// Close calls the functions of results that were not taken.
func (b *batch) Close() error {
	if b.closed {
		return b.BatchResults.Close()
	}
	b.closed = true
	err := b.BatchResults.Close()
	if b.failed(err) {
		err = b.BatchResults.Close()
	}
	return err
}

// turns are the statements of a batch, each sent when its result is asked for, in one
// transaction, which Close commits.
type turns struct {
	ctx     context.Context
	session session
	queries []*pgx.QueuedQuery
	skip    int // so many were asked for before

	tx     pgx.Tx
	next   int
	closed bool
	err    error
}

// replay begins the transaction, and runs what was asked for before.
func (t *turns) replay() error {
	if t.tx == nil && t.err == nil {
		t.tx, t.err = t.session.Begin(t.ctx)
	}
	for t.err == nil && t.next < t.skip {
		q := t.queries[t.next]
		t.next++
		_, t.err = t.tx.Exec(t.ctx, q.SQL, q.Arguments...)
	}
	return t.err
}

// query is the next statement.
func (t *turns) query() (*pgx.QueuedQuery, error) {
	if err := t.replay(); err != nil {
		return nil, err
	}
	if t.next >= len(t.queries) {
		return nil, errors.New("no result: the batch has no more statements")
	}
	q := t.queries[t.next]
	t.next++
	return q, nil
}

func (t *turns) Exec() (tag pgconn.CommandTag, err error) {
	q, err := t.query()
	if err != nil {
		return tag, err
	}
	tag, t.err = t.tx.Exec(t.ctx, q.SQL, q.Arguments...)
	return tag, t.err
}

func (t *turns) Query() (pgx.Rows, error) {
	q, err := t.query()
	if err != nil {
		return noRows{err: err}, err
	}
	var inner pgx.Rows
	inner, t.err = t.tx.Query(t.ctx, q.SQL, q.Arguments...)
	return inner, t.err
}

func (t *turns) QueryRow() pgx.Row {
	inner, _ := t.Query() // Scan has the error
	return row{inner}
}

func (t *turns) Close() error {
	if t.closed {
		return t.err
	}
	t.closed = true
	for t.replay() == nil && t.next < len(t.queries) {
		if fn := t.queries[t.next].Fn; fn != nil {
			t.err = fn(t)
		} else {
			_, _ = t.Exec() // err is kept
		}
	}
	switch {
	case t.tx == nil:
	case t.err != nil:
		_ = t.tx.Rollback(context.WithoutCancel(t.ctx)) // err says why
	default:
		t.err = t.tx.Commit(t.ctx)
	}
	return t.err
}

func (t *turns) Tx() pgx.Tx { return nil }
