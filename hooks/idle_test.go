package hooks_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// sent counts the statements of a pool.
type sent struct{ n atomic.Int64 }

func (s *sent) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	s.n.Add(1)
	return ctx
}

func (*sent) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// An idle worker has 20 statements a minute, and a dispatcher one of them: what
// it can't send, or must not yet, is no reason to look again.
func TestDispatcher_nothingToSend_isQuiet(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	counter := &sent{}
	config.ConnConfig.Tracer = counter
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	other, err := pgxpool.New(t.Context(), url) // uncounted
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	rc := newReceiver(t, nil)
	addHook(t, other, "slack", rc.URL)
	addHook(t, other, "log", "")
	addCommand(t, other, "not-allowed", "true")
	exec(t, other, `insert into soniq_hooks (name, kind) values ('go-elsewhere', 'go')`)
	exec(t, other, `insert into soniq_hooks (name, kind, url) values ('variable-elsewhere', 'webhook', 'env:SONIQ_TEST_NOT_SET_ANYWHERE')`)
	exec(t, other, `insert into soniq_hooks (name, kind, declared_at) values ('declared-elsewhere', 'log', now())`)
	exec(t, other, `insert into soniq_hooks (name, kind, url, blocked_until) values ('blocked', 'webhook', $1, now() + interval '1 hour')`, rc.URL)
	dispatch(t, pool)
	die(t, other, 1, "j", "boom")
	delivered := func() int {
		return value[int](t, other, `select count(*) from soniq_hook_deliveries where state = 'delivered'`)
	}
	eventually.Count(t, "deliveries", 2, delivered)
	// More of the same group, whose digest is due in a minute.
	die(t, other, 3, "j", "boom")
	eventually.Count(t, "deliveries", 5, delivered)
	last, since := counter.n.Load(), time.Now()
	eventually.True(t, "the end of what follows from a death", func() bool {
		if n := counter.n.Load(); n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > 2*time.Second
	})
	window := time.NewTimer(2 * time.Second)
	defer window.Stop()
	<-window.C
	if n := counter.n.Load() - last; n > 2 {
		t.Errorf("%d statements in two seconds", n)
	}
	if n := delivered(); n != 5 {
		t.Errorf("%d deliveries", n)
	}
}
