package engine_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/testdb"
)

// stubbornHandler ignores its context until it is released. It is in a
// function of its own, to be found in its stack.
func stubbornHandler(started chan<- *engine.Job, release <-chan struct{}) engine.HandlerFunc {
	return func(ctx context.Context, job *engine.Job) (any, error) {
		started <- job
		<-release
		return nil, nil
	}
}

func TestWorker_handlerIgnoresItsTimeout_isSettledAndItsSlotReplaced(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, release := make(chan *engine.Job, 10), make(chan struct{})
	engine.HandleRaw(reg, "stubborn", stubbornHandler(started, release),
		engine.Timeout(50*time.Millisecond), engine.AttemptLimit(2), soon)
	noop(reg, "quick")
	var log journal
	client := newClient(t, pool)
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 1, CancelGrace: 100 * time.Millisecond, Logger: log.logger()})
	id := enqueue(t, client, "stubborn", nil)
	for _, o := range w.waitForJob(t, id) {
		if o.Verdict.Kind != classify.KindTimeout || o.Duration < 150*time.Millisecond {
			t.Errorf("attempt %d is %s, %s, after %s", o.Job.Attempts, o.Kind, o.Verdict.Kind, o.Duration)
		}
	}
	dead, err := newQueue(t, pool).Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if dead.Reason != classify.Timeout || dead.LastError != "timed out after 50ms; the handler is still running after its context has ended" {
		t.Errorf("the dead letter says %s: %s", dead.Reason, dead.LastError)
	}
	if len(dead.Errors) != 2 || !strings.Contains(dead.Errors[0].Stack, "stubbornHandler") {
		t.Errorf("its history has no stack of the handler: %+v", dead.Errors)
	}
	// Both of its runs still go on, and the only slot is free.
	w.waitForJob(t, enqueue(t, client, "quick", nil))

	close(release)
	waitTrue(t, "both returns", func() bool { return strings.Count(log.String(), "has returned") == 2 })
	text := log.String()
	for _, want := range []string{"abandoned_handlers=1", "abandoned_handlers=2", "stubbornHandler"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %s:\n%s", want, text)
		}
	}
	if n := len(w.waitFor(t, "nothing more", func([]engine.Outcome) bool { return true })); n != 3 {
		t.Errorf("%d outcomes were told, want 3", n)
	}
}

// Within the grace what the handler returns counts.
func TestWorker_handlerReturnsWithinTheGrace_isTakenAtItsWord(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "late", func(ctx context.Context, _ *engine.Job) (any, error) {
		<-ctx.Done()
		return "made it", nil
	}, engine.Timeout(20*time.Millisecond))
	client := newClient(t, pool)
	w := start(t, pool, reg, engine.WorkerConfig{CancelGrace: patience})
	id := enqueue(t, client, "late", nil)
	w.waitForJob(t, id)
	if job := getJob(t, client, id); job.Status != engine.StatusDone || string(job.Result) != `"made it"` {
		t.Errorf("job is %s, result %s", job.Status, job.Result)
	}
}

func TestCancel_handlerIgnoresIt_isCancelledAfterTheGrace(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, release := make(chan *engine.Job, 1), make(chan struct{})
	defer close(release)
	engine.HandleRaw(reg, "stubborn", stubbornHandler(started, release), engine.Timeout(-1))
	client := newClient(t, pool)
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 1, CancelGrace: 50 * time.Millisecond})
	id := enqueue(t, client, "stubborn", nil)
	receive(t, "start", started)
	if _, err := client.CancelJob(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	w.waitForJob(t, id)
	if job := getJob(t, client, id); job.Status != engine.StatusCancelled || !strings.Contains(job.LastError, "still runs") {
		t.Errorf("job is %s: %s", job.Status, job.LastError)
	}
}

// A handler that hangs in its own transaction, after CompleteTx, holds the row
// of its job.
func TestWorker_rowIsLocked_outcomesOfOthersAreWritten(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	holding, release, released := make(chan struct{}), make(chan struct{}), make(chan struct{})
	engine.HandleRaw(reg, "holds", func(ctx context.Context, _ *engine.Job) (any, error) {
		tx, err := pool.Begin(context.WithoutCancel(ctx))
		if err != nil {
			return nil, err
		}
		if err := engine.CompleteTx(ctx, tx, nil); err != nil {
			return nil, err
		}
		close(holding)
		<-release
		defer close(released)
		return nil, tx.Rollback(context.WithoutCancel(ctx))
	}, engine.Timeout(time.Second), engine.AttemptLimit(1)) // time enough to lock the row first
	noop(reg, "quick")
	client := newClient(t, pool)
	var log journal
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 5, CancelGrace: 50 * time.Millisecond, Logger: log.logger()})
	id := enqueue(t, client, "holds", nil)
	receive(t, "the row's lock", holding)
	waitTrue(t, "the settlement without the handler", func() bool { return strings.Contains(log.String(), "is abandoned") })
	// Its outcome is on its way to the locked row; others wait for no longer
	// than it takes to find that out.
	for range 3 {
		quick := enqueue(t, client, "quick", nil)
		w.waitForJob(t, quick)
	}
	waitTrue(t, "the warning", func() bool { return strings.Contains(log.String(), "locked by another session") })
	if job := getJob(t, client, id); job.Status != engine.StatusProcessing {
		t.Errorf("the job whose row is locked is %s", job.Status)
	}
	close(release)
	<-released
	w.waitForJob(t, id)
	if job := getJob(t, client, id); job.DeadLetterReason != "timeout" {
		t.Errorf("the job is %s, %s", job.Status, job.DeadLetterReason)
	}
}
