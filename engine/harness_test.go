package engine_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/testclient"
	"soniq/internal/testkit"
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

// newClient returns a client of a test's database.
var newClient = testclient.New

// enqueue enqueues a job and returns its id.
var enqueue = testclient.Enqueue

// getJob returns a job.
var getJob = testclient.Job

// exec runs a statement and returns how many rows it changed.
var exec = testkit.Exec

// queryValue returns the one value of a query.
func queryValue[T any](t testing.TB, pool *pgxpool.Pool, sql string, args ...any) T {
	t.Helper()
	return testkit.Value[T](t, pool, sql, args...)
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
type journal struct{ testkit.Log }

func (j *journal) logger() *slog.Logger { return j.Logger(slog.LevelInfo) }

// soon is a retry policy for tests.
var soon = engine.Retry(engine.Delays{time.Millisecond})

// newQueue returns the dead-letter queue of a test's database.
var newQueue = testclient.Queue
