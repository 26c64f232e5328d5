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

// backend is the process that answers on a connection.
func backend(ctx context.Context, conn *pgx.Conn) (pid uint32, err error) {
	err = conn.QueryRow(ctx, backendSQL, pgx.QueryExecModeSimpleProtocol).Scan(&pid)
	return pid, err
}

// checkPooler refuses a connection that a pooler moves between sessions of the server,
// before anything listens there: nothing would arrive, and the LISTENs would stay. Where
// a pooler is in between at all, another connection takes the session that this one has
// just given back, if it has.
func (s *session) checkPooler(ctx context.Context, conn *pgx.Conn) error {
	s.pooled = false
	first, err := backend(ctx, conn)
	if err != nil || first == conn.PgConn().PID() {
		return err
	}
	other, err := pg.Connect(ctx, s.conf)
	if err != nil {
		return err
	}
	defer func() { _ = other.Close(ctx) }() // its work is done
	const tries = 3
	for range tries {
		var again uint32
		err := pgx.BeginFunc(ctx, other, func(pgx.Tx) error {
			if _, err := backend(ctx, other); err != nil {
				return err
			}
			again, err = backend(ctx, conn)
			return err
		})
		if err != nil {
			return err
		}
		if again != first {
			s.health.warn()
			return errPooled
		}
	}
	s.pooled = true
	return nil
}

// afterPooler takes back the LISTENs of a connection that delivered nothing, and waits
// until the next attempt. That was told, and is no loss.
func (s *session) afterPooler(ctx context.Context) error {
	s.connected.Store(false)
	s.upSince, s.lastErr = time.Time{}, nil
	if s.pooled {
		if err := s.takeBack(ctx); err != nil {
			s.log.DebugContext(ctx, "taking back LISTEN on the pooler's connections failed", "error", err)
		}
		s.pooled = false
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

// ProbeThrough returns a [Config].Probe that sends through a pool, and so tells whether
// notifications of the pool's database arrive at the listener.
func ProbeThrough(pool pg.Querier) func(ctx context.Context, channel, payload string) error {
	return func(ctx context.Context, channel, payload string) error {
		_, err := pool.Exec(ctx, `select pg_notify($1, $2)`, channel, payload)
		return err
	}
}
