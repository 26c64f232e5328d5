package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/internal/jobargs"
	"soniq/internal/pg"
)

// maxResultBytes limits a result as JSON. A full batch of results must fit into one
// message to the server, which is at most 1 GB.
const maxResultBytes = 1 << 20

// OutcomeKind is how an attempt ended.
type OutcomeKind string

// The kinds of an [Outcome].
const (
	// OutcomeDone: the handler succeeded.
	OutcomeDone OutcomeKind = "done"
	// OutcomeRetry: the attempt failed. The job is tried again after Delay.
	OutcomeRetry OutcomeKind = "retry"
	// OutcomeSnooze: the handler asked to run again after Delay. The attempt is not
	// charged.
	OutcomeSnooze OutcomeKind = "snooze"
	// OutcomeReleased: the job went back to its queue at shutdown. The attempt is not
	// charged.
	OutcomeReleased OutcomeKind = "released"
	// OutcomeCancelled: the job was cancelled by request. It won't run again.
	OutcomeCancelled OutcomeKind = "cancelled"
	// OutcomeDeadLetter: the job was moved to the dead-letter queue.
	OutcomeDeadLetter OutcomeKind = "dead_letter"
	// OutcomeLost: the claim was lost. Nothing was written.
	OutcomeLost OutcomeKind = "lost"
)

// Outcome is how one attempt ended, and what was written of it.
type Outcome struct {
	// Job is the job as it was claimed.
	Job  *Job
	Kind OutcomeKind
	// Delay is the time until a retried or snoozed job is due. 0 for other kinds.
	Delay time.Duration
	// Verdict is how the failure of a retried or dead job was classified. For a
	// cancelled job it has a Message alone; for other kinds it is zero.
	Verdict classify.Verdict
	// Duration is how long the handler ran.
	Duration time.Duration

	result json.RawMessage
	// completed is true if CompleteTx succeeded.
	completed bool
	// trace is the attempt's trace, for the log.
	trace string
}

// execution is one running attempt.
type execution struct {
	// ctx is the attempt's context without its timeout and values. cancel ends it.
	ctx    context.Context
	cancel context.CancelCauseFunc
	job    *Job
	// handed is the copy of job that the handler has.
	handed  *Job
	handler *handler
	log     *slog.Logger
	// handle is the handler's function, wrapped in the middleware.
	handle HandlerFunc
	// loader reads arguments that the claim did not return. Nil in a dry run.
	loader *jobargs.Loader
	// timeout limits the attempt. 0 or negative means no limit.
	timeout time.Duration
	// classifiers are the worker's, or the handler's own.
	classifiers []classify.Classifier

	// When the attempt began, and in which goroutine, as stackOf names it.
	started   time.Time
	goroutine string
	// overdue, if set, is called if the handler has not returned grace after its
	// timeout.
	overdue func(ctx context.Context, e *execution)
	grace   time.Duration
	// tracers is nil in a dry run. traced is the context that they have returned, and
	// trace the attempt's trace context. begun is set once both, and started, are there.
	tracers *tracers
	traced  context.Context
	trace   TraceContext
	begun   atomic.Bool
	// stopping is closed when the worker was told to stop. Nil in a dry run.
	stopping <-chan struct{}

	// What CompleteTx needs: the worker, which is uuid.Nil in a dry run, the schema,
	// and how long the row of a done job is kept. completed is true once CompleteTx
	// has succeeded.
	worker    uuid.UUID
	schema    pg.Schema
	ttl       time.Duration
	completed atomic.Bool
}

// run calls the handler and reports the outcome, exactly once, whether the handler
// returns, panics or calls [runtime.Goexit]. report is called from a deferred
// function, since nothing else runs after Goexit.
func (e *execution) run(ctx context.Context, report func(Outcome)) {
	e.started = time.Now()
	ctx, e.trace = e.tracers.start(ctx, e.job)
	e.traced = ctx
	e.begun.Store(true)
	var outcome Outcome // its Kind is empty until the attempt is judged
	defer func() {
		judged := outcome.Kind != ""
		// judge calls code of the job as well, such as methods of its error and of its
		// result, and may panic.
		if panicked := recover(); panicked != nil {
			cause, _ := panicked.(error)
			outcome = e.fail(classify.KindPanic, cause, fmt.Sprintf("panic: %v", panicked), string(debug.Stack()))
		} else if !judged {
			outcome = e.fail(classify.KindGoexit, nil, "the handler ended its goroutine (runtime.Goexit)", string(debug.Stack()))
		}
		if !judged && errors.Is(context.Cause(ctx), ErrCancelled) {
			outcome = e.cancelled(classify.ReadTree(errors.New(outcome.Verdict.Message)))
		}
		outcome = e.ended(outcome)
		e.tracers.end(e.traced, outcome)
		report(outcome)
	}()
	if e.job.Attempts > e.job.MaxAttempts {
		// Earlier workers died with the job, or could not write its outcome.
		e.weigh(ctx)
		outcome = e.fail(classify.KindCrash, nil, e.crashMessage(), "")
		return
	}
	// Released when the handler has returned, and not when it is abandoned.
	defer func() { e.job.held.Release() }()
	if o, ok := e.prepare(ctx); !ok {
		outcome = o
		return
	}
	e.handed = e.job.forHandler()
	ctx = jobContext{ctx, e}
	if e.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, e.timeout, ErrJobTimeout)
		defer cancel()
		if e.overdue != nil {
			defer time.AfterFunc(plus(e.timeout, e.grace), func() { e.overdue(ctx, e) }).Stop()
		}
	}
	result, err := e.handle(ctx, e.handed)
	outcome = e.judge(ctx, result, err)
}

// ended completes the outcome of an attempt that has begun.
func (e *execution) ended(o Outcome) Outcome {
	o.Job, o.Duration, o.completed, o.trace = e.job, time.Since(e.started), e.completed.Load(), e.trace.TraceID()
	return o
}

// jobContext is a handler's context. It has two values: the handler's copy of the job,
// and the execution.
type jobContext struct {
	context.Context

	e *execution
}

// Value implements [context.Context].
func (c jobContext) Value(key any) any {
	switch key.(type) {
	case jobKey:
		return c.e.handed
	case executionKey:
		return c.e
	}
	return c.Context.Value(key)
}

// isStopping reports whether the worker was told to stop.
func (e *execution) isStopping() bool {
	select {
	case <-e.stopping:
		return true
	default:
		return false
	}
}

// Stopping returns a channel that is closed once the worker was told to stop. ctx is a
// handler's, or comes from one; for any other the channel is nil. The handler's context
// itself ends only after ShutdownTimeout. A handler that can't use that time returns
// [ErrShutdown].
func Stopping(ctx context.Context) <-chan struct{} {
	if e, ok := ctx.Value(executionKey{}).(*execution); ok {
		return e.stopping
	}
	return nil
}

func (e *execution) crashMessage() string {
	if e.job.LastError != "" {
		return e.job.LastError
	}
	return "the worker died with this job each time, or lost its claim"
}
