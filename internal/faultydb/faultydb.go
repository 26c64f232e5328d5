// Package faultydb breaks the connection to the database at a statement, for tests.
package faultydb

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Fault is what happens to a connection at a statement.
type Fault int

// The faults.
const (
	none Fault = iota
	// BreaksBefore: it breaks before the statement is sent.
	BreaksBefore
	// BreaksAfter: it breaks when the server has done it, and before its answer
	// arrives.
	BreaksAfter
	// BreaksWithin: half of the answer arrives.
	BreaksWithin
	// Hangs: the server does it, and its answer never arrives.
	Hangs
)

func (f Fault) String() string {
	return [...]string{"none", "breaks before", "breaks after", "breaks within the answer", "hangs"}[f]
}

// ErrInjected is wrapped by the errors of a connection that was broken.
var ErrInjected = errors.New("injected fault")

// DB is a pool whose connections break at a statement. It is the pool's
// tracer: that knows which statement begins on which connection.
type DB struct {
	*pgxpool.Pool

	mu   sync.Mutex
	sql  string // how the statement begins
	kind Fault
	left int
	// Struck has a value for each fault that happened. Spent is closed after the last
	// of them.
	Struck chan struct{}
	Spent  chan struct{}
}

// Strike has a fault happen to the next statements that begin so. It can be
// called once.
func (f *DB) Strike(kind Fault, sql string, times int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kind, f.sql, f.left = kind, sql, times
}

// Again is Strike once all faults of the last one have happened.
func (f *DB) Again(kind Fault, sql string, times int) {
	f.mu.Lock()
	f.Spent = make(chan struct{})
	f.mu.Unlock()
	f.Strike(kind, sql, times)
}

// TraceQueryStart implements pgx.QueryTracer.
func (f *DB) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	f.begins(conn, data.SQL)
	return ctx
}

// TraceBatchStart implements pgx.BatchTracer.
func (f *DB) TraceBatchStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, q := range data.Batch.QueuedQueries {
		f.begins(conn, q.SQL)
	}
	return ctx
}

func (f *DB) begins(conn *pgx.Conn, sql string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// The listener's connection is wrapped by its own line.
	c, ok := conn.PgConn().Conn().(*brokenConn)
	if !ok || f.left == 0 || !strings.HasPrefix(sql, f.sql) {
		return
	}
	f.left--
	last := f.left == 0
	c.arm(f.kind, func() {
		f.Struck <- struct{}{}
		if last {
			close(f.Spent)
		}
	})
}

// TraceQueryEnd implements pgx.QueryTracer.
func (f *DB) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TraceBatchQuery implements pgx.BatchTracer.
func (f *DB) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd implements pgx.BatchTracer.
func (f *DB) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// New returns a pool on the database of this URL, which is closed at the end of the
// test.
func New(t testing.TB, url string) *DB {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	f := &DB{Struck: make(chan struct{}, 100), Spent: make(chan struct{})}
	config.MaxConns = 10
	config.ConnConfig.Tracer = f
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &brokenConn{Conn: conn}, nil
	}
	if f.Pool, err = pgxpool.NewWithConfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

// brokenConn is a connection to the server with one fault to come.
type brokenConn struct {
	net.Conn

	mu sync.Mutex
	// armed is the fault of the statement that begins, current that of the one
	// whose answer is awaited.
	armed, current Fault
	happened       func()
	answer         []byte // what was received of it
	ready          []byte // what may be read before the connection breaks
}

func (c *brokenConn) arm(kind Fault, happened func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed, c.happened = kind, happened
}

// Write looks for the message that has the statement done: Bind, or Query of
// the simple protocol. One that is new to the connection is parsed before, by
// a message of its own.
func (c *brokenConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	if c.armed != none && (b[0] == 'B' || b[0] == 'Q') {
		c.current, c.armed = c.armed, none
		c.happened()
	}
	before := c.current == BreaksBefore
	c.mu.Unlock()
	if before {
		return 0, errors.Join(ErrInjected, c.Conn.Close())
	}
	return c.Conn.Write(b)
}

func (c *brokenConn) Read(b []byte) (int, error) {
	for {
		c.mu.Lock()
		if len(c.ready) > 0 {
			n := copy(b, c.ready)
			if c.ready = c.ready[n:]; len(c.ready) == 0 {
				_ = c.Conn.Close()
			}
			c.mu.Unlock()
			return n, nil
		}
		c.mu.Unlock()
		n, err := c.Conn.Read(b)
		c.mu.Lock()
		current := c.current
		if current == BreaksAfter || current == BreaksWithin {
			c.answer = append(c.answer, b[:n]...)
		}
		whole := isWhole(c.answer)
		if current == BreaksWithin && whole {
			c.ready = c.answer[:len(c.answer)/2]
		}
		c.mu.Unlock()
		switch {
		case err != nil || current == none || current == BreaksBefore:
			return n, err
		case current == BreaksAfter && whole:
			return 0, errors.Join(ErrInjected, c.Conn.Close())
		}
	}
}

// isWhole reports whether an answer ends with ReadyForQuery: what was to be
// committed is.
func isWhole(answer []byte) bool {
	end := len(answer) - 6
	return end >= 0 && bytes.Equal(answer[end:end+5], []byte{'Z', 0, 0, 0, 5})
}
