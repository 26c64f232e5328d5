//go:build !unix

package command

import (
	"context"
	"errors"
)

// A Warden ends commands with this process. It needs the process groups of Unix.
type Warden struct{}

// NewWarden fails.
//
// Errors: one that says so; no caller decides by it.
func NewWarden() (*Warden, error) {
	return nil, errors.New("commands can't be run here: that needs Unix")
}

// Close does nothing.
//
// Errors: none.
func (*Warden) Close() error { return nil }

// WasStopped returns false.
func WasStopped(error) bool { return false }

func (*Warden) run(context.Context, Command) error {
	return errors.New("commands can't be run here: that needs Unix")
}
