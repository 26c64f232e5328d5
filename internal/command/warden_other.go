//go:build !unix

package command

import (
	"context"
	"errors"
)

// A Warden makes commands die with this process. It needs the process groups of
// Unix.
type Warden struct{}

// NewWarden says that there is none here.
func NewWarden() (*Warden, error) {
	return nil, errors.New("commands can't be run here: that needs Unix")
}

// Close does nothing.
func (*Warden) Close() error { return nil }

func (*Warden) run(context.Context, Command) error {
	return errors.New("commands can't be run here: that needs Unix")
}
