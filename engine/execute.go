package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
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
	// wasAside is true after a statement was given up because another session held
	// the row: the outcome may have been written nevertheless.
	wasAside bool
	// refuse returns the outcome if the database refuses the result.
	refuse func(error) Outcome
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
	// handle is the handler's function, wrapped in the middleware.
	handle HandlerFunc
	// loader reads arguments that the claim did not return. Nil in a dry run.
	loader *loader
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
			outcome = e.cancelled(errors.New(outcome.Verdict.Message))
		}
		outcome.Job, outcome.Duration, outcome.completed = e.job, time.Since(e.started), e.completed.Load()
		report(outcome)
	}()
	if e.job.Attempts > e.job.MaxAttempts {
		// Earlier workers died with the job, or could not write its outcome.
		e.weigh(ctx)
		outcome = e.fail(classify.KindCrash, nil, e.crashMessage(), "")
		return
	}
	// Released when the handler has returned, and not when it is abandoned.
	defer func() { e.job.held.release() }()
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

func (e *execution) crashMessage() string {
	if e.job.LastError != "" {
		return e.job.LastError
	}
	return "the worker died with this job each time, or lost its claim"
}

// judge makes an outcome of what the handler returned. The cause of the context
// decides whether the job timed out or was cancelled, never the error alone: the
// timeout of a handler's own HTTP request is an error like any other.
func (e *execution) judge(ctx context.Context, result any, err error) Outcome {
	if err == nil {
		return e.succeed(result)
	}
	// This comes first: a cancelled job is not retried or snoozed.
	if errors.Is(context.Cause(ctx), ErrCancelled) {
		return e.cancelled(err)
	}
	if snooze, ok := find[*snoozeError](err); ok {
		return Outcome{Kind: OutcomeSnooze, Delay: snooze.delay}
	}
	if _, ok := find[*invalidArgumentsError](err); ok {
		return e.fail(classify.KindDecode, err, "", "")
	}
	switch {
	case errors.Is(context.Cause(ctx), ErrShutdown):
		return Outcome{Kind: OutcomeReleased}
	case errors.Is(context.Cause(ctx), ErrJobTimeout):
		return e.fail(classify.KindTimeout, e.timeoutError(err), "", "")
	}
	return e.fail(classify.KindError, err, "", "")
}

// find is [errors.AsType] for errors whose methods may panic, as those of a nil pointer
// often do.
func find[E error](err error) (found E, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return errors.AsType[E](err)
}

// timeoutError returns the handler's error, unless that is just the context's.
func (e *execution) timeoutError(err error) error {
	if err == context.DeadlineExceeded || err == ErrJobTimeout { //nolint:errorlint // a wrapped one says more, and is kept
		return &timeoutError{e.timeout}
	}
	return err
}

// timeoutError is the error of a job whose timeout has passed.
type timeoutError struct{ after time.Duration }

func (e *timeoutError) Error() string { return fmt.Sprintf("timed out after %s", e.after) }
func (e *timeoutError) Unwrap() error { return ErrJobTimeout }

// succeed is the outcome of a handler that returned no error. A result that can't be
// stored makes the attempt a failure: a program that waits for it would not get it.
func (e *execution) succeed(result any) Outcome {
	raw, err := encodeResult(result)
	if err != nil {
		return e.fail(classify.KindError, fmt.Errorf("store result: %w", err), "", "")
	}
	if raw == nil {
		return Outcome{Kind: OutcomeDone}
	}
	return Outcome{Kind: OutcomeDone, result: raw, refuse: func(err error) Outcome {
		return e.fail(classify.KindError, err, "", "")
	}}
}

// encodeResult encodes a result as JSON that can be stored. Nil means no result.
func encodeResult(result any) (json.RawMessage, error) {
	if raw, ok := result.(json.RawMessage); result == nil || ok && raw == nil {
		return nil, nil
	}
	raw, err := marshal(result)
	if err != nil {
		return nil, err
	}
	if len(raw) > maxResultBytes {
		return nil, fmt.Errorf(
			"it has %d bytes, over the limit of %d; store large data elsewhere and return a reference to it",
			len(raw), maxResultBytes)
	}
	if err := checkJSON(raw); err != nil {
		return nil, fmt.Errorf("its contents %w", err)
	}
	return raw, nil
}

// fail classifies a failure. The outcome is a retry or a dead letter.
func (e *execution) fail(kind classify.Kind, err error, message, stack string) Outcome {
	verdict := classify.Decide(classify.Attempt{
		JobName:     e.job.Name,
		Attempt:     e.job.Attempts,
		MaxAttempts: e.job.MaxAttempts,
		Kind:        kind,
		Err:         err,
		Message:     message,
		Permanent:   e.handler.permanent,
		Classifiers: e.classifiers,
		Stack:       stack,
	})
	if !verdict.Retry {
		return Outcome{Kind: OutcomeDeadLetter, Verdict: verdict}
	}
	return Outcome{Kind: OutcomeRetry, Verdict: verdict, Delay: e.retryDelay(err)}
}

// retryDelay returns the delay that the error asks for, else that of the handler's
// policy. If the policy panics, the default policy decides.
func (e *execution) retryDelay(err error) (delay time.Duration) {
	defer func() {
		if recover() != nil {
			delay = Exponential{}.Delay(e.job.Attempts, err)
		}
		delay = max(delay, 0)
	}()
	if wish, ok := find[interface {
		error
		RetryAfter() time.Duration
	}](err); ok {
		return wish.RetryAfter()
	}
	return e.handler.retry.Delay(e.job.Attempts, err)
}
