package notify_test

import (
	"bytes"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/notify"
)

// prompt is how soon Run must return: far below the seconds that a timeout of
// ours, of pgx or of the kernel would take.
const prompt = 2 * time.Second

func TestListener_ctxEnds_connectionIsClosed(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	r := newRecorder()
	l, stop := listen(t, config(pool), map[string]notify.Handler{notify.NewJob: r})
	r.expect(t, connected)
	eventually.True(t, "Connected() is true", l.Connected)

	promptly(t, stop)
	if l.Connected() {
		t.Error("Connected() is true after Run has returned")
	}
	eventually.True(t, "the server has no session of ours", func() bool { return listeners(t, pool) == 0 })
}

// A session that ends without a word looks to the server like a client that
// crashed.
func TestListener_ctxEnds_saysGoodbyeToTheServer(t *testing.T) {
	t.Parallel()
	cfg := config(testdb.New(t))
	cfg.ConnConfig = cfg.ConnConfig.Copy()
	dial := cfg.ConnConfig.DialFunc
	var sent lastWrite
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		sent.Conn = conn
		return &sent, nil
	}
	r := newRecorder()
	_, stop := listen(t, cfg, map[string]notify.Handler{notify.NewJob: r})
	r.expect(t, connected)

	promptly(t, stop)
	if want := "X\x00\x00\x00\x04"; string(sent.bytes) != want {
		t.Errorf("the last that the server was sent is %q, want the Terminate message %q", sent.bytes, want)
	}
}

// lastWrite keeps what was last written and accepted.
type lastWrite struct {
	net.Conn
	bytes []byte
}

func (w *lastWrite) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if err == nil {
		w.bytes = bytes.Clone(p)
	}
	return n, err
}

func TestListener_ctxEnds_whileServerUnreachable(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	var log journal
	cfg := elsewhere(t, "postgres://app@"+addr+"/shop?sslmode=disable")
	cfg.Logger = log.logger()
	cfg.MinBackoff, cfg.MaxBackoff = time.Hour, time.Hour // it will be waiting
	_, stop := listen(t, cfg, map[string]notify.Handler{notify.NewJob: newRecorder()})

	eventually.True(t, "the failure is logged", func() bool { return len(log.lines("level=WARN")) == 1 })
	promptly(t, stop)
}

// A server that accepts and says nothing: with and without TLS, pgx waits in
// different places.
func TestListener_ctxEnds_whileConnectHangs(t *testing.T) {
	t.Parallel()
	for _, sslmode := range []string{"disable", "require"} {
		t.Run(sslmode, func(t *testing.T) {
			t.Parallel()
			accepted := make(chan struct{}, 10)
			addr := fakeServer(t, func(conn net.Conn) {
				accepted <- struct{}{}
				_, _ = conn.Read(make([]byte, 1<<20))
				_, _ = conn.Read(make([]byte, 1)) // until the other side hangs up
			})
			_, stop := listen(t, elsewhere(t, "postgres://app@"+addr+"/shop?sslmode="+sslmode),
				map[string]notify.Handler{notify.NewJob: newRecorder()})
			<-accepted
			promptly(t, stop)
		})
	}
}

// A server that takes the connection, answers LISTEN with silence, and leaves
// pgx's cancel request hanging too.
func TestListener_ctxEnds_whileListenHangs(t *testing.T) {
	t.Parallel()
	waiting := make(chan struct{}, 10)
	addr := fakeServer(t, func(conn net.Conn) {
		backend := pgproto3.NewBackend(conn, conn)
		if start, err := backend.ReceiveStartupMessage(); err != nil {
			return
		} else if _, ok := start.(*pgproto3.StartupMessage); ok {
			backend.Send(&pgproto3.AuthenticationOk{})
			backend.Send(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{1, 2, 3, 4}})
			backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			if backend.Flush() != nil {
				return
			}
			if _, err := backend.Receive(); err != nil {
				return
			}
		}
		waiting <- struct{}{}
		_, _ = conn.Read(make([]byte, 1<<20))
		_, _ = conn.Read(make([]byte, 1))
	})
	cfg := elsewhere(t, "postgres://app@"+addr+"/shop?sslmode=disable")
	cfg.ConnConfig.ValidateConnect = func(context.Context, *pgconn.PgConn) error { return nil } // LISTEN is the first statement
	dial := cfg.ConnConfig.DialFunc
	var open atomic.Int32
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		open.Add(1)
		return &countedConn{Conn: conn, open: &open}, nil
	}
	_, stop := listen(t, cfg, map[string]notify.Handler{notify.NewJob: newRecorder()})
	<-waiting
	promptly(t, stop)
	if n := open.Load(); n != 0 {
		t.Errorf("%d connections are open after Run has returned", n)
	}
}

// countedConn takes itself off a count when it is closed.
type countedConn struct {
	net.Conn
	once sync.Once
	open *atomic.Int32
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}

func TestListener_ctxEndedBefore_runReturnsNil(t *testing.T) {
	t.Parallel()
	l, err := notify.NewListener(elsewhere(t, "postgres://127.0.0.1:1/x"))
	if err != nil {
		t.Fatal(err)
	}
	l.Handle(notify.NewJob, newRecorder())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Fatalf("Run = %v, want nil", err)
	}
}

func promptly(t *testing.T, stop func()) {
	t.Helper()
	start := time.Now()
	stop()
	if took := time.Since(start); took > prompt {
		t.Errorf("Run took %s to return, want at most %s", took, prompt)
	}
}

// fakeServer accepts connections until the test ends and serves each with
// serve, whose connection is then closed. It returns the address.
func fakeServer(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	// Runs after the listener of the test has stopped and hung up.
	t.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

func errorResponse(severity, code, message string) []byte {
	buf, err := (&pgproto3.ErrorResponse{
		Severity: severity, SeverityUnlocalized: severity, Code: code, Message: message,
	}).Encode(nil)
	if err != nil {
		panic(err)
	}
	return buf
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}
