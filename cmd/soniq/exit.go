package main

import (
	"errors"
	"fmt"
)

// Exit codes, the same for every command.
const (
	exitDone    = 0 // done; an empty list too
	exitFailed  = 1
	exitUsage   = 2 // the command line or its input is wrong; nothing was changed
	exitNothing = 3 // a bulk command matched nothing
	exitPartly  = 4 // some of what was asked for was done
)

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usagef is an error of the person at the keyboard: exit code 2.
func usagef(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// exitCode is the exit code that err asks for.
func exitCode(err error) int {
	if err == nil {
		return exitDone
	}
	var e *exitError
	if errors.As(err, &e) {
		return e.code
	}
	return exitFailed
}

// brokenOutcome is outcome for a command that may have been kept by err from the
// ids that come after.
func (a *app) brokenOutcome(done int, failed []failure, err error) error {
	outcome := a.outcome(done, failed)
	if err != nil {
		return partly(int64(done), err)
	}
	return outcome
}

// failure is what went wrong with one of several ids.
type failure struct {
	ID    string `json:"id"`
	Error string `json:"error"`
}

// partly is err with the exit code that tells that done things were done before.
func partly(done int64, err error) error {
	if err == nil || done == 0 {
		return err
	}
	return &exitError{exitPartly, err}
}

// outcome ends a command on several ids: failures are named, each on its own
// line of standard error.
func (a *app) outcome(done int, failed []failure) error {
	for _, f := range failed {
		a.note("soniq: %s: %s", oneLine(f.ID), oneLine(f.Error))
	}
	switch {
	case len(failed) == 0:
		return nil
	case done == 0:
		return &exitError{exitFailed, errReported}
	default:
		return &exitError{exitPartly, errReported}
	}
}

// errReported ends a command that has said on standard error what went wrong.
var errReported = errors.New("reported")
