package hooks_test

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// deaths is how many the storm has: enough for CI; 20,000 take half a minute.
var deaths = flag.Int("deaths", 2000, "how many dead letters TestDispatchers_storm makes")

func TestWebhook_connectionIsCut_isTriedAgainWithTheSameID(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, func(n int, w http.ResponseWriter, _ *http.Request) {
		if n > 1 {
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = conn.Close()
	})
	addHook(t, pool, "webhook", rc.URL)
	dispatch(t, pool)
	die(t, pool, 1, "j", "boom")
	eventually.True(t, "the failure", func() bool {
		return value[int](t, pool, `
			select count(*) from soniq_hook_deliveries
			where last_error like 'POST to 127.0.0.1:%' and last_status is null and lease is null`) == 1
	})
	exec(t, pool, `update soniq_hook_deliveries set next_attempt_at = now()`)
	exec(t, pool, `select pg_notify('soniq_hook', '')`)
	eventually.True(t, "the delivery", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered' and attempts = 2`) == 1
	})
	if got := rc.requests(); len(got) != 2 || got[0].id() != got[1].id() {
		t.Errorf("%d requests, with different ids", len(got))
	}
}

// One dispatcher has a sender for each hook, so a slow endpoint delays only its own.
func TestWebhook_endpointHangs_holdsUpNoOther(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	release := make(chan struct{})
	slow := newReceiver(t, func(int, http.ResponseWriter, *http.Request) { <-release })
	defer close(release) // before the server is closed, which waits for it
	quick := newReceiver(t, nil)
	addHook(t, pool, "webhook", slow.URL)
	addHook(t, pool, "webhook", quick.URL)
	dispatch(t, pool)
	die(t, pool, 30, "j", "boom")
	eventually.True(t, "the slow one to hang", func() bool { return len(slow.requests()) > 0 })
	die(t, pool, 30, "j", "boom")
	eventually.True(t, "all of the other's deliveries", func() bool { return len(quick.requests()) == 60 })
}

// A mass failure: of each death one row, one notification and one delivery,
// whichever of the dispatchers sends it.
func TestDispatchers_storm_nothingIsLostOrDoubled(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	listener := conn.Hijack()
	t.Cleanup(func() { _ = listener.Close(context.Background()) })
	if _, err := listener.Exec(t.Context(), `listen soniq_dead_letter`); err != nil {
		t.Fatal(err)
	}
	rc := newReceiver(t, nil)
	addHook(t, pool, "webhook", rc.URL)
	for range 3 {
		dispatch(t, pool)
	}
	began := time.Now()
	const batch = 250
	for n := 0; n < *deaths; n += batch {
		die(t, pool, min(batch, *deaths-n), fmt.Sprintf("j%d", n/batch), "boom")
	}
	announced := map[string]bool{}
	for range *deaths {
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		n, err := listener.WaitForNotification(ctx)
		cancel()
		if err != nil {
			t.Fatalf("%d are announced: %v", len(announced), err)
		}
		announced[decode[struct{ ID string }](t, []byte(n.Payload)).ID] = true
	}
	eventually.Count(t, "deliveries", *deaths, func() int {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered'`)
	})
	took := time.Since(began)
	ids := map[string]bool{}
	for _, r := range rc.requests() {
		ids[r.id()] = true
	}
	letters := value[int](t, pool, `select count(*) from soniq_dead_letter_jobs`)
	t.Logf("%d dead letters, %d announced, %d delivered in %s", letters, len(announced), len(ids), took.Round(time.Millisecond))
	if n := len(rc.requests()); letters != *deaths || len(announced) != *deaths || n != *deaths || len(ids) != *deaths {
		t.Errorf("%d dead letters, %d announced, %d requests with %d ids; want %d of each", letters, len(announced), n, len(ids), *deaths)
	}
}

// The mark may be lost with its connection: then it is sent again, with the
// same id, and never given up.
func TestDispatcher_databaseCutBetweenSendAndMark_onlyDelays(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 1 // whose backend is the one that cuts the others
	mine, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mine.Close)
	theirs, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(theirs.Close)
	release := make(chan struct{})
	rc := newReceiver(t, func(int, http.ResponseWriter, *http.Request) { <-release })
	addHook(t, mine, "webhook", rc.URL)
	dispatch(t, theirs)
	die(t, mine, 1, "j", "boom")
	eventually.True(t, "the request", func() bool { return len(rc.requests()) == 1 })
	value[int](t, mine, `
		select count(pg_terminate_backend(pid)) from pg_stat_activity
		where datname = current_database() and pid <> pg_backend_pid()`)
	close(release)
	eventually.True(t, "the delivery", func() bool {
		// As if the lease had ended.
		exec(t, mine, `update soniq_hook_deliveries set next_attempt_at = now() where state = 'pending'`)
		exec(t, mine, `select pg_notify('soniq_hook', '')`)
		return value[int](t, mine, `select count(*) from soniq_hook_deliveries where state = 'delivered'`) == 1
	})
	for _, r := range rc.requests() {
		if r.id() != rc.requests()[0].id() {
			t.Errorf("ids %s and %s", rc.requests()[0].id(), r.id())
		}
	}
}
