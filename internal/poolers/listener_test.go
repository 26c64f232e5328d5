package poolers_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"soniq/deadletter"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// poolersInTurn are two poolers behind one address, as several processes on one port or
// several pods are: each connection comes to the next one.
func poolersInTurn(t *testing.T, direct, mode string) (pooled string, each []string) {
	t.Helper()
	each = []string{testkit.PgBouncer(t, direct, mode), testkit.PgBouncer(t, direct, mode)}
	proxy := testkit.StartProxy(t, each[0])
	proxy.Up(t, each...)
	return proxy.Through(t, each[0]), each
}

// events are the dead letters that a subscription has told of.
type events struct {
	mu  sync.Mutex
	ids []string
}

func (e *events) add(_ context.Context, event deadletter.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ids = append(e.ids, event.ID.String())
}

func (e *events) have(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Contains(strings.Join(e.ids, " "), id)
}

// A subscription, with pgx's default mode, behind each kind of pooler: it delivers, or says
// once what can't be, and leaves no LISTEN on the pooler's connections.
func TestPoolers_subscribe_deliversOrSaysWhatCantBe(t *testing.T) {
	t.Parallel()
	for _, a := range []struct {
		name, mode string
		settings   []string
		size       int
		two        bool
	}{
		{name: "session", mode: "session"},
		{name: "session, two poolers", mode: "session", two: true},
		{name: "transaction", mode: "transaction", size: 20},
		{name: "transaction, one connection", mode: "transaction", size: 1},
		{name: "transaction, in turns", mode: "transaction", settings: []string{inTurns}, size: 20},
		{name: "transaction, two poolers", mode: "transaction", size: 20, two: true},
	} {
		for _, from := range []bool{false, true} {
			name := a.name
			if from {
				name += ", from"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				direct := testdb.NewURL(t)
				var pooled string
				var each []string
				if a.two {
					pooled, each = poolersInTurn(t, direct, a.mode)
				} else {
					pooled = testkit.PgBouncer(t, direct, a.mode, append(a.settings, fmt.Sprintf("default_pool_size = %d", cmp.Or(a.size, 20)))...)
					each = []string{pooled}
				}
				subscribes(t, direct, pooled, from, a.mode == "session")
				if a.mode == "transaction" {
					for _, pooler := range each {
						nothingIsLeft(t, direct, pooler, a.size)
					}
				}
			})
		}
	}
}

func subscribes(t *testing.T, direct, pooled string, from, session bool) {
	t.Helper()
	config, err := pgx.ParseConfig(pooled)
	if err != nil {
		t.Fatal(err)
	}
	var log testkit.Log
	var got events
	var connected atomic.Bool
	options := deadletter.SubscribeOptions{Logger: log.Logger(slog.LevelInfo), OnConnect: func(context.Context) { connected.Store(true) }}
	if from {
		options.From = new(deadletter.Position)
		options.Poll = 100_000_000 // 100 ms
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- deadletter.Subscribe(ctx, config, options, got.add) }()
	pool := testkit.Open(t, direct)
	warned := func() bool { return strings.Contains(log.String(), "notifications don't arrive") }
	if session {
		eventually.True(t, "the connection", connected.Load)
	} else {
		eventually.True(t, "the warning", warned)
	}
	if session || from {
		id := clitest.Seed(t, pool, clitest.Letter{Job: "j"}).String()
		eventually.True(t, "the dead letter", func() bool { return got.have(id) })
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	switch text := log.String(); {
	case session && text != "":
		t.Errorf("the log: %s", text)
	case !session && strings.Contains(text, "found by looking") != from:
		t.Errorf("From is set: %t, and the log says: %s", from, text)
	case strings.Count(text, "\n") > 1:
		t.Errorf("the log has more than the warning: %s", text)
	}
}
