package engine

import (
	"errors"
	"fmt"
	"time"
)

// ErrJobTimeout is the [context.Cause] of a handler's context once the job's
// own timeout has passed. A deadline of the handler's own making (an HTTP
// client's, say) has another cause and is an error like any other.
var ErrJobTimeout = errors.New("job timed out")

// ErrShutdown is the [context.Cause] of a handler's context when the worker
// stops before the job is done. The job is given back to its queue and the
// attempt is not charged.
var ErrShutdown = errors.New("worker is shutting down")

// ErrCancelled is the [context.Cause] of a handler's context once someone has
// cancelled the job (see [Client.CancelJob]). Unless the handler succeeds all the
// same, the job ends as cancelled.
var ErrCancelled = errors.New("cancelled by request")

// ErrClaimLost is returned by [CompleteTx] for a job that is no longer this
// handler's: its worker was taken for dead, say, and someone else has the job.
var ErrClaimLost = errors.New("the claim of the job is lost")

// ErrJobNotFound is returned by [Client.Job] and the other methods on a job for an id that is neither a job
// nor a dead letter: it never was, or its result has expired.
var ErrJobNotFound = errors.New("no such job")

// ArgumentError is a caller's mistake: nothing was sent to the database, or
// the database refused the value and nothing changed. Its text says what was
// wrong and what to do.
type ArgumentError struct {
	// Field names what was wrong: 'args', 'queue', 'job name'.
	Field string
	// Problem completes the sentence that begins with Field.
	Problem string
}

func (e *ArgumentError) Error() string { return e.Field + " " + e.Problem }

// Permanent marks err as one that no retry can mend: the job becomes a dead
// letter with the reason permanent_failure at once, whatever attempts remain.
// It returns nil for a nil err.
//
// Any error in the chain with a method Permanent() bool that returns true
// does the same, so a library need not import this package.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string   { return e.err.Error() }
func (e *permanentError) Unwrap() error   { return e.err }
func (e *permanentError) Permanent() bool { return true }

// InvalidArguments marks err as a fault in the job's arguments that the
// handler found itself: the job becomes a dead letter with the reason
// invalid_arguments at once. Arguments that don't decode, or whose Validate
// method fails, need no marker. It returns nil for a nil err.
func InvalidArguments(err error) error {
	if err == nil {
		return nil
	}
	return &invalidArgumentsError{err}
}

type invalidArgumentsError struct{ err error }

func (e *invalidArgumentsError) Error() string { return e.err.Error() }
func (e *invalidArgumentsError) Unwrap() error { return e.err }

// Snooze is returned by a handler that wants to run again after d without
// that counting as an attempt or as an error: something it needs isn't there
// yet. A negative d is read as 0. There is no limit to how often a job may
// snooze.
func Snooze(d time.Duration) error { return &snoozeError{max(d, 0)} }

type snoozeError struct{ delay time.Duration }

func (e *snoozeError) Error() string { return fmt.Sprintf("snoozed for %s", e.delay) }

// RetryAfter makes err an ordinary failure whose next attempt, if one
// remains, comes after d in place of the retry policy's delay. Any error in
// the chain with a method RetryAfter() time.Duration does the same. It
// returns nil for a nil err.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &retryAfterError{max(d, 0), err}
}

type retryAfterError struct {
	delay time.Duration
	err   error
}

func (e *retryAfterError) Error() string             { return e.err.Error() }
func (e *retryAfterError) Unwrap() error             { return e.err }
func (e *retryAfterError) RetryAfter() time.Duration { return e.delay }
