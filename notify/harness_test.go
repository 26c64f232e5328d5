package notify_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/testkit"
	"soniq/notify"
)

// patience bounds every wait of these tests. Nothing takes that long; it is
// what a busy machine may need.
const patience = 20 * time.Second

// connected is what a recorder records for Connected.
const connected = "<connected>"

// recorder is a Handler that records its calls, in order.
type recorder chan string

func newRecorder() recorder { return make(recorder, 20_000) }

func (r recorder) Connected(context.Context)          { r <- connected }
func (r recorder) Notify(_ context.Context, p string) { r <- p }

// next returns the next call.
func (r recorder) next(t *testing.T) string {
	t.Helper()
	select {
	case e := <-r:
		return e
	case <-time.After(patience):
		t.Fatalf("the handler was not called for %s", patience)
		return ""
	}
}

// expect fails unless exactly these calls come next.
func (r recorder) expect(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := r.next(t); got != w {
			t.Fatalf("the handler was called with %q, want %q", got, w)
		}
	}
}

// funcs is a Handler made of two functions.
type funcs struct {
	connected func(context.Context)
	notify    func(context.Context, string)
}

func (f funcs) Connected(ctx context.Context)        { f.connected(ctx) }
func (f funcs) Notify(ctx context.Context, p string) { f.notify(ctx, p) }

// listen runs a listener for the rest of the test, or until stop is called.
// Both see to it that Run returned nil.
func listen(t *testing.T, cfg notify.Config, handlers map[string]notify.Handler, before ...func(*notify.Listener)) (l *notify.Listener, stop func()) {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	l, err := notify.NewListener(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for channel, h := range handlers {
		l.Handle(channel, h)
	}
	for _, prepare := range before {
		prepare(l)
	}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- l.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		t.Helper()
		cancel()
		select {
		case err := <-result:
			if err != nil {
				t.Errorf("Run = %v, want nil", err)
			}
		case <-time.After(patience):
			t.Errorf("Run did not return within %s of the end of its context", patience)
		}
	})
	t.Cleanup(stop)
	return l, stop
}

// config leads to the database of pool.
func config(pool *pgxpool.Pool) notify.Config {
	return notify.Config{ConnConfig: pool.Config().ConnConfig}
}

// elsewhere leads to an address of the test's choice.
func elsewhere(t *testing.T, url string) notify.Config {
	t.Helper()
	c, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	return notify.Config{ConnConfig: c}
}

func exec(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := pool.Exec(ctx, sql, args...); err != nil {
		t.Fatal(err)
	}
}

const (
	countListeners = `
select count(*)
from pg_stat_activity
where datname = current_database()
  and application_name = 'soniq-listener'`

	killListeners = `
select pg_terminate_backend(pid)
from pg_stat_activity
where datname = current_database()
  and application_name = 'soniq-listener'`
)

func listeners(t *testing.T, pool *pgxpool.Pool) int {
	t.Helper()
	var n int
	if err := pool.QueryRow(t.Context(), countListeners).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// journal is a log that tests read.
type journal struct{ testkit.Log }

func (j *journal) logger() *slog.Logger { return j.Logger(slog.LevelDebug) }

// lines returns those lines that contain all the words.
func (j *journal) lines(words ...string) []string {
	var found []string
lines:
	for _, line := range strings.Split(j.String(), "\n") {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		found = append(found, line)
	}
	return found
}
