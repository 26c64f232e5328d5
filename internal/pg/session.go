package pg

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Querier runs a statement: a pool, a connection or a transaction.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Session is a [Querier] that begins transactions and sends batches.
type Session interface {
	Querier
	Begin(ctx context.Context) (pgx.Tx, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// Querier returns q with this schema in each statement.
func (s Schema) Querier(q Querier) Querier {
	if s.in == nil {
		return q
	}
	return querier{q, s}
}

// Session returns db with this schema in each statement.
func (s Schema) Session(db Session) Session {
	if s.in == nil {
		return db
	}
	return session{querier{db, s}, db}
}

// Tx returns tx with this schema in each statement. Whoever made tx ends it.
func (s Schema) Tx(tx pgx.Tx) pgx.Tx {
	if s.in == nil {
		return tx
	}
	return transaction{tx, session{querier{tx, s}, tx}}
}

// Pool returns pool with this schema in each statement. Whoever made pool closes
// it.
func (s Schema) Pool(pool *pgxpool.Pool) *Pool {
	return &Pool{raw: pool, schema: s}
}

type querier struct {
	q      Querier
	schema Schema
}

func (q querier) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return q.q.Exec(ctx, q.schema.SQL(sql), args...)
}

func (q querier) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return q.q.Query(ctx, q.schema.SQL(sql), args...)
}

func (q querier) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return q.q.QueryRow(ctx, q.schema.SQL(sql), args...)
}

type session struct {
	querier
	db Session
}

func (s session) Begin(ctx context.Context) (pgx.Tx, error) {
	tx, err := s.db.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return s.schema.Tx(tx), nil
}

// SendBatch rewrites the batch in place: a batch is sent once.
func (s session) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	for _, q := range b.QueuedQueries {
		q.SQL = s.schema.SQL(q.SQL)
	}
	return s.db.SendBatch(ctx, b)
}

// transaction takes all but the statements from the transaction itself.
type transaction struct {
	pgx.Tx
	session session
}

func (t transaction) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return t.session.Exec(ctx, sql, args...)
}

func (t transaction) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return t.session.Query(ctx, sql, args...)
}

func (t transaction) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return t.session.QueryRow(ctx, sql, args...)
}

func (t transaction) Begin(ctx context.Context) (pgx.Tx, error) { return t.session.Begin(ctx) }

func (t transaction) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return t.session.SendBatch(ctx, b)
}

func (t transaction) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	return t.Tx.Prepare(ctx, name, t.session.schema.SQL(sql))
}

// Pool is a pgxpool.Pool that writes the schema into each statement.
type Pool struct {
	raw    *pgxpool.Pool
	schema Schema
}

// Raw is the pool itself, for statements that name no table of Soniq's.
func (p *Pool) Raw() *pgxpool.Pool { return p.raw }

// Schema is the schema that the pool's statements name.
func (p *Pool) Schema() Schema { return p.schema }

// Config is a copy of the pool's configuration.
func (p *Pool) Config() *pgxpool.Config { return p.raw.Config() }

// Exec runs a statement on a connection of the pool.
func (p *Pool) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return ReadCommitted{p.raw}.Exec(ctx, p.schema.SQL(sql), args...)
}

// Query runs a statement on a connection of the pool, which is released when the
// rows are closed.
func (p *Pool) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return ReadCommitted{p.raw}.Query(ctx, p.schema.SQL(sql), args...)
}

// QueryRow runs a statement on a connection of the pool, which is released when
// the row is scanned.
func (p *Pool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return ReadCommitted{p.raw}.QueryRow(ctx, p.schema.SQL(sql), args...)
}

// SendBatch sends a batch on a connection of the pool, which is released when the
// results are closed.
func (p *Pool) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return p.schema.Session(p.raw).SendBatch(ctx, b)
}

// Begin begins a transaction.
func (p *Pool) Begin(ctx context.Context) (pgx.Tx, error) {
	return p.BeginTx(ctx, pgx.TxOptions{})
}

// BeginTx begins a transaction with these options; see [ReadCommitted].
func (p *Pool) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	tx, err := ReadCommitted{p.raw}.BeginTx(ctx, options)
	if err != nil {
		return nil, err
	}
	return p.schema.Tx(tx), nil
}

// AcquireFunc runs do with a connection of the pool, and releases it then. What
// do runs through db names the schema.
func (p *Pool) AcquireFunc(ctx context.Context, do func(conn *pgx.Conn, db Session) error) error {
	return p.raw.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
		return do(c.Conn(), p.schema.Session(ReadCommitted{c.Conn()}))
	})
}
