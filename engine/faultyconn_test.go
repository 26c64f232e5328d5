package engine_test

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

// fault is what happens to a connection at a statement.
type fault int

const (
	noFault fault = iota
	// breaksBefore: it breaks before the statement is sent.
	breaksBefore
	// breaksAfter: it breaks when the server has done it, and before its answer
	// arrives.
	breaksAfter
	// breaksWithin: half of the answer arrives.
	breaksWithin
	// hangs: the server does it, and its answer never arrives.
	hangs
)

func (f fault) String() string {
	return [...]string{"none", "breaks before", "breaks after", "breaks within the answer", "hangs"}[f]
}

var errInjected = errors.New("injected fault")

// faultyDB is a pool whose connections break at a statement. It is the pool's
// tracer: that knows which statement begins on which connection.
type faultyDB struct {
	*pgxpool.Pool

	mu   sync.Mutex
	sql  string // how the statement begins
	kind fault
	left int
	// struck has a value for each fault that happened; spent is closed after the
	// last of them.
	struck chan struct{}
	spent  chan struct{}
}

// strike has a fault happen to the next statements that begin so. It can be
// called once.
func (f *faultyDB) strike(kind fault, sql string, times int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kind, f.sql, f.left = kind, sql, times
}

// again is strike once all faults of the last one have happened.
func (f *faultyDB) again(kind fault, sql string, times int) {
	f.mu.Lock()
	f.spent = make(chan struct{})
	f.mu.Unlock()
	f.strike(kind, sql, times)
}

func (f *faultyDB) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	f.begins(conn, data.SQL)
	return ctx
}

func (f *faultyDB) TraceBatchStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, q := range data.Batch.QueuedQueries {
		f.begins(conn, q.SQL)
	}
	return ctx
}

func (f *faultyDB) begins(conn *pgx.Conn, sql string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// The listener's connection is wrapped by its own line.
	c, ok := conn.PgConn().Conn().(*faultyConn)
	if !ok || f.left == 0 || !strings.HasPrefix(sql, f.sql) {
		return
	}
	f.left--
	last := f.left == 0
	c.arm(f.kind, func() {
		f.struck <- struct{}{}
		if last {
			close(f.spent)
		}
	})
}

func (f *faultyDB) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (f *faultyDB) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (f *faultyDB) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

func newFaultyDB(t *testing.T, url string) *faultyDB {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	f := &faultyDB{struck: make(chan struct{}, 100), spent: make(chan struct{})}
	config.MaxConns = 10
	config.ConnConfig.Tracer = f
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &faultyConn{Conn: conn}, nil
	}
	if f.Pool, err = pgxpool.NewWithConfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

// faultyConn is a connection to the server with one fault to come.
type faultyConn struct {
	net.Conn

	mu sync.Mutex
	// armed is the fault of the statement that begins, current that of the one
	// whose answer is awaited.
	armed, current fault
	happened       func()
	answer         []byte // what was received of it
	ready          []byte // what may be read before the connection breaks
}

func (c *faultyConn) arm(kind fault, happened func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed, c.happened = kind, happened
}

// Write looks for the message that has the statement done: Bind, or Query of
// the simple protocol. One that is new to the connection is parsed before, by
// a message of its own.
func (c *faultyConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	if c.armed != noFault && (b[0] == 'B' || b[0] == 'Q') {
		c.current, c.armed = c.armed, noFault
		c.happened()
	}
	before := c.current == breaksBefore
	c.mu.Unlock()
	if before {
		return 0, errors.Join(errInjected, c.Conn.Close())
	}
	return c.Conn.Write(b)
}

func (c *faultyConn) Read(b []byte) (int, error) {
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
		if current == breaksAfter || current == breaksWithin {
			c.answer = append(c.answer, b[:n]...)
		}
		whole := isWhole(c.answer)
		if current == breaksWithin && whole {
			c.ready = c.answer[:len(c.answer)/2]
		}
		c.mu.Unlock()
		switch {
		case err != nil || current == noFault || current == breaksBefore:
			return n, err
		case current == breaksAfter && whole:
			return 0, errors.Join(errInjected, c.Conn.Close())
		}
	}
}

// isWhole reports whether an answer ends with ReadyForQuery: what was to be
// committed is.
func isWhole(answer []byte) bool {
	end := len(answer) - 6
	return end >= 0 && bytes.Equal(answer[end:end+5], []byte{'Z', 0, 0, 0, 5})
}
