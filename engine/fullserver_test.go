package engine_test

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"soniq/engine"
	"soniq/internal/pg"
	"soniq/internal/testdb"
)

// The server's queue of notifications is full: somebody listens, in another database, and
// is idle in a transaction. What must be announced waits, with its verdict; all else is
// written. 'make faults' runs it on a server whose queue can be made small.
func TestWorker_notifyQueueIsFull_outcomesWaitAndAreWrittenOnce(t *testing.T) {
	t.Parallel()
	server := testdb.StartServer(t)
	admin := connect(t, server.URL())
	if version := queryValue[int](t, admin, `select current_setting('server_version_num')::int`); version < 170000 {
		t.Skipf("the NOTIFY queue of PostgreSQL %d has 8 GB; 'make faults' runs this with 17", version/10000)
	}
	exec(t, admin, `alter system set max_notify_queue_pages = 64`)
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	pool := connect(t, server.URL())
	exec(t, pool, `create database theirs`)
	config := pool.Config().ConnConfig.Copy()
	config.Database = "theirs"
	var theirs [2]*pgx.Conn
	for i := range theirs {
		conn, err := pgx.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		theirs[i] = conn
	}
	listener, filler := theirs[0], theirs[1]

	var log journal
	reg := engine.NewRegistry()
	ends := newEnds(reg)
	w := start(t, pool, reg, engine.WorkerConfig{
		Concurrency: 20, Logger: slog.New(slog.NewMultiHandler(log.logger().Handler(), slog.NewTextHandler(t.Output(), nil))),
	})
	ids := enqueueEach(t, pool, slices.Sorted(maps.Keys(endings))...)
	for range ids {
		receive(t, "the start of a job", ends.started)
	}
	fill := func() {
		t.Helper()
		for _, sql := range []string{`listen theirs`, `begin`} {
			if _, err := listener.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		var full error
		for full == nil {
			_, full = filler.Exec(t.Context(), `select pg_notify('theirs', repeat('.', 7900))`)
		}
		if !pg.IsNotifyQueueFull(full) {
			t.Fatal(full)
		}
	}
	letGo := func() {
		t.Helper()
		if _, err := listener.Exec(t.Context(), `rollback`); err != nil {
			t.Fatal(err)
		}
	}
	fill()
	close(ends.release)
	// A death is announced. Nobody waits to hear of the other endings.
	w.waitFor(t, "the outcomes that nobody hears of", func(o []engine.Outcome) bool { return len(o) == len(ids)-1 })
	waitTrue(t, "the error", func() bool { return strings.Contains(log.String(), "it keeps the NOTIFY queue from being emptied") })
	waitUntil(t, pool, "the verdict to be kept", `select exists (select from soniq_kept_outcomes where job_id = $1)`, ids["dead"])
	if got := queryValue[string](t, pool, `select status || ' ' || attempts from soniq_jobs where id = $1 and worker_id = $2`, ids["dead"], w.ID()); got != "processing 1" {
		t.Errorf("the job that died is %s", got)
	}
	if _, err := filler.Exec(t.Context(), `notify theirs`); !pg.IsNotifyQueueFull(err) {
		t.Errorf("the queue was not full to the end: %v", err)
	}
	letGo()
	w.waitFor(t, "all outcomes", func(o []engine.Outcome) bool { return len(o) == len(ids) })

	// By itself PostgreSQL would leave the queue full. A producer's own statement frees it.
	waitUntil(t, pool, "the worker to wait for jobs", `select exists (select from soniq_waiters)`)
	fill()
	client := newClient(t, pool)
	if _, err := client.Enqueue(t.Context(), "done", nil); !pg.IsNotifyQueueFull(err) {
		t.Errorf("a job that must be announced is enqueued: %v", err)
	}
	letGo()
	waitTrue(t, "a job to be enqueued", func() bool {
		_, err := client.Enqueue(t.Context(), "done", nil)
		return err == nil
	})
	w.waitFor(t, "its end", func(o []engine.Outcome) bool { return len(o) == len(ids)+1 })
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	ends.wantEach(t, w, pool, ids, false)
	if n := strings.Count(log.String(), "the database refuses the outcome of a job"); n != 1 {
		t.Errorf("it is told %d times", n)
	}
}
