package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgxlisten"

	"soniq/internal/pause"
	"soniq/internal/pg"
)

// setupTimeout bounds two steps if ConnConfig doesn't: connecting, and all the LISTENs.
// pgx has no limit of its own: it would wait for ever for a server that accepts the
// connection and never answers.
const setupTimeout = 10 * time.Second

// session is one Run of a listener. Only that goroutine uses it.
type session struct {
	log       *slog.Logger
	connected *atomic.Bool // the Listener's
	handlers  map[string]Handler
	conf      *pgx.ConnConfig
	dialer    *dialer
	backoff   backoff
	health    *health

	onConnect    func(context.Context, *pgx.Conn) error // the user's, or nil
	onDisconnect func()                                 // the user's, or nil
	prepared     bool                                   // onConnect has succeeded on the current connection
	undelivered  time.Duration                          // how long was waited after a pooler delivered nothing

	attempts int       // since the connection was last up
	toListen int       // channels that the current connection doesn't listen to yet
	upSince  time.Time // zero: not up
	wasUp    bool      // at any time
	lostAt   time.Time // zero: not lost
	lastErr  error     // why the last attempt ended
}

func newSession(l *Listener, handlers map[string]Handler) *session {
	s := &session{
		log:       l.cfg.Logger,
		connected: &l.connected,
		handlers:  handlers,
		conf:      l.cfg.ConnConfig.Copy(),
		dialer:    newDialer(l.cfg.ConnConfig.DialFunc),
		backoff:   backoff{min: l.cfg.MinBackoff, max: l.cfg.MaxBackoff},
		health:    newHealth(l),

		onConnect:    l.cfg.OnConnect,
		onDisconnect: l.cfg.OnDisconnect,
	}
	l.health.Store(s.health)
	if s.health.probe != nil {
		s.handlers[s.health.channel] = s.health
	}
	s.conf.DialFunc = s.dialer.DialContext
	s.conf.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler { return terminating{c.Conn()} }
	s.conf.OnNotification = nil // so that pgx keeps notifications for WaitForNotification
	if s.conf.ConnectTimeout == 0 {
		s.conf.ConnectTimeout = setupTimeout
	}
	if s.conf.ValidateConnect == nil {
		s.conf.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	}
	if s.conf.RuntimeParams["application_name"] == "" {
		s.conf.RuntimeParams["application_name"] = "soniq-listener"
	}
	pg.Pin(s.conf)
	return s
}

func (s *session) run(ctx context.Context) error {
	ctx = connecting(ctx)
	defer s.dialer.closeAll()
	defer s.disconnected()
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	watching.Go(func() { s.health.watch(ctx) })
	listener := pgxlisten.Listener{
		Connect:        s.connect,
		LogError:       func(_ context.Context, err error) { s.lastErr = err },
		ReconnectDelay: -1, // connect waits with a backoff
	}
	for channel, h := range s.handlers {
		listener.Handle(channel, adapter{s, h})
	}
	if err := listener.Listen(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("run listener: %w", err)
	}
	return nil
}

// connect makes a new connection. pgxlisten calls it when there is none: so this is
// where a loss is noticed, whatever its cause.
func (s *session) connect(ctx context.Context) (*pgx.Conn, error) {
	s.disconnected()
	switch {
	case errors.Is(s.lastErr, errPooled):
		if err := s.afterPooler(ctx); err != nil {
			return nil, err
		}
	case s.attempts > 0 || s.wasUp:
		if err := s.afterLoss(ctx); err != nil {
			return nil, err
		}
	}
	s.attempts++
	conn, err := pg.Connect(ctx, s.conf)
	if err != nil {
		return nil, err
	}
	if err := s.checkPooler(ctx, conn); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	s.toListen = len(s.handlers)
	if err := conn.PgConn().Conn().SetDeadline(time.Now().Add(s.conf.ConnectTimeout)); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	if s.onConnect != nil {
		if err := s.onConnect(ctx, conn); err != nil {
			return nil, errors.Join(fmt.Errorf("prepare the connection: %w", err), conn.Close(ctx))
		}
		s.prepared = true
	}
	return conn, nil
}

// disconnected calls OnDisconnect for the last connection, unless it has.
func (s *session) disconnected() {
	if reason := s.health.down(); reason != nil {
		s.lastErr = reason
	}
	if s.prepared && s.onDisconnect != nil {
		s.onDisconnect()
	}
	s.prepared = false
}

// afterLoss logs the loss once, and waits until the next attempt.
func (s *session) afterLoss(ctx context.Context) error {
	s.connected.Store(false)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var lived time.Duration
	if !s.upSince.IsZero() {
		lived = time.Since(s.upSince)
		s.upSince = time.Time{}
	}
	wait := s.backoff.next(lived)
	switch {
	case !s.lostAt.IsZero():
		s.log.DebugContext(ctx, "listener still has no connection", "error", s.lastErr, "attempt", s.attempts, "retry_in", wait)
	case s.wasUp:
		s.lostAt = time.Now()
		s.log.WarnContext(ctx, "listener lost its connection, reconnecting", "error", s.lastErr, "retry_in", wait)
	default:
		s.lostAt = time.Now()
		s.log.WarnContext(ctx, "listener can't connect, retrying until it can", "error", s.lastErr, "retry_in", wait)
	}
	return pause.For(ctx, wait)
}

// listening counts one more channel that conn listens to. After the last one the
// connection is up.
func (s *session) listening(ctx context.Context, conn *pgx.Conn) error {
	s.toListen--
	if s.toListen > 0 {
		return nil
	}
	// From here on the server may be silent.
	if err := conn.PgConn().Conn().SetDeadline(time.Time{}); err != nil {
		return err
	}
	if s.lostAt.IsZero() {
		s.log.DebugContext(ctx, "listener is connected")
	} else {
		s.log.InfoContext(ctx, "listener is connected again", "away", time.Since(s.lostAt), "attempts", s.attempts)
	}
	s.upSince, s.lostAt = time.Now(), time.Time{}
	s.wasUp, s.attempts = true, 0
	s.connected.Store(true)
	s.health.up(conn.PgConn().Conn())
	return nil
}

// guarded calls a handler and recovers from a panic.
func (s *session) guarded(ctx context.Context, channel string, call func()) {
	s.health.busy.Add(1)
	defer func() {
		s.health.busy.Add(-1)
		if r := recover(); r != nil {
			s.log.ErrorContext(ctx, "a notification handler panicked", "channel", channel, "panic", r, "stack", string(debug.Stack()))
		}
	}()
	call()
}

// adapter makes a Handler one of pgxlisten.
type adapter struct {
	s *session
	h Handler
}

func (a adapter) HandleBacklog(ctx context.Context, channel string, conn *pgx.Conn) error {
	err := a.s.listening(ctx, conn)
	a.s.guarded(ctx, channel, func() { a.h.Connected(ctx) })
	return err
}

func (a adapter) HandleNotification(ctx context.Context, n *pgconn.Notification, _ *pgx.Conn) error {
	a.s.health.arrived()
	a.s.guarded(ctx, n.Channel, func() {
		if h, ok := a.h.(Sourced); ok {
			h.NotifyFrom(ctx, n.PID, n.Payload)
		} else {
			a.h.Notify(ctx, n.Payload)
		}
	})
	return nil
}
