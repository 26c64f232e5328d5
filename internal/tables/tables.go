// Package tables tells a person when Soniq's tables are gone under a program that runs: somebody undid
// migrations, dropped the schema, or restored a part of it. Each part of the program goes on trying, and would
// tell of its own statement that failed; one line says what it is and what to do.
package tables

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/internal/pause"
	"soniq/internal/pg"
)

const (
	// lookEvery is how often the database is looked at while the tables are gone.
	lookEvery = 5 * time.Second
	// firstAgain is when they are told of once more, and then after twice the time, up to mostAgain.
	firstAgain = time.Minute
	mostAgain  = time.Hour
)

// Monitor tells when the tables are gone, and when they are back.
type Monitor struct {
	pool   *pgxpool.Pool
	schema string
	log    *slog.Logger
	// running: Run takes what is in errors.
	running atomic.Bool
	errors  chan slog.Record
	// missing is what wait waits for.
	missing atomic.Pointer[string]
	// lookEvery and firstAgain are shorter in tests.
	lookEvery, firstAgain time.Duration
}

// NewMonitor returns one for the tables in a schema; empty is 'public'. It logs to log, and [Monitor.Run] is for
// the caller to run.
func NewMonitor(pool *pgxpool.Pool, schema string, log *slog.Logger) *Monitor {
	return &Monitor{pool: pool, schema: schema, log: log, errors: make(chan slog.Record, 1), lookEvery: lookEvery, firstAgain: firstAgain}
}

// Watch runs a monitor, and returns its logger, and a function that ends it.
func Watch(ctx context.Context, pool *pgxpool.Pool, schema string, log *slog.Logger) (logger *slog.Logger, end func()) {
	m := NewMonitor(pool, schema, log)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.Run(ctx)
	}()
	return m.Logger(), func() {
		cancel()
		<-done
	}
}

// Logger is the monitor's, but for errors that the tables are missing: while Run runs, it logs those.
func (m *Monitor) Logger() *slog.Logger { return slog.New(&handler{m.log.Handler(), m}) }

// Run tells of missing tables until ctx ends. Then it returns nil.
func (m *Monitor) Run(ctx context.Context) error {
	m.running.Store(true)
	defer m.running.Store(false)
	for {
		select {
		case <-ctx.Done():
			return nil
		case record := <-m.errors:
			lacks, err := m.lacks(ctx)
			if err == nil && lacks != "" {
				m.wait(ctx, lacks, record)
			} else if ctx.Err() == nil {
				// It is something else, or nobody can tell.
				_ = m.log.Handler().Handle(ctx, record)
			}
		}
	}
}

// Missing says what the database lacks of the tables; nothing while all is there, as far as
// the program has noticed.
func (m *Monitor) Missing() string {
	if lacks := m.missing.Load(); lacks != nil {
		return *lacks
	}
	return ""
}

// wait tells what is missing until it is back.
func (m *Monitor) wait(ctx context.Context, lacks string, record slog.Record) {
	again := time.Time{}
	distance := m.firstAgain
	defer m.missing.Store(nil)
	for {
		m.missing.Store(new(lacks))
		if now := time.Now(); now.After(again) {
			m.log.Warn(lacks+": run 'soniq setup', or end this program; it goes on when they are there", "error", errorOf(record))
			again = now.Add(distance)
			distance = min(2*distance, mostAgain)
		}
		if pause.For(ctx, m.lookEvery) != nil {
			return
		}
		found, err := m.lacks(ctx)
		switch {
		case err != nil: // the database is away: who needs it says so
		case found == "":
			// Those of the parts that came meanwhile are about the past.
			select {
			case <-m.errors:
			default:
			}
			m.log.Info("Soniq's tables are there again")
			return
		default:
			lacks = found
		}
	}
}

// lacks says what the database has not; empty if it has all.
func (m *Monitor) lacks(ctx context.Context) (string, error) {
	status, err := soniq.ReadStatus(ctx, m.pool, soniq.Config{Schema: m.schema})
	if err != nil {
		return "", err
	}
	schema := m.schema
	if schema == "" {
		schema = pg.DefaultSchema
	}
	var missing []string
	for _, pending := range status.In(soniq.Pending) {
		missing = append(missing, pending.String())
	}
	switch missing = append(missing, status.Missing...); {
	case len(missing) == 0:
		return "", nil
	case len(status.In(soniq.Applied)) == 0:
		return fmt.Sprintf("schema %q has no Soniq tables any more", schema), nil
	}
	const most = 3
	if n := len(missing) - most; n > 0 {
		missing = append(missing[:most], fmt.Sprintf("%d more", n))
	}
	return fmt.Sprintf("schema %q lacks %s, which this program needs", schema, strings.Join(missing, ", ")), nil
}

// handler hands the errors about missing tables to the monitor.
type handler struct {
	slog.Handler
	monitor *Monitor
}

// Handle implements [slog.Handler].
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	// A record that names a job, such as one whose outcome waits, is about more than the tables, and is
	// repeated at a growing distance by itself.
	if !h.monitor.running.Load() || namesJob(r) || !isMissing(errorOf(r)) {
		return h.Handler.Handle(ctx, r)
	}
	select {
	case h.monitor.errors <- r.Clone():
	default: // one is enough
	}
	return nil
}

// WithAttrs implements [slog.Handler].
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.Handler.WithAttrs(attrs), h.monitor}
}

// WithGroup implements [slog.Handler].
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.Handler.WithGroup(name), h.monitor}
}

// namesJob reports whether a record is about one job.
func namesJob(r slog.Record) (names bool) {
	r.Attrs(func(a slog.Attr) bool {
		names = a.Key == "job"
		return !names
	})
	return names
}

// errorOf is the text of the error that a record tells of; empty if it tells of none.
func errorOf(r slog.Record) (text string) {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "error" {
			text = a.Value.String()
		}
		return text == ""
	})
	return text
}

// isMissing reports whether an error says that a table, a column or a function of Soniq's is not there. Those of an
// application's trigger are its own. A logger that redacts has made a text of the error.
func isMissing(text string) bool {
	return strings.Contains(text, "SQLSTATE 42703") ||
		strings.Contains(text, "soniq_") && (strings.Contains(text, "SQLSTATE 42P01") || strings.Contains(text, "SQLSTATE 42883"))
}
