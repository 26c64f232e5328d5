package notify

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/internal/pause"
	"soniq/internal/pg"
)

// mostUndelivered is the longest time between two attempts to listen through a pooler
// that delivers nothing.
const mostUndelivered = 10 * time.Minute

// takeBackPatience bounds the search for the session of the server that has a LISTEN of
// ours.
const takeBackPatience = 5 * time.Second

var errPooled = errors.New("notifications don't arrive through the pooler")

// checkPooler refuses a connection that a pooler moves between sessions of the server,
// before anything listens there: nothing would arrive, and the LISTENs would stay for
// whoever is given those sessions next.
func (s *session) checkPooler(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, s.conf.ConnectTimeout)
	defer cancel()
	pooled, err := pg.IsPooled(ctx, conn)
	if err != nil || !pooled {
		return err
	}
	other, err := pg.Connect(ctx, s.conf)
	if err != nil {
		return err
	}
	defer func() { _ = other.Close(ctx) }() // its work is done
	shared, err := pg.SharesSessions(ctx, conn, other)
	if err != nil {
		return err
	}
	if !shared {
		arrives, err := s.try(ctx, conn, other)
		if err != nil || arrives {
			return err
		}
	}
	s.health.warn()
	return errPooled
}

// try listens on one channel, and reports whether a notification from another connection
// arrives. That shows what asking can't: the other connection may have come to another
// process of the pooler, and nobody else uses this one. If nothing arrives the LISTEN is
// taken back.
func (s *session) try(ctx context.Context, conn, other *pgx.Conn) (arrives bool, err error) {
	channel := "soniq_probe_" + rand.Text()
	name := pgx.Identifier{channel}.Sanitize()
	// In one transaction, so that this is the process that listens.
	listening, err := processOf(ctx, conn, "listen "+name)
	if err != nil {
		return false, err
	}
	defer func() {
		if takeErr := takeBack(ctx, conn, "unlisten "+name, listening); takeErr != nil {
			s.log.DebugContext(ctx, "a LISTEN may be left on a connection of the pooler", "error", takeErr)
		}
	}()
	if _, err := other.Exec(ctx, `select pg_catalog.pg_notify($1, '')`, pgx.QueryExecModeExec, channel); err != nil {
		return false, err
	}
	waiting, cancel := context.WithTimeout(ctx, s.health.timing.answer)
	defer cancel()
	for {
		n, err := conn.WaitForNotification(waiting)
		switch {
		case err != nil && waiting.Err() != nil:
			return false, ctx.Err()
		case err != nil:
			return false, err
		case n.Channel == channel:
			return true, nil
		}
	}
}

// takeBack runs a statement on a connection until it came to a process of the server.
// Poolers pass on what was given back last, so that is the first one, unless others are
// busy there. It is done even if ctx has ended.
func takeBack(ctx context.Context, conn *pgx.Conn, sql, process string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackPatience)
	defer cancel()
	for {
		came, err := processOf(ctx, conn, sql)
		if err != nil || came == process {
			return err
		}
		if err := pause.For(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

// processOf runs a statement, and returns the process that has run it.
func processOf(ctx context.Context, conn *pgx.Conn, sql string) (string, error) {
	results, err := conn.PgConn().Exec(ctx, sql+`; select pg_catalog.pg_backend_pid()`).ReadAll()
	if err != nil {
		return "", err
	}
	if len(results) == 0 || len(results[len(results)-1].Rows) == 0 {
		return "", errors.New("no process id")
	}
	return string(results[len(results)-1].Rows[0][0]), nil
}

// afterPooler waits until the next attempt. Why was told, and is no loss.
func (s *session) afterPooler(ctx context.Context) error {
	s.connected.Store(false)
	s.upSince, s.lastErr = time.Time{}, nil
	s.undelivered = min(max(2*s.undelivered, s.health.timing.reprobe), mostUndelivered)
	return pause.For(ctx, s.undelivered)
}

// ProbeThrough returns a [Config].Probe that sends through a pool, and so tells whether
// notifications of the pool's database arrive at the listener.
func ProbeThrough(pool pg.Querier) func(ctx context.Context, channel, payload string) error {
	return func(ctx context.Context, channel, payload string) error {
		_, err := pool.Exec(ctx, `select pg_notify($1, $2)`, channel, payload)
		return err
	}
}
