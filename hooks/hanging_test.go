package hooks

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"soniq/internal/eventually"
	"soniq/internal/pause"
	"soniq/internal/testdb"
)

// 300 endpoints take the connection and never answer. They have their share of
// the connections and no more. The messages of another hook come as if they were not
// there, and so do those of one whose endpoint answers late each time.
func TestDispatcher_300HooksHang_othersGoOn(t *testing.T) {
	t.Parallel()
	const many, inFlight = 300, 32
	pool := testdb.New(t)
	var open, most atomic.Int32
	release := make(chan struct{})
	hanging := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else its context doesn't end with the connection
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	hanging.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			n := open.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
		case http.StateClosed:
			open.Add(-1)
		default:
		}
	}
	hanging.Start()
	t.Cleanup(hanging.Close)
	t.Cleanup(func() { close(release) }) // before that
	const patience = 250 * time.Millisecond
	got, gotNew, gotLate := make(chan struct{}, 100), make(chan struct{}, 100), make(chan struct{}, 100)
	well := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/new" {
			gotNew <- struct{}{}
			return
		}
		got <- struct{}{}
	}))
	t.Cleanup(well.Close)
	late := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_ = pause.For(r.Context(), 3*patience/2)
		gotLate <- struct{}{}
	}))
	t.Cleanup(late.Close)
	add := `insert into soniq_hooks (name, kind, url, settings) select $1 || n, 'webhook', $2, '{"allow": ["127.0.0.0/8"]}' from generate_series(1, $3::int) n`
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	arrived := func(what string, got <-chan struct{}) time.Duration {
		t.Helper()
		began := time.Now()
		select {
		case <-got:
		case <-time.After(time.Minute):
			t.Fatalf("%s did not come", what)
		}
		return time.Since(began)
	}
	exec(add, "late", late.URL, 1)
	exec(add, "well", well.URL, 1)
	d := dispatcherOf(t, pool, Config{MaxInFlight: inFlight, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	d.limiter.Patience = patience
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.RunAlone(ctx, pool.Config().ConnConfig) }()
	// One is known to be late, and no more, before the others hang, and one to be well:
	// on a busy machine a first message may take longer than the limiter's patience.
	exec(dieSQL, 1)
	arrived("the first message of the late one", gotLate)
	arrived("the first message of the one that is well", got)
	eventually.True(t, "their marks", func() bool {
		return scalar[int](t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered'`) == 2
	})
	exec(add, "hangs", hanging.URL, many)
	exec(add, "new", well.URL+"/new", 1)
	exec(dieSQL, 1)
	first := arrived("the message of a new one", gotNew)
	if n := scalar[int](t, pool, `select count(*) from soniq_hook_deliveries where last_error is not null`); n > 0 {
		t.Errorf("it had to wait for %d of the others to give up", n)
	}
	arrived("the late one's message", gotLate)
	arrived("the message of the one that is well", got)
	var later time.Duration
	for range 5 {
		exec(dieSQL, 1)
		later = max(later, arrived("another message", got))
		arrived("another message of the late one", gotLate)
	}
	failed := scalar[int](t, pool, `select count(*) from soniq_hook_deliveries where last_error is not null`)
	t.Logf("the new one's message came after %s, later ones within %s, when %d had failed; %d connections at most", first, later, failed, most.Load())
	// One that was broken off may close its connection a moment after the next
	// has opened its own.
	if n := most.Load(); n > 2*inFlight {
		t.Errorf("%d connections at once, want at most %d", n, inFlight)
	}
	if n := scalar[int](t, pool, `select coalesce(max(attempts), 0) from soniq_hook_deliveries where state = 'pending'`); n > 1 {
		t.Errorf("what was broken off was charged: %d attempts", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
