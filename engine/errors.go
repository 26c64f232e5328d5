package engine

import (
	"errors"
	"fmt"
	"time"
)

// ErrJobTimeout is the [context.Cause] of a handler's context after the job's timeout.
// A deadline that the handler sets itself, such as an HTTP client's, has another
// cause: its error is one like any other.
var ErrJobTimeout = errors.New("job timed out")

// ErrShutdown is the [context.Cause] of a handler's context when the worker stops
// before the job is done. The job goes back to its queue, and the attempt is not
// charged. A handler that returns it once [Stopping] is closed gives its job back, too.
var ErrShutdown = errors.New("worker is shutting down")

// ErrCancelled is the [context.Cause] of a handler's context after
// [Client.CancelJob]. Unless the handler still succeeds, the job ends as cancelled.
var ErrCancelled = errors.New("cancelled by request")

// ErrClaimLost is returned by [CompleteTx] if the worker no longer has the claim of
// the job: other workers took it for dead, for example, and one of them runs the job.
var ErrClaimLost = errors.New("the claim of the job is lost")

// ErrJobNotFound is returned by the methods of [Client] for an id that neither a job
// nor a dead letter has: it never existed, was deleted, or its result has expired.
var ErrJobNotFound = errors.New("no such job")

// ArgumentError is returned for a mistake of the caller, which was found before
// anything was sent to the database, or for which the database refused the
// statement. Nothing was changed.
type ArgumentError struct {
	// Field names the value: "args", "queue", "job name", and so on. It is "job" where
	// the database refused a value and doesn't say which.
	Field string
	// Problem says what is wrong with it, and completes the sentence that begins with
	// Field.
	Problem string
}

func (e *ArgumentError) Error() string { return e.Field + " " + e.Problem }

// Permanent marks err as permanent: the job becomes a dead letter at once, with the
// reason permanent_failure, whatever attempts remain. It returns nil for a nil err.
//
// An error in the tree whose method Permanent() bool returns true has the same
// effect. A library can have it without importing this package.
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

// InvalidArguments marks err as a fault of the job's arguments: the job becomes a dead
// letter at once, with the reason invalid_arguments. Arguments that don't decode, or
// whose method Validate fails, need no marker. It returns nil for a nil err.
func InvalidArguments(err error) error {
	if err == nil {
		return nil
	}
	return &invalidArgumentsError{err}
}

type invalidArgumentsError struct{ err error }

func (e *invalidArgumentsError) Error() string { return e.err.Error() }
func (e *invalidArgumentsError) Unwrap() error { return e.err }

// Snooze returns an error with which a handler asks to run again after d, because
// something that it needs isn't there yet. It is neither a failure nor an attempt: a
// job may snooze any number of times. A negative d means 0.
func Snooze(d time.Duration) error { return &snoozeError{max(d, 0)} }

type snoozeError struct{ delay time.Duration }

func (e *snoozeError) Error() string { return fmt.Sprintf("snoozed for %s", e.delay) }

// RetryAfter sets the delay before the next attempt, if one remains: d overrides the
// handler's retry policy. err is a failure like any other. An error in the tree with
// a method RetryAfter() time.Duration has the same effect. A negative d means 0. It
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
