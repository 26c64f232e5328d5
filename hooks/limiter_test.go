package hooks

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// hang is a delivery that lasts until it is broken off or let go.
func hang(s *limiter, preemptible bool, let <-chan struct{}, preempted *atomic.Int32) func(*sender) {
	return func(t *sender) {
		ctx, end := t.begin(context.Background(), preemptible)
		defer end()
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), errPreempted) {
				preempted.Add(1)
			}
		case <-let:
		}
	}
}

func TestLimiter_hooksThatHang_leaveHalfToTheOthers(t *testing.T) {
	t.Parallel()
	s := newLimiter(8, func() {})
	s.patience = 10 * time.Millisecond
	let := make(chan struct{})
	var preempted atomic.Int32
	var hanging []uuid.UUID
	for range 50 {
		id := uuid.New()
		hanging = append(hanging, id)
		s.submit(id, false, hang(s, true, let, &preempted))
	}
	var most atomic.Int32
	quick := func() {
		ran := make(chan struct{})
		s.submit(uuid.New(), false, func(t *sender) {
			_, end := t.begin(context.Background(), true)
			end()
			close(ran)
		})
		s.mu.Lock()
		most.Store(max(most.Load(), int32(s.used)))
		s.mu.Unlock()
		<-ran
	}
	quick()
	// Those that hang have shown that they do, and wait for a slow one's slot.
	eventually.True(t, "as many broken off as had to make room", func() bool { return preempted.Load() == 43 })
	for _, id := range hanging {
		s.submit(id, false, hang(s, true, let, &preempted))
	}
	for range 20 {
		quick()
	}
	// Four have their share, three a slot that nobody else wants.
	s.mu.Lock()
	used, slowUsed := s.used, s.slowUsed
	s.mu.Unlock()
	if used != 7 || slowUsed != 4 || most.Load() > 8 || preempted.Load() != 43 {
		t.Errorf("%d slots in use, %d by slow ones, %d at most; %d broken off", used, slowUsed, most.Load(), preempted.Load())
	}
	close(let)
	s.close()
	if s.used != 0 || s.slowUsed != 0 || s.preempted != 0 || len(s.senders) != 0 || len(s.sending) != 0 {
		t.Errorf("left: %d slots, %d slow, %d senders, %d deliveries", s.used, s.slowUsed, len(s.senders), len(s.sending))
	}
}

// What a person's own code or command does is never broken off.
func TestLimiter_commandOverItsTime_isNotPreempted(t *testing.T) {
	t.Parallel()
	s := newLimiter(2, func() {})
	s.patience = time.Millisecond
	let := make(chan struct{})
	var preempted atomic.Int32
	s.submit(uuid.New(), false, hang(s, false, let, &preempted))
	s.submit(uuid.New(), false, hang(s, false, let, &preempted))
	ran := make(chan struct{})
	s.submit(uuid.New(), false, func(*sender) { close(ran) })
	eventually.True(t, "one to count as slow", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.slowUsed == 1
	})
	select {
	case <-ran:
		t.Error("there was a slot")
	default:
	}
	close(let)
	<-ran
	s.close()
	if preempted.Load() != 0 {
		t.Error("a command was broken off")
	}
}

// Whatever the order of things, no slot is lost or made, and every sender runs.
func TestLimiter_anyOrder_keepsItsBounds(t *testing.T) {
	t.Parallel()
	for size := 1; size <= 5; size++ {
		s := newLimiter(size, func() {})
		s.patience = 200 * time.Microsecond
		var running, most, ran atomic.Int32
		var group sync.WaitGroup
		for i := range 40 {
			group.Go(func() {
				id := uuid.New()
				for round := range 5 {
					done := make(chan struct{})
					s.submit(id, i%5 == 0, func(t *sender) {
						defer close(done)
						n := t.grow(3)
						t.shrink(max(1, n-round%2))
						var each sync.WaitGroup
						for range t.slots {
							each.Go(func() {
								ctx, end := t.begin(context.Background(), i%2 == 0)
								defer end()
								n := running.Add(1)
								defer running.Add(-1)
								for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
								}
								wait := time.NewTimer(time.Duration(i%4) * 150 * time.Microsecond)
								defer wait.Stop()
								select {
								case <-ctx.Done():
								case <-wait.C:
								}
							})
						}
						each.Wait()
						ran.Add(1)
					})
					<-done
					eventually.True(t, "the sender to end", func() bool { return !s.busy(id) })
				}
			})
		}
		group.Wait()
		s.close()
		if most.Load() > int32(size) || ran.Load() != 200 || s.used != 0 || s.slowUsed != 0 || s.preempted != 0 {
			t.Errorf("size %d: %d at once, %d senders, %d and %d slots left", size, most.Load(), ran.Load(), s.used, s.slowUsed)
		}
	}
}

// 300 endpoints take the connection and never answer. They have their share of
// the connections and no more, and another hook's message comes as if they were
// not there.
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
	got := make(chan struct{}, 100)
	well := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got <- struct{}{} }))
	t.Cleanup(well.Close)
	add := `insert into soniq_hooks (name, kind, url, settings) select $1 || n, 'webhook', $2, '{"allow": ["127.0.0.0/8"]}' from generate_series(1, $3::int) n`
	if _, err := pool.Exec(t.Context(), add, "hangs", hanging.URL, many); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), add, "well", well.URL, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), dieSQL, 1); err != nil {
		t.Fatal(err)
	}
	d := dispatcherOf(t, pool, Config{MaxInFlight: inFlight, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	d.limiter.patience = 100 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.RunAlone(ctx, pool.Config().ConnConfig) }()
	arrived := func(what string) time.Duration {
		t.Helper()
		began := time.Now()
		select {
		case <-got:
		case <-time.After(time.Minute):
			t.Fatalf("%s did not come", what)
		}
		return time.Since(began)
	}
	first := arrived("the first message")
	if n := scalar[int](t, pool, `select count(*) from soniq_hook_deliveries where last_error is not null`); n > 0 {
		t.Errorf("it had to wait for %d of the others to give up", n)
	}
	// By now it is known to be well.
	var later time.Duration
	for range 5 {
		if _, err := pool.Exec(t.Context(), dieSQL, 1); err != nil {
			t.Fatal(err)
		}
		later = max(later, arrived("another message"))
	}
	failed := scalar[int](t, pool, `select count(*) from soniq_hook_deliveries where last_error is not null`)
	t.Logf("the first message came after %s, later ones within %s, when %d had failed; %d connections at most", first, later, failed, most.Load())
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
