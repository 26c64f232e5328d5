package engine_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/engine"
)

// patience bounds every wait of the tests. Nothing waits for it to pass.
const patience = time.Minute

// observed collects the outcomes of a worker.
type observed struct {
	mu       sync.Mutex
	outcomes []engine.Outcome
	changed  chan struct{}
}

func newObserved() *observed { return &observed{changed: make(chan struct{})} }

func (o *observed) Settled(_ context.Context, outcome engine.Outcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.outcomes = append(o.outcomes, outcome)
	close(o.changed)
	o.changed = make(chan struct{})
}

// waitFor returns the outcomes so far once enough holds for them.
func (o *observed) waitFor(t *testing.T, what string, enough func([]engine.Outcome) bool) []engine.Outcome {
	t.Helper()
	deadline := time.After(patience)
	for {
		o.mu.Lock()
		outcomes, changed := append([]engine.Outcome(nil), o.outcomes...), o.changed
		o.mu.Unlock()
		if enough(outcomes) {
			return outcomes
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%s: not within %s; outcomes so far: %v", what, patience, outcomes)
		}
	}
}

// waitForJob returns the outcomes of one job once it is done, dead or
// cancelled.
func (o *observed) waitForJob(t *testing.T, id uuid.UUID) []engine.Outcome {
	t.Helper()
	var mine []engine.Outcome
	o.waitFor(t, "the end of job "+id.String(), func(all []engine.Outcome) bool {
		mine = nil
		for _, out := range all {
			if out.Job.ID == id {
				mine = append(mine, out)
			}
		}
		if len(mine) == 0 {
			return false
		}
		last := mine[len(mine)-1].Kind
		return last == engine.OutcomeDone || last == engine.OutcomeDeadLetter || last == engine.OutcomeCancelled
	})
	return mine
}

// running is a worker under test.
type running struct {
	*observed
	*engine.Worker
	// cancel tells it to stop, and stop waits for that too.
	cancel context.CancelFunc
	stop   func() error
}

// start runs a worker until the test ends, or until stop, which may be called
// again. Its timing is the real one, but for trust.
func start(t *testing.T, pool *pgxpool.Pool, reg *engine.Registry, config engine.WorkerConfig, timing ...engine.Timing) *running {
	t.Helper()
	r := &running{observed: newObserved()}
	if config.Observer == nil {
		config.Observer = r.observed
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	if config.SafetyPoll == 0 {
		// No test is saved by the poll: all must be woken.
		config.SafetyPoll = 8 * time.Minute
	}
	w, err := engine.NewWorker(pool, reg, config)
	if err != nil {
		t.Fatal(err)
	}
	if len(timing) > 0 {
		w.SetTiming(timing[0])
	} else {
		// The dead are recovered at the first look.
		w.SetTiming(engine.Timing{Trust: -1})
	}
	r.Worker = w
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var runErr error
	go func() {
		defer close(done)
		runErr = w.Run(ctx)
	}()
	r.cancel = cancel
	r.stop = func() error {
		cancel()
		select {
		case <-done:
			return runErr
		case <-time.After(patience):
			t.Errorf("the worker did not stop within %s", patience)
			return nil
		}
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("run worker: %v", err)
		}
	})
	return r
}

// narrow is another pool on pool's database, of one connection: whoever holds
// that holds all of it.
func narrow(t *testing.T, pool *pgxpool.Pool) *pgxpool.Pool {
	t.Helper()
	config := pool.Config().Copy()
	config.MaxConns = 1
	small, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(small.Close)
	return small
}

func newClient(t *testing.T, pool *pgxpool.Pool) *engine.Client {
	t.Helper()
	c, err := engine.NewClient(pool, engine.ClientConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func enqueue(t *testing.T, c *engine.Client, name string, args any, opts ...engine.EnqueueOption) uuid.UUID {
	t.Helper()
	e, err := c.Enqueue(t.Context(), name, args, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return e.ID
}

func getJob(t *testing.T, c *engine.Client, id uuid.UUID) *engine.Job {
	t.Helper()
	job, err := c.Job(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return job
}

func exec(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) int64 {
	t.Helper()
	tag, err := pool.Exec(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	return tag.RowsAffected()
}

func queryValue[T any](t *testing.T, pool *pgxpool.Pool, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func receive[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: not within %s", what, patience)
		panic("unreachable")
	}
}

// journal is a log that tests read.
type journal struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

// soon is a retry policy for tests.
var soon = engine.Retry(engine.Delays{time.Millisecond})

// newQueue returns the dead-letter queue of a test's database.
func newQueue(t testing.TB, pool *pgxpool.Pool) *deadletter.Queue {
	t.Helper()
	q, err := deadletter.NewQueue(pool, deadletter.QueueConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return q
}
