package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"soniq/deadletter/classify"
	"soniq/internal/pg"
	"soniq/internal/settle"
	"soniq/internal/tracecontext"
)

// judge makes an outcome of what the handler returned. The cause of the context
// decides whether the job timed out or was cancelled, never the error alone: the
// timeout of a handler's own HTTP request is an error like any other.
//
// The errors are read once, into a tree: their methods are the job's code, which may
// be slow, or panic.
func (e *execution) judge(ctx context.Context, result any, err error) Outcome {
	if err == nil {
		return e.succeed(result)
	}
	errs := classify.ReadTree(err)
	// This comes first: a cancelled job is not retried or snoozed.
	if errors.Is(context.Cause(ctx), ErrCancelled) {
		return e.cancelled(errs)
	}
	wants := wishesOf(errs)
	switch {
	case wants.snooze != nil:
		return Outcome{Kind: OutcomeSnooze, Delay: wants.snooze.delay}
	case wants.invalid != nil:
		return e.failTree(classify.KindDecode, errs, "", "")
	case errors.Is(context.Cause(ctx), ErrShutdown), wants.release && e.isStopping():
		return Outcome{Kind: OutcomeReleased}
	case errors.Is(context.Cause(ctx), ErrJobTimeout):
		if onlyTimeout(err) {
			return e.fail(classify.KindTimeout, &timeoutError{e.timeout}, "", "")
		}
		return e.failTree(classify.KindTimeout, errs, "", "")
	}
	return e.failTree(classify.KindError, errs, "", "")
}

// wishes are what the errors of an attempt ask for: the first error of each kind.
type wishes struct {
	snooze  *snoozeError
	invalid *invalidArgumentsError
	after   afterError
	// release: [ErrShutdown] is among the errors.
	release bool
}

// afterError is an error that sets the delay before the next attempt.
type afterError interface{ RetryAfter() time.Duration }

func wishesOf(errs *classify.Tree) (w wishes) {
	for err := range errs.All() {
		switch x := err.(type) { //nolint:errorlint // all errors of the tree are looked at
		case *snoozeError:
			if w.snooze == nil {
				w.snooze = x
			}
		case *invalidArgumentsError:
			if w.invalid == nil {
				w.invalid = x
			}
		}
		if w.after == nil {
			w.after = asAfter(err)
		}
		w.release = w.release || err == ErrShutdown //nolint:errorlint // all errors of the tree are looked at
	}
	return w
}

// asAfter returns err as an afterError, or what its method As stands for. Nil if it
// is none, or if the method panics.
func asAfter(err error) (after afterError) {
	defer func() {
		if recover() != nil {
			after = nil
		}
	}()
	switch x := err.(type) { //nolint:errorlint // all errors of the tree are looked at
	case afterError:
		return x
	case interface{ As(any) bool }:
		if !x.As(&after) {
			return nil
		}
	}
	return after
}

// onlyTimeout reports whether err is just that of the context. One that wraps it says
// more, and is kept.
func onlyTimeout(err error) bool {
	return err == context.DeadlineExceeded || err == ErrJobTimeout //nolint:errorlint // see above
}

// timeoutError is the error of a job whose timeout has passed.
type timeoutError struct{ after time.Duration }

func (e *timeoutError) Error() string { return fmt.Sprintf("timed out after %s", e.after) }
func (e *timeoutError) Unwrap() error { return ErrJobTimeout }

// succeed is the outcome of a handler that returned no error. The job is done, also if
// its result can't be stored: the work must not be done again for the sake of its result.
func (e *execution) succeed(result any) Outcome {
	raw, err := encodeResult(result)
	if err != nil {
		e.log.Error("the result of a job can't be stored; the job is done, with a note in its place",
			tracecontext.Attrs(e.trace.TraceID(), "job", e.job.ID, "job_name", e.job.Name, "error", err)...)
		raw = settle.NoResult(err.Error())
	}
	return Outcome{Kind: OutcomeDone, result: raw}
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
	return e.failTree(kind, classify.ReadTree(err), message, stack)
}

// failTree is fail for errors that have been read.
func (e *execution) failTree(kind classify.Kind, errs *classify.Tree, message, stack string) Outcome {
	verdict := errs.Decide(classify.Attempt{
		JobName:     e.job.Name,
		Attempt:     e.job.Attempts,
		MaxAttempts: e.job.MaxAttempts,
		Kind:        kind,
		Message:     message,
		Permanent:   e.handler.permanent,
		Classifiers: e.classifiers,
		Stack:       stack,
	})
	if !verdict.Retry {
		return Outcome{Kind: OutcomeDeadLetter, Verdict: verdict}
	}
	return Outcome{Kind: OutcomeRetry, Verdict: verdict, Delay: e.retryDelay(errs)}
}

// retryDelay returns the delay that an error asks for, else that of the handler's
// policy. If either panics, the default policy decides.
func (e *execution) retryDelay(errs *classify.Tree) (delay time.Duration) {
	defer func() {
		if recover() != nil {
			delay = Exponential{}.Delay(e.job.Attempts, errs.Err())
		}
		delay = max(delay, 0)
	}()
	if after := wishesOf(errs).after; after != nil {
		return after.RetryAfter()
	}
	return e.handler.retry.Delay(e.job.Attempts, errs.Err())
}

// cancelled is the outcome of an attempt whose context ended because of
// [Client.CancelJob]. It has the handler's error, if that says more.
func (e *execution) cancelled(errs *classify.Tree) Outcome {
	message := ErrCancelled.Error()
	if err := errs.Err(); err != context.Canceled && err != ErrCancelled { //nolint:errorlint // one that wraps it says more
		verdict := errs.Decide(classify.Attempt{
			JobName: e.job.Name, Attempt: e.job.Attempts, MaxAttempts: e.job.MaxAttempts, Kind: classify.KindError,
		})
		message = verdict.Message
		if !isCancelled(errs) {
			message = pg.Storable(ErrCancelled.Error()+"; the handler returned: "+message, classify.MaxErrorBytes)
		}
	}
	return Outcome{Kind: OutcomeCancelled, Verdict: classify.Verdict{Message: message}}
}

// isCancelled reports whether ErrCancelled is among the errors.
func isCancelled(errs *classify.Tree) bool {
	for err := range errs.All() {
		if err == ErrCancelled { //nolint:errorlint // all errors of the tree are looked at
			return true
		}
	}
	return false
}
