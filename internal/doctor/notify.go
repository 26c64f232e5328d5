package doctor

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
	"soniq/notify"
)

// checkNotify sends a notification through the pool, and waits for it on the connection to
// LISTEN on, as a worker does.
func checkNotify(ctx context.Context, e *Exam) error {
	listen, what := e.config.Listen, "the listen URL"
	through := e.config.Pool.Config().ConnConfig
	if listen == nil {
		listen, what = through, "the database's URL"
	} else if why, err := e.roundTrip(ctx, through); err != nil {
		return err
	} else if why != "" {
		e.find(Note, "through the database's URL no notification arrives ("+why+"): what listens needs the listen URL", "give every worker and 'hooks run' --listen-url")
	}
	why, err := e.roundTrip(ctx, listen)
	if err != nil {
		return err
	}
	if why != "" {
		e.find(Warning, "through "+what+" no notification arrives ("+why+"): workers look for jobs every second instead, and 'dead-letter watch' is late",
			"give --listen-url, or SONIQ_LISTEN_URL, a direct connection to the primary, or a pooler in session mode")
		return nil
	}
	pooled, err := isPooled(ctx, listen)
	if err == nil && pooled {
		e.find(Note, "a pooler is between "+what+" and the server, and keeps a session for each client that listens: a crash of a worker is seen by its heartbeat alone, after 30 s",
			"give --listen-url a direct connection")
	}
	return nil
}

// isPooled reports whether a pooler answers.
func isPooled(ctx context.Context, config *pgx.ConnConfig) (bool, error) {
	conn, err := pg.Connect(ctx, config.Copy())
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return pg.IsPooled(ctx, conn)
}

// roundTrip sends a notification, and returns why it did not arrive. Empty: it did.
func (e *Exam) roundTrip(ctx context.Context, config *pgx.ConnConfig) (why string, err error) {
	ctx, cancel := context.WithTimeout(ctx, e.config.Timeout)
	defer cancel()
	config = config.Copy()
	if config.ConnectTimeout == 0 || config.ConnectTimeout > e.config.Timeout {
		config.ConnectTimeout = e.config.Timeout
	}
	heard := &firstWarning{told: make(chan struct{})}
	arrived := make(chan struct{})
	var once sync.Once
	listener, err := notify.NewListener(notify.Config{
		ConnConfig: config, Logger: slog.New(heard), Probe: notify.ProbeThrough(e.schema.Pool(e.config.Pool)),
		OnHealth: func(healthy bool) {
			if healthy {
				once.Do(func() { close(arrived) })
			}
		},
	})
	if err != nil {
		return "", err
	}
	// The probe's own channel is another one; a listener needs one at least.
	listener.Handle("soniq_doctor", notify.NewWakeups())
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	var listening sync.WaitGroup
	listening.Go(func() { ended <- listener.Run(running) })
	defer func() { stop(); listening.Wait() }()
	select {
	case <-arrived:
		return "", nil
	case err := <-ended:
		return "", err
	case <-heard.told:
		return heard.text(), nil
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return "", ctx.Err()
		}
		return "none within " + e.config.Timeout.Round(time.Millisecond).String(), nil
	}
}

// firstWarning keeps what a listener warns of first.
type firstWarning struct {
	mu   sync.Mutex
	said string
	told chan struct{}
}

func (w *firstWarning) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.said
}

// Enabled implements [slog.Handler].
func (w *firstWarning) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn
}

// Handle implements [slog.Handler].
func (w *firstWarning) Handle(_ context.Context, r slog.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.said != "" {
		return nil
	}
	w.said = r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "error" {
			w.said = said(a.Value.String())
		}
		return true
	})
	close(w.told)
	return nil
}

// WithAttrs implements [slog.Handler].
func (w *firstWarning) WithAttrs([]slog.Attr) slog.Handler { return w }

// WithGroup implements [slog.Handler].
func (w *firstWarning) WithGroup(string) slog.Handler { return w }
