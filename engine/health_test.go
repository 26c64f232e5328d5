package engine_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"soniq/engine"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// probes asks a worker both questions.
func probes(t *testing.T, w *engine.Worker) (live, ready bool, text string) {
	t.Helper()
	ask := func(path string) (bool, string) {
		answer := httptest.NewRecorder()
		w.Health().ServeHTTP(answer, httptest.NewRequestWithContext(context.Background(), http.MethodGet, path, nil))
		return answer.Code == http.StatusOK, answer.Body.String()
	}
	live, _ = ask("/livez")
	ready, text = ask("/readyz?verbose")
	return live, ready, text
}

// A worker without a free slot is ready; one that drains is live, and not ready from the
// moment it is told.
func TestHealth_busyThenDraining(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	began, end := make(chan struct{}), make(chan struct{})
	engine.HandleRaw(reg, "j", func(context.Context, *engine.Job) (any, error) {
		close(began)
		<-end
		return nil, nil
	})
	unstarted, err := engine.NewWorker(pool, reg, engine.WorkerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if live, ready, text := probes(t, unstarted); !live || ready {
		t.Errorf("before it runs: live %t, ready %t: %s", live, ready, text)
	}
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 1})
	id := enqueue(t, newClient(t, pool), "j", nil)
	receive(t, "the job", began)
	eventually.True(t, "the listener", func() bool {
		_, _, text := probes(t, w.Worker)
		return strings.Contains(text, "[+] listener")
	})
	if live, ready, text := probes(t, w.Worker); !live || !ready || !strings.Contains(text, "[+] schema ok: 0") {
		t.Errorf("busy: live %t, ready %t: %s", live, ready, text)
	}
	w.cancel()
	eventually.True(t, "the drain", func() bool {
		live, ready, text := probes(t, w.Worker)
		if !live {
			t.Errorf("draining, it is not live: %s", text)
		}
		return !ready && strings.Contains(text, "[-] draining")
	})
	if got := getJob(t, newClient(t, pool), id); got.Status != engine.StatusProcessing {
		t.Errorf("the job is %s", got.Status)
	}
	close(end)
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if live, ready, text := probes(t, w.Worker); !live || ready || !strings.Contains(text, "it has ended") {
		t.Errorf("ended: live %t, ready %t: %s", live, ready, text)
	}
}

// A worker whose database is away is live, and not ready once it has been away for some
// seconds; it is ready again when the database is back.
func TestHealth_databaseAway_liveAndNotReady(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	proxy := testkit.StartProxy(t, url)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "j", func(context.Context, *engine.Job) (any, error) { return nil, nil })
	log := &journal{}
	w := start(t, testkit.Open(t, proxy.Through(t, url)), reg, engine.WorkerConfig{Logger: log.logger()})
	var ahead atomic.Int64
	w.SetHealthClock(func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	eventually.True(t, "the start", func() bool { _, ready, _ := probes(t, w.Worker); return ready })
	proxy.Down()
	// What is sped up is only how long it has been away.
	eventually.True(t, "a failed claim", func() bool { return strings.Contains(log.String(), "can't claim jobs") })
	ahead.Store(int64(20 * time.Second))
	live, ready, text := probes(t, w.Worker)
	if !live || ready || !strings.Contains(text, "[-] database failed: no heartbeat") || !strings.Contains(text, "[-] claims failed: jobs can't be claimed") {
		t.Errorf("away: live %t, ready %t: %s", live, ready, text)
	}
	if strings.Contains(text, "127.0.0.1") {
		t.Errorf("a probe shows where the database is: %s", text)
	}
	proxy.Up(t, url)
	ahead.Store(0)
	eventually.True(t, "it is back", func() bool { _, ready, _ := probes(t, w.Worker); return ready })
}

// A worker that can't start says so: its program may go on without it.
func TestHealth_runFailed_notLive(t *testing.T) {
	t.Parallel()
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "j", func(context.Context, *engine.Job) (any, error) { return nil, nil })
	w, err := engine.NewWorker(testkit.Open(t, testdb.EmptyURL(t)), reg, engine.WorkerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Run(t.Context()); err == nil {
		t.Fatal("it ran without tables")
	}
	if live, ready, text := probes(t, w); live || ready || !strings.Contains(text, "[-] worker failed: it has ended with an error") {
		t.Errorf("live %t, ready %t: %s", live, ready, text)
	}
}
