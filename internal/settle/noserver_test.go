package settle

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/pg"
)

// pooler lets everybody in and answers each statement with an error: as PgBouncer does without a server.
type pooler struct {
	answer pgproto3.ErrorResponse
	// statements gets one for each statement.
	statements chan struct{}
}

func (p *pooler) serve(conn net.Conn) {
	defer conn.Close()
	backend := pgproto3.NewBackend(conn, conn)
	if _, err := backend.ReceiveStartupMessage(); err != nil {
		return
	}
	backend.Send(&pgproto3.AuthenticationOk{})
	for _, parameter := range [][2]string{{"server_version", "15.0"}, {"standard_conforming_strings", "on"}, {"client_encoding", "UTF8"}} {
		backend.Send(&pgproto3.ParameterStatus{Name: parameter[0], Value: parameter[1]})
	}
	for {
		backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		if backend.Flush() != nil {
			return
		}
		for ended := false; !ended; {
			message, err := backend.Receive()
			if err != nil {
				return
			}
			switch message.(type) {
			case *pgproto3.Terminate:
				return
			case *pgproto3.Query, *pgproto3.Sync:
				ended = true
			}
		}
		p.statements <- struct{}{}
		backend.Send(&p.answer)
		if p.answer.Severity == "FATAL" {
			_ = backend.Flush()
			return
		}
	}
}

// settler returns one whose database is a pooler with this answer.
func (p *pooler) settler(t *testing.T) *Settler {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { p.serve(conn) })
		}
	})
	pool, err := pgxpool.New(t.Context(), "postgres://u@"+listener.Addr().String()+"/db?sslmode=disable&default_query_exec_mode=exec")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		pool.Close()
		_ = listener.Close()
		serving.Wait()
	})
	w := Writer{Pool: pg.Schema{}.Pool(pool), Logger: slog.New(slog.DiscardHandler), Worker: uuid.New()}
	return &Settler{Writer: w, Batch: 10, Deferred: NewDeferred(w)}
}

// Where there is no server behind a pooler, or only one that takes no writes, that is no refusal of an outcome, however
// often it is said: all of a batch wait together, as for a server that can't be reached. A server that crashes each
// time may do so because of one of them.
func TestSettler_noServerBehindThePooler_defersNothing(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		severity, code, message string
		deferred                bool
	}{
		{"FATAL", "08P01", "server login has been failing, try again later (server_login_retry)", false},
		{"FATAL", "08P01", "query_wait_timeout", false},
		{"FATAL", "57P01", "terminating connection due to administrator command", false},
		{"FATAL", "57P03", "the database system is starting up", false},
		{"ERROR", "25006", "cannot execute UPDATE in a read-only transaction", false},
		{"WARNING", "57P02", "terminating connection because of crash of another server process", true},
		{"ERROR", "53100", "could not extend file", true},
	} {
		t.Run(test.code+" "+test.message, func(t *testing.T) {
			t.Parallel()
			p := &pooler{statements: make(chan struct{}, 1000), answer: pgproto3.ErrorResponse{
				Severity: test.severity, SeverityUnlocalized: test.severity, Code: test.code, Message: test.message,
			}}
			s := p.settler(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			written := make(chan error, 1)
			go func() { written <- s.Write(ctx, []Outcome{{ID: uuid.New(), Name: "mail", Attempts: 1, Kind: Done}}) }()
			for tries := 0; tries < maxTries+2 && !test.deferred; tries++ {
				select {
				case <-p.statements:
				case err := <-written:
					t.Fatalf("after %d tries: %v, %d deferred", tries, err, s.Deferred.count.Load())
				case <-time.After(time.Minute):
					t.Fatalf("only %d tries", tries)
				}
			}
			if !test.deferred {
				cancel()
			}
			if err := <-written; (err == nil) != test.deferred {
				t.Errorf("ended with %v", err)
			}
			if n := s.Deferred.count.Load(); (n > 0) != test.deferred {
				t.Errorf("%d deferred", n)
			}
		})
	}
}
