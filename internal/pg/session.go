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

// Tx returns tx with this schema in each statement, and with parameters that its
// connection's mode can send. Whoever made tx ends it.
func (s Schema) Tx(tx pgx.Tx) pgx.Tx {
	var m *mode
	if own, ok := tx.(transaction); ok {
		m = own.session.mode
	} else if conn := tx.Conn(); conn != nil {
		m = newMode(conn.Config())
		m.foreign = true
	} else {
		m = &mode{}
	}
	return transaction{tx, session{raw: tx, schema: s, mode: m}}
}

// Querier returns a transaction, or a connection, with this schema in each statement.
func (s Schema) Querier(q Querier) Querier {
	return querier{q, s}
}

// querier writes the schema into statements, and leaves the rest to whoever runs them.
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

// PlainTx returns tx with none of its statements prepared by name, for transactions that
// are not begun by a [Pool]: a pooler may not keep the names apart. Whoever made tx ends
// it.
func PlainTx(tx pgx.Tx) pgx.Tx {
	return transaction{tx, session{raw: tx, mode: plainMode(tx.Conn().Config())}}
}

// Plain returns a connection of which no statement is prepared by name, for those that
// are not sent by a [Pool]. Whoever made conn closes it.
func Plain(conn *pgx.Conn) Session {
	return session{raw: conn, mode: plainMode(conn.Config())}
}

func plainMode(config *pgx.ConnConfig) *mode {
	m := newMode(config)
	if m.base == pgx.QueryExecModeCacheStatement {
		m.forced.Store(int32(m.fallback))
	}
	return m
}

// Pool returns pool with this schema in each statement, sent in a mode that works there
// (see [Pool]). Whoever made pool closes it.
func (s Schema) Pool(pool *pgxpool.Pool) *Pool {
	m := modeOf(pool)
	p := &Pool{raw: pool, session: session{raw: ReadCommitted{checked{pool}}, schema: s, mode: m, solo: true, reset: pool.Reset}}
	p.beside = p.Connect
	return p
}

// session writes the schema into the statements of a pool, a connection or a
// transaction, and sends them in the pool's mode.
type session struct {
	raw    Session
	schema Schema
	mode   *mode
	// solo: each statement is a transaction of its own, so that one which was refused
	// may be sent again.
	solo bool
	// reset closes the connections of the pool, which lead to a server that must be
	// left; nil if there is none.
	reset func()
	// beside makes a connection of its own, as the pool does; nil without a pool.
	beside func(context.Context) (*pgx.Conn, error)
}

// failed takes in the error of a statement, and reports whether it is to be sent again.
func (s session) failed(err error, sent pgx.QueryExecMode) (again bool) {
	if err == nil {
		return false
	}
	if s.mode.metReadOnly(err) && s.reset != nil {
		s.reset()
	}
	return s.mode.learn(err, sent) && s.solo
}

func (s session) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	plain := sql
	sql = s.schema.SQL(sql)
	passed, sent := s.mode.args(args)
	tag, err := s.raw.Exec(ctx, sql, passed...)
	if s.failed(err, sent) {
		passed, _ = s.mode.args(args)
		tag, err = s.raw.Exec(ctx, sql, passed...)
	}
	return tag, s.denied(ctx, err, plain)
}

func (s session) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	plain := sql
	sql = s.schema.SQL(sql)
	passed, sent := s.mode.args(args)
	send := func() (pgx.Rows, error) {
		passed, _ := s.mode.args(args)
		return s.raw.Query(ctx, sql, passed...)
	}
	inner, err := s.raw.Query(ctx, sql, passed...)
	if s.failed(err, sent) {
		inner, err = send()
	}
	denied := func(err error) error { return s.denied(ctx, err, plain) }
	return &rows{Rows: inner, failed: func(err error) bool { return s.failed(err, sent) }, again: send, denied: denied}, denied(err)
}

func (s session) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := s.Query(ctx, sql, args...) // Scan has the error
	return row{rows}
}

func (s session) Begin(ctx context.Context) (pgx.Tx, error) {
	tx, err := s.raw.Begin(ctx)
	if err != nil {
		s.failed(err, 0)
		return nil, err
	}
	return s.within(tx), nil
}

// within is a transaction on this session's connections.
func (s session) within(tx pgx.Tx) pgx.Tx {
	s.raw, s.solo = tx, false
	return transaction{tx, s}
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

// rows are the rows of a statement, which is sent again if it was refused before the
// first one.
type rows struct {
	pgx.Rows
	failed func(error) (again bool)
	again  func() (pgx.Rows, error)
	denied func(error) error
	read   bool
	over   bool
	err    error // what denied has made of the error
}

func (r *rows) Err() error {
	if r.err == nil {
		r.err = r.denied(r.Rows.Err())
	}
	return r.err
}

func (r *rows) Next() bool {
	if r.Rows.Next() {
		r.read = true
		return true
	}
	if r.over {
		return false
	}
	r.over = true
	if !r.failed(r.Rows.Err()) || r.read {
		return false
	}
	r.Rows.Close()
	r.Rows, _ = r.again() // Err has the error
	return r.Next()
}

// row is the first row of a query.
type row struct{ rows pgx.Rows }

func (r row) Scan(dest ...any) error {
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}

// Pool is a pgxpool.Pool that writes the schema into each statement.
//
// It sends statements in the mode that works where the pool leads: prepared by name
// until a pooler can't keep the names apart. In the modes exec and simple_protocol it
// makes text of the parameters. Its connections speak UTF-8 whatever the role or the
// database sets. When a write meets a read-only server, the pool's connections are
// closed, so that the next ones may lead to another server.
type Pool struct {
	session
	raw *pgxpool.Pool
}

// Raw is the pool itself, for statements that name no table of Soniq's.
func (p *Pool) Raw() *pgxpool.Pool { return p.raw }

// Schema is the schema that the pool's statements name.
func (p *Pool) Schema() Schema { return p.schema }

// Config is a copy of the pool's configuration.
func (p *Pool) Config() *pgxpool.Config { return p.raw.Config() }

// BeginTx begins a transaction with these options; see [ReadCommitted].
func (p *Pool) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	tx, err := ReadCommitted{checked{p.raw}}.BeginTx(ctx, options)
	if err != nil {
		p.failed(err, 0)
		return nil, err
	}
	return p.within(tx), nil
}

// AcquireFunc runs do with a connection of the pool, and releases it then. What
// do runs through db names the schema.
func (p *Pool) AcquireFunc(ctx context.Context, do func(conn *pgx.Conn, db Session) error) error {
	conn, err := checked{p.raw}.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return do(conn.Conn(), p.on(conn.Conn()))
}

// on is a session on a connection of its own.
func (p *Pool) on(conn *pgx.Conn) Session {
	s := p.session
	s.raw = ReadCommitted{conn}
	return s
}

// checked is a pool whose connections speak UTF-8; see [speakSQL].
type checked struct{ pool *pgxpool.Pool }

// acquire costs no round trip where the encoding is right: the server reports it.
func (c checked) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	conn, err := c.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	speak := speakSQL(conn.Conn())
	if speak == "" {
		return conn, nil
	}
	if _, err := conn.Exec(ctx, speak); err != nil {
		conn.Release()
		return nil, err
	}
	return conn, nil
}

// speakSQL sets the encoding of a session; it is empty where that is right. pgx writes
// the strings of Go as they are, and so UTF-8, whatever the session says. A database in
// SQL_ASCII knows of no encoding: a row may have bytes that are not UTF-8, and the server
// would refuse whatever reads it, with all other rows. So there the bytes come and go as
// they are, but for the simple protocol, which pgx refuses then.
func speakSQL(conn *pgx.Conn) string {
	wanted := "UTF8"
	if conn.PgConn().ParameterStatus("server_encoding") == "SQL_ASCII" && conn.Config().DefaultQueryExecMode != pgx.QueryExecModeSimpleProtocol {
		wanted = "SQL_ASCII"
	}
	encoding := conn.PgConn().ParameterStatus("client_encoding")
	if encoding == wanted || encoding == "" { // a pooler may report nothing
		return ""
	}
	return "set client_encoding = '" + wanted + "'"
}

func (c checked) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	conn, err := c.acquire(ctx)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	defer conn.Release()
	return conn.Exec(ctx, sql, args...)
}

func (c checked) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	conn, err := c.acquire(ctx)
	if err != nil {
		return noRows{err: err}, err
	}
	inner, err := conn.Query(ctx, sql, args...)
	if err != nil {
		conn.Release()
		return noRows{err: err}, err
	}
	return &heldRows{inner, conn}, nil
}

func (c checked) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := c.Query(ctx, sql, args...) // Scan has the error
	return row{rows}
}

func (c checked) Begin(ctx context.Context) (pgx.Tx, error) {
	return c.BeginTx(ctx, pgx.TxOptions{})
}

func (c checked) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	tx, err := c.pool.BeginTx(ctx, options)
	if err != nil {
		return tx, err
	}
	speak := speakSQL(tx.Conn())
	if speak == "" {
		return tx, nil
	}
	if _, err := tx.Exec(ctx, speak); err != nil {
		_ = tx.Rollback(context.WithoutCancel(ctx)) // err says why
		return nil, err
	}
	return tx, nil
}

func (c checked) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	conn, err := c.acquire(ctx)
	if err != nil {
		return failedBatch{err}
	}
	return &heldBatch{conn.SendBatch(ctx, b), conn}
}

// heldRows hold a connection of the pool until they are closed.
type heldRows struct {
	pgx.Rows
	conn *pgxpool.Conn
}

func (r *heldRows) Next() bool {
	more := r.Rows.Next()
	if !more {
		r.Close()
	}
	return more
}

func (r *heldRows) Scan(dest ...any) error {
	err := r.Rows.Scan(dest...)
	if err != nil {
		r.Close()
	}
	return err
}

func (r *heldRows) Close() {
	r.Rows.Close()
	if r.conn != nil {
		r.conn.Release()
		r.conn = nil
	}
}

// noRows are the rows of a query that could not be sent.
type noRows struct {
	pgx.Rows
	err error
}

func (r noRows) Close()                                       {}
func (r noRows) Err() error                                   { return r.err }
func (r noRows) Next() bool                                   { return false }
func (r noRows) Scan(...any) error                            { return r.err }
func (r noRows) Values() ([]any, error)                       { return nil, r.err }
func (r noRows) RawValues() [][]byte                          { return nil }
func (r noRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (r noRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (r noRows) Conn() *pgx.Conn                              { return nil }

// heldBatch holds a connection of the pool until it is closed.
type heldBatch struct {
	pgx.BatchResults
	conn *pgxpool.Conn
}

func (b *heldBatch) Close() error {
	err := b.BatchResults.Close()
	if b.conn != nil {
		b.conn.Release()
		b.conn = nil
	}
	return err
}

// failedBatch is a batch that could not be sent.
type failedBatch struct{ err error }

func (b failedBatch) Exec() (pgconn.CommandTag, error) { return pgconn.CommandTag{}, b.err }
func (b failedBatch) Query() (pgx.Rows, error)         { return noRows{err: b.err}, b.err }
func (b failedBatch) QueryRow() pgx.Row                { return row{noRows{err: b.err}} }
func (b failedBatch) Close() error                     { return b.err }
func (b failedBatch) Tx() pgx.Tx                       { return nil }
