package notify

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/internal/pause"
	"soniq/internal/pg"
)

// mostUndelivered is the longest time between two attempts to listen through a pooler
// that delivered nothing: each leaves a LISTEN behind, until it is taken back.
const mostUndelivered = 10 * time.Minute

// leavePatience bounds what a listener that ends does for others.
const leavePatience = 2 * time.Second

const backendSQL = `select pg_catalog.pg_backend_pid()`

// isPooled reports whether a pooler is between a connection and the server: the process
// is another than the one that answered.
func isPooled(ctx context.Context, conn *pgx.Conn) (bool, error) {
	var pid uint32
	err := conn.QueryRow(ctx, backendSQL, pgx.QueryExecModeSimpleProtocol).Scan(&pid)
	return pid != conn.PgConn().PID(), err
}

// afterPooler takes back the LISTENs of a connection that delivered nothing, and waits
// until the next attempt. That was told, and is no loss.
func (s *session) afterPooler(ctx context.Context) error {
	s.connected.Store(false)
	s.upSince, s.lastErr = time.Time{}, nil
	if err := s.takeBack(ctx); err != nil {
		s.log.DebugContext(ctx, "taking back LISTEN on the pooler's connections failed", "error", err)
	}
	s.undelivered = min(max(2*s.undelivered, s.health.timing.reprobe), mostUndelivered)
	return pause.For(ctx, s.undelivered)
}

// leavePooler takes back the LISTENs of the last connection, if it has delivered nothing.
func (s *session) leavePooler(ctx context.Context) {
	if !s.pooled || s.health.delivers() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leavePatience)
	defer cancel()
	if err := s.takeBack(ctx); err != nil {
		s.log.DebugContext(ctx, "taking back LISTEN on the pooler's connections failed", "error", err)
	}
}

// A pooler passes its connections to the server on to others, who would get what they
// never asked for.
const unlistenSQL = `unlisten *; select pg_catalog.pg_backend_pid()`

// takeBack ends listening on the server connections that a pooler gives us. Those that
// were used last come first, so that the ones of the LISTENs are among them, unless
// others are busy with them.
func (s *session) takeBack(ctx context.Context) error {
	const most, enough = 50, 5
	conn, err := pg.Connect(ctx, s.conf)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // its work is done
	known, again := map[string]bool{}, 0
	for i := 0; i < most && again < enough; i++ {
		results, err := conn.PgConn().Exec(ctx, unlistenSQL).ReadAll()
		if err != nil {
			return err
		}
		if len(results) == 0 || len(results[len(results)-1].Rows) == 0 {
			return errors.New("no process id")
		}
		pid := string(results[len(results)-1].Rows[0][0])
		if again++; !known[pid] {
			known[pid], again = true, 0
		}
	}
	return nil
}
