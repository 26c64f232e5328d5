package interop

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/eventually"
	"soniq/internal/testclient"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(victimURL); url != "" {
		os.Exit(victim(url))
	}
	testdb.Main(m)
}

// patience bounds every wait of the tests. Nothing waits for it to pass.
const patience = 60 * time.Second

func execute(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) int64 {
	t.Helper()
	tag, err := pool.Exec(t.Context(), sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return tag.RowsAffected()
}

// value returns the one value of a query.
func value[T any](t testing.TB, pool *pgxpool.Pool, sql string, args ...any) T {
	t.Helper()
	return testkit.Value[T](t, pool, sql, args...)
}

// column returns the values of a query with one column.
func column[T any](t testing.TB, pool *pgxpool.Pool, sql string, args ...any) []T {
	t.Helper()
	return testkit.Column[T](t, pool, sql, args...)
}

// await runs a query that answers with a boolean until it is true.
func await(t *testing.T, pool *pgxpool.Pool, what, sql string, args ...any) {
	t.Helper()
	eventually.True(t, what, func() bool { return value[bool](t, pool, sql, args...) })
}

// newClient returns a client of a test's database.
var newClient = testclient.New

// enqueue enqueues a job and returns its id.
var enqueue = testclient.Enqueue

// ended waits until the job is done, cancelled or dead.
func ended(t *testing.T, c *engine.Client, id uuid.UUID) *engine.Job {
	t.Helper()
	var job *engine.Job
	eventually.True(t, "the end of job "+id.String(), func() bool {
		var err error
		if job, err = c.Job(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		return job.Status != engine.StatusQueued && job.Status != engine.StatusProcessing
	})
	return job
}

// goWorker runs a worker of ours until the test ends, or stop is called. No
// test is saved by its poll: it must be woken.
func goWorker(t *testing.T, pool *pgxpool.Pool, reg *engine.Registry, config engine.WorkerConfig) (stop func()) {
	t.Helper()
	config.SafetyPoll = 8 * time.Minute
	if config.Logger == nil {
		config.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	w, err := engine.NewWorker(pool, reg, config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run worker: %v", err)
			}
		case <-time.After(patience):
			t.Errorf("the worker did not stop within %s", patience)
		}
	})
	t.Cleanup(stop)
	await(t, pool, "the Go worker's row", `
		select exists (select from soniq_workers where id = $1 and status = 'active')`, w.ID())
	return stop
}

// echo answers with the arguments as they came.
func echo(reg *engine.Registry, name string, opts ...engine.HandleOption) {
	engine.HandleRaw(reg, name, func(_ context.Context, job *engine.Job) (any, error) {
		return map[string]any{"by": "go", "args": job.Args}, nil
	}, opts...)
}

// sameJSON compares documents by what they mean, and numbers by their digits.
func sameJSON(t *testing.T, got, want []byte) bool {
	t.Helper()
	return reflect.DeepEqual(document(t, got), document(t, want))
}

func document(t *testing.T, raw []byte) (v any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return v
}

// newQueue returns the dead-letter queue of a test's database.
var newQueue = testclient.Queue

// goEcho returns a database in which a Go worker runs the jobs go.echo, and a client
// of it.
func goEcho(t *testing.T) (*pgxpool.Pool, *engine.Client) {
	t.Helper()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	echo(reg, "go.echo", engine.Queue("go"))
	goWorker(t, pool, reg, engine.WorkerConfig{})
	return pool, newClient(t, pool)
}
