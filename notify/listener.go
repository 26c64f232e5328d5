package notify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/internal/redact"
)

// maxChannelBytes is the longest channel name that LISTEN takes. The server truncates a
// longer one with only a notice, and its notifications would come under a name without
// a handler.
const maxChannelBytes = 63

// Config says where and how to listen.
type Config struct {
	// ConnConfig is the server, as made by pgx.ParseConfig. It must lead to a session
	// of its own: a pooler in transaction mode accepts LISTEN and never delivers. Where
	// that is so nothing is listened to, and it is tried again within 10 minutes. It is
	// copied. Where it leaves them unset, the copy has a ConnectTimeout of 10 s, which
	// bounds the LISTENs too, a ValidateConnect that asks for a primary (a standby
	// can't LISTEN), and the application_name "soniq-listener". Its DialFunc is
	// wrapped to notice a dead server within 25 s. Required.
	ConnConfig *pgx.ConnConfig
	// Logger takes a warning when the connection is lost and a record when it is back.
	// Each attempt between is a debug record. Default slog.Default().
	Logger *slog.Logger
	// MinBackoff is the longest wait before the first attempt after a loss. It doubles
	// with each failure, up to MaxBackoff. The wait is a random part of it. Default
	// 100 ms.
	MinBackoff time.Duration
	// MaxBackoff is the longest wait between two attempts: so long may nothing be heard
	// of a server that is back. Default 5 s.
	MaxBackoff time.Duration
	// OnConnect is called with each new connection before it listens. Use it for what
	// must live as long as the session, such as an advisory lock. ConnectTimeout bounds
	// its statements. It must not keep the connection. An error counts as a failure to
	// connect. Default none.
	OnConnect func(ctx context.Context, conn *pgx.Conn) error
	// Probe sends a notification on another connection, by pg_notify through the pool
	// that the program works with. It is called on each new connection, and about once
	// a minute while nothing else arrives. What it sends must arrive within 5 s. Its
	// error doesn't count against the listener. Default none: notifications are
	// assumed to arrive.
	Probe func(ctx context.Context, channel, payload string) error
	// Meanwhile is the end of the warning that notifications don't arrive: what is done
	// until they do. Default: what is new is found by looking, and a direct connection
	// can be given with --listen-url.
	Meanwhile string
	// OnHealth is called when Healthy changes. Before the first call it was false. It
	// must not block, nor call the listener. Default none.
	OnHealth func(healthy bool)
	// OnDisconnect is called once for each successful OnConnect, when that connection
	// is lost or Run ends. It must not block. Default none.
	OnDisconnect func()
}

// Listener keeps one connection that listens, and reconnects without end.
type Listener struct {
	cfg       Config
	connected atomic.Bool
	running   atomic.Bool
	timing    timing
	health    atomic.Pointer[health] // of the last Run

	mu       sync.Mutex
	handlers map[string]Handler
}

// NewListener returns a listener. It does not connect.
//
// Errors: what is wrong with a field of cfg.
func NewListener(cfg Config) (*Listener, error) {
	cfg.MinBackoff = cmp.Or(cfg.MinBackoff, 100*time.Millisecond)
	cfg.MaxBackoff = cmp.Or(cfg.MaxBackoff, 5*time.Second)
	cfg.Meanwhile = cmp.Or(cfg.Meanwhile, "until they arrive, what is new is found by looking (listen on a direct connection: --listen-url)")
	cfg.Logger = redact.Logger(cmp.Or(cfg.Logger, slog.Default()))
	switch {
	case cfg.ConnConfig == nil:
		return nil, errors.New("new listener: ConnConfig is required")
	case cfg.ConnConfig.DialFunc == nil || cfg.ConnConfig.BuildFrontend == nil:
		// pgx panics on these.
		return nil, errors.New("new listener: ConnConfig must be made by pgx.ParseConfig")
	case cfg.MinBackoff < 0:
		return nil, fmt.Errorf("new listener: MinBackoff is negative: %s", cfg.MinBackoff)
	case cfg.MaxBackoff < cfg.MinBackoff:
		return nil, fmt.Errorf("new listener: MaxBackoff %s is below MinBackoff %s", cfg.MaxBackoff, cfg.MinBackoff)
	}
	cfg.ConnConfig = cfg.ConnConfig.Copy()
	return &Listener{cfg: cfg, timing: realTiming, handlers: make(map[string]Handler)}, nil
}

// Handle sets the handler of a channel, and replaces one that was set before. channel is
// the channel's name as pg_notify has it: it is quoted in LISTEN, so case counts. Call
// Handle before Run, which takes the handlers that are set when it starts.
func (l *Listener) Handle(channel string, h Handler) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handlers[channel] = h
}

// Connected reports whether every channel is being listened to, as far as this end of
// the connection knows.
func (l *Listener) Connected() bool { return l.connected.Load() }

// Healthy reports whether notifications can be relied on: every channel is being
// listened to and, if there is a Probe, one has arrived. While it is false, poll.
func (l *Listener) Healthy() bool {
	h := l.health.Load()
	return h != nil && h.isHealthy()
}

// Run listens until ctx ends and then returns nil, with the connection closed and no
// goroutine left. While the server is unreachable it retries.
//
// Errors: no handler, a nil handler, a channel name that LISTEN can't take, a second
// Run beside the first.
func (l *Listener) Run(ctx context.Context) error {
	if !l.running.CompareAndSwap(false, true) {
		return errors.New("run listener: it is running already")
	}
	defer l.running.Store(false)

	l.mu.Lock()
	handlers := maps.Clone(l.handlers)
	l.mu.Unlock()
	if len(handlers) == 0 {
		return errors.New("run listener: no channel has a handler")
	}
	for channel, h := range handlers {
		switch {
		case h == nil:
			return fmt.Errorf("run listener: the handler of channel %q is nil", channel)
		case channel == "" || len(channel) > maxChannelBytes:
			return fmt.Errorf("run listener: channel name %q: must have 1 to %d bytes", channel, maxChannelBytes)
		}
	}
	defer l.connected.Store(false)
	return newSession(l, handlers).run(ctx)
}
