package app

import (
	"errors"
	"fmt"

	"soniq/engine"
	"soniq/internal/cli/terminal"
)

// Exit codes, the same for every command.
const (
	ExitDone    = 0 // done; an empty list too
	ExitFailed  = 1
	ExitUsage   = 2 // the command line or its input is wrong; nothing was changed
	ExitNothing = 3 // a bulk command matched nothing
	ExitPartly  = 4 // some of what was asked for was done
	// ExitClosed: nobody reads the output any more. A shell reports it for a program
	// that SIGPIPE has ended: 128 and the signal's number.
	ExitClosed = 141
)

// ExitUnknown is the answer of a command that a monitor or a pipeline reads, where
// it has none.
const ExitUnknown = 3

// ErrClosed is the cause of the end of [App.Ctx] where nobody reads standard output any
// more. Commands that change many things stop then, as after Ctrl-C.
var ErrClosed = errors.New("nobody reads the output any more")

// ExitError is an error with an exit code of its own.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string { return e.Err.Error() }
func (e *ExitError) Unwrap() error { return e.Err }

// Usagef is an error of the command line or of its input: exit code 2.
func Usagef(format string, args ...any) error {
	return &ExitError{ExitUsage, fmt.Errorf(format, args...)}
}

// ExitCode is the exit code that err asks for.
func ExitCode(err error) int {
	if err == nil {
		return ExitDone
	}
	var e *ExitError
	if errors.As(err, &e) {
		return e.Code
	}
	var wrong *engine.ArgumentError
	if errors.As(err, &wrong) {
		return ExitUsage
	}
	return ExitFailed
}

// BrokenOutcome ends a command on several ids. failed are those that could not be
// changed; err, if any, is why the ids after it were not tried.
func (a *App) BrokenOutcome(done int, failed []Failure, err error) error {
	outcome := a.outcome(done, failed)
	if err != nil {
		if done > 0 {
			err = fmt.Errorf("%s; %d were done before, and the others were left as they are", a.Describe(err), done)
		}
		return Partly(int64(done), err)
	}
	return outcome
}

// Failure is what went wrong with one of several ids.
type Failure struct {
	ID    string `json:"id"`
	Error string `json:"error"`
}

// Partly is err with the exit code [ExitPartly], if something was done before.
func Partly(done int64, err error) error {
	if err == nil || done == 0 {
		return err
	}
	return &ExitError{ExitPartly, err}
}

// outcome ends a command on several ids. It prints each failure on a line of
// standard error.
func (a *App) outcome(done int, failed []Failure) error {
	for _, f := range failed {
		a.Note("soniq: %s: %s", terminal.OneLine(f.ID), terminal.OneLine(f.Error))
	}
	switch {
	case len(failed) == 0:
		return nil
	case done == 0:
		return &ExitError{ExitFailed, ErrReported}
	default:
		return &ExitError{ExitPartly, ErrReported}
	}
}

// ErrReported ends a command that has printed its error already.
var ErrReported = errors.New("reported")
