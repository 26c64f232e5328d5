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

// errNothingMatched ends a bulk command that found nothing to do.
var errNothingMatched = &exitError{exitNothing, errors.New("no dead letter matches; nothing was changed")}

// errNoDelivery is that of 'hooks retry'.
var errNoDelivery = &exitError{exitNothing, errors.New("no delivery that failed or waits matches; nothing was changed")}

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
