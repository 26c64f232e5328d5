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

// maxResultBytes bounds a result as JSON. A full batch of results must fit
// into one message to the server, which takes 1 GB.
const maxResultBytes = 1 << 20

// OutcomeKind says what becomes of an attempt.
type OutcomeKind string

// What can become of an attempt.
const (
	// OutcomeDone: the handler succeeded.
	OutcomeDone OutcomeKind = "done"
	// OutcomeRetry: it failed and will be tried again after Delay.
	OutcomeRetry OutcomeKind = "retry"
	// OutcomeSnooze: it asked to run again after Delay; not charged.
	OutcomeSnooze OutcomeKind = "snooze"
	// OutcomeReleased: it was given back at shutdown; not charged.
	OutcomeReleased OutcomeKind = "released"
	// OutcomeCancelled: it was cancelled by request, and won't run again.
	OutcomeCancelled OutcomeKind = "cancelled"
	// OutcomeDeadLetter: it was moved to the dead-letter table.
	OutcomeDeadLetter OutcomeKind = "dead_letter"
	// OutcomeLost: its claim had been lost, so nothing was written.
	OutcomeLost OutcomeKind = "lost"
)

// Outcome is the end of one attempt.
type Outcome struct {
	Job  *Job
	Kind OutcomeKind
	// Delay is the time until a retry or a snoozed job is due.
	Delay time.Duration
	// Verdict is how a failure was classified; of a cancelled job it has the
	// Message alone. Zero for the other kinds.
	Verdict classify.Verdict
	// Duration is how long the handler ran.
	Duration time.Duration

	result json.RawMessage
	// completed says that the handler called CompleteTx.
	completed bool
	// wasAside says that a statement with it was given up, since someone held
	// the row: it may have been written all the same.
	wasAside bool
	// refuse judges the attempt anew when the database refuses its result.
	refuse func(error) Outcome
}

// execution is one attempt under way.
type execution struct {
	// ctx is the attempt's, before its timeout and values; cancel ends it.
	ctx    context.Context
	cancel context.CancelCauseFunc
	job    *Job
	// handed is the copy of job that the handler has.
	handed  *Job
	handler *handler
	// handle is the handler's function with its middleware around it.
	handle HandlerFunc
	// loader reads the arguments of a job that came without; nil in a dry run.
	loader *loader
	// timeout bounds the attempt; 0 is none.
	timeout time.Duration
	// classifiers are the worker's, or the handler's own.
	classifiers []classify.Classifier

	// When the run began and, as stackOf knows it, in which goroutine.
	started   time.Time
	goroutine string
	// overdue, if set, is told when the handler has not returned grace after its
	// timeout.
	overdue func(ctx context.Context, e *execution)
	grace   time.Duration

	// What CompleteTx needs: the worker, which is none in a dry run, how long
	// the done row is kept, and whether it was called.
	worker    uuid.UUID
	schema    pg.Schema
	ttl       time.Duration
	completed atomic.Bool
}

// run calls the handler and judges what came of it. It returns on a panic and
// on [runtime.Goexit] too: report is called exactly once, from a deferred
// function, because after Goexit nothing else runs.
func (e *execution) run(ctx context.Context, report func(Outcome)) {
	e.started = time.Now()
	var outcome Outcome // without a Kind until the attempt is judged
	defer func() {
		judged := outcome.Kind != ""
		// Judging calls the job's code too: methods of its error, and of its
		// result.
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
		// Earlier workers died with the job each time, or gave up on telling.
		e.weigh(ctx)
		outcome = e.fail(classify.KindCrash, nil, e.crashMessage(), "")
		return
	}
	// Released last, when the handler has returned, and not when it was given up.
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

// jobContext has the two values of a handler's context.
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

// judge turns what the handler returned into an outcome. The context's cause
// decides what a deadline or a cancellation was, never the error alone: a
// handler's own HTTP timeout is an error like any other.
func (e *execution) judge(ctx context.Context, result any, err error) Outcome {
	if err == nil {
		return e.succeed(result)
	}
	// Before all that the handler may want: nobody wants the job any more.
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

// find is [errors.AsType] for errors whose methods may panic, as those of a
// nil pointer often do.
func find[E error](err error) (found E, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return errors.AsType[E](err)
}

// timeoutError keeps what the handler said, unless it only passed on the
// context's error.
func (e *execution) timeoutError(err error) error {
	if err == context.DeadlineExceeded || err == ErrJobTimeout { //nolint:errorlint // a wrapped one says more, and is kept
		return &timeoutError{e.timeout}
	}
	return err
}

// timeoutError is a job's own timeout.
type timeoutError struct{ after time.Duration }

func (e *timeoutError) Error() string { return fmt.Sprintf("timed out after %s", e.after) }
func (e *timeoutError) Unwrap() error { return ErrJobTimeout }

// succeed stores the result as JSON. One that can't be stored is a failed
// attempt: whoever waits for it would wait in vain.
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

// encodeResult returns a result as JSON that can be stored, or nil for none.
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

// fail has the failure classified: another attempt, or a dead letter.
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

// retryDelay asks the error first, then the handler's policy. A policy that
// panics must not lose the job.
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
