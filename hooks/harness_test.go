package hooks_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/hooks"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

func TestMain(m *testing.M) { testdb.Main(m) }

const deadline = 30 * time.Second

// loopback is where the receivers of the tests are.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// request is what a receiver got.
type request struct {
	header http.Header
	body   []byte
	at     time.Time
}

func (r request) id() string { return r.header.Get("Webhook-Id") }

// receiver is an HTTP server that keeps what it gets.
type receiver struct {
	*httptest.Server
	mu  sync.Mutex
	got []request
}

// newReceiver answers by answer, or with 200.
func newReceiver(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request)) *receiver {
	rc := &receiver{}
	rc.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		rc.mu.Lock()
		rc.got = append(rc.got, request{r.Header.Clone(), b, time.Now()})
		n := len(rc.got)
		rc.mu.Unlock()
		if answer != nil {
			answer(n, w, r)
		}
	}))
	t.Cleanup(rc.Close)
	return rc
}

func (rc *receiver) requests() []request {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	return append([]request(nil), rc.got...)
}

// exec runs a statement.
var exec = testkit.Exec

// value returns the one value of a query.
func value[T any](t testing.TB, pool *pgxpool.Pool, sql string, args ...any) T {
	t.Helper()
	return testkit.Value[T](t, pool, sql, args...)
}

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func storeOf(t testing.TB, pool *pgxpool.Pool, keys *hooks.Keyring) *hooks.Store {
	t.Helper()
	store, err := hooks.NewStore(pool, hooks.StoreConfig{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func dispatcherOf(t testing.TB, pool *pgxpool.Pool, config hooks.Config) *hooks.Dispatcher {
	t.Helper()
	d, err := hooks.NewDispatcher(pool, config)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// addHook inserts a hook that may reach this machine.
func addHook(t *testing.T, pool *pgxpool.Pool, kind, url string) uuid.UUID {
	t.Helper()
	return value[uuid.UUID](t, pool, `
		insert into soniq_hooks (name, kind, url, secrets, settings)
		values ($1 || '-' || gen_random_uuid(), $1, $2, case $1 when 'webhook' then $3 end, '{"allow": ["127.0.0.0/8"]}')
		returning id`, kind, url, secret)
}

// die inserts n dead letters of a job in one statement.
func die(t *testing.T, pool *pgxpool.Pool, n int, job, text string) {
	t.Helper()
	exec(t, pool, `
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, last_error,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at)
		select gen_random_uuid(), $2, '{"card": "4111"}', 'default', 100, 3, 3, $3, 'max_retries_exceeded', now(), now()
		from generate_series(1, $1)`, n, job, text)
}

// dispatch runs a dispatcher until the test ends, or stop is called.
func dispatch(t *testing.T, pool *pgxpool.Pool, prepare ...func(*hooks.Dispatcher)) (stop func()) {
	t.Helper()
	return dispatchWith(t, pool, hooks.Config{}, prepare...)
}

func dispatchWith(t *testing.T, pool *pgxpool.Pool, config hooks.Config, prepare ...func(*hooks.Dispatcher)) (stop func()) {
	t.Helper()
	if config.Logger == nil {
		config.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	if config.Allow == nil {
		config.Allow = loopback
	}
	d := dispatcherOf(t, pool, config)
	for _, p := range prepare {
		p(d)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.RunAlone(ctx, pool.Config().ConnConfig) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func decode[T any](t *testing.T, b []byte) (v T) {
	t.Helper()
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return v
}
