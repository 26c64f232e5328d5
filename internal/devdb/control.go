package devdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"soniq/internal/pause"
)

// Status of a shared server.
type Status struct {
	// Dir is the folder with everything of the server.
	Dir string
	// Exists is whether its database has been made.
	Exists bool
	// Major is the PostgreSQL version of the database; 0 if there is none.
	Major int
	// PID is the server's process; 0 when it isn't running.
	PID int
	// Port is the one that it listens on, or did last; 0 if it never ran.
	Port int
}

// Inspect tells about the shared server of o.Dir and o.Name without starting
// or holding it.
func Inspect(o Options) (Status, error) {
	c, err := o.shared()
	if err != nil {
		return Status{}, err
	}
	status := Status{Dir: c.base, Port: c.port()}
	if status.Major, err = c.majorVersion(); err != nil {
		return Status{}, fmt.Errorf("inspect %s database: %w", c.name, err)
	}
	status.Exists = status.Major != 0
	if status.PID, err = c.postmaster(); err != nil {
		return Status{}, fmt.Errorf("inspect %s database: %w", c.name, err)
	}
	return status, nil
}

// Stop shuts the shared server of o.Dir and o.Name down whoever holds it. It
// does nothing if it isn't running. The next [Acquire] starts it again.
func Stop(ctx context.Context, o Options) error {
	return o.withoutServer(ctx, "stop", func(*cluster) error { return nil })
}

// Reset shuts the shared server of o.Dir and o.Name down whoever holds it, and
// removes its data. The next [Acquire] makes a new database.
func Reset(ctx context.Context, o Options) error {
	return o.withoutServer(ctx, "reset", func(c *cluster) error {
		for _, path := range []string{c.dataDir(), c.passwordPath(), c.logPath()} {
			if err := removeAll(ctx, path); err != nil {
				return err
			}
		}
		return nil
	})
}

// withoutServer runs do while no server runs and none can be started.
func (o Options) withoutServer(ctx context.Context, verb string, do func(*cluster) error) error {
	c, err := o.shared()
	if err != nil {
		return err
	}
	if _, err := os.Stat(c.base); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	start, err := lockFile(ctx, c.startPath(), exclusive)
	if err != nil {
		return fmt.Errorf("%s %s database: %w", verb, c.name, err)
	}
	defer start.release()
	if err := c.shutDown(ctx); err != nil {
		return fmt.Errorf("%s %s database: %w", verb, c.name, err)
	}
	if err := do(c); err != nil {
		return fmt.Errorf("%s %s database: %w", verb, c.name, err)
	}
	return nil
}

// removeAll removes a folder that something may still be writing to, or
// removing from, for a moment.
func removeAll(ctx context.Context, path string) error {
	for {
		err := os.RemoveAll(path)
		if err == nil || !errors.Is(err, syscall.ENOTEMPTY) {
			return err
		}
		if pause.For(ctx, 5*time.Millisecond) != nil {
			return err
		}
	}
}

// killGroup kills the processes of a session that a command began.
func killGroup(leader int) error { return syscall.Kill(-leader, syscall.SIGKILL) }
