// Package command runs shell commands that end with the process that runs them:
// the handlers of 'soniq worker', and exec hooks.
//
// A command and all that it starts are one process group. A [Warden] is a shell on
// the other end of a pipe that knows the groups. When this process ends, however it
// ends, the kernel closes the pipe, and the warden kills the groups that are left:
//
//	process --- pipe ---> warden: '+ group', '- group', at the end kill
//	   |
//	   +--- gate ---> command, which begins once the warden knows its group
package command

import (
	"context"
	"io"
	"time"
)

// Exit codes of the shell for a command that it can't run.
const (
	StatusNotExecutable = 126
	StatusNotFound      = 127
)

// PipeGrace is how long output is still read after a command has ended. A process
// that it left behind may hold the pipe open.
const PipeGrace = time.Second

// StopPatience is how long the process that runs a command waits for its own signal, where
// a signal has ended the command. Some supervisors signal all processes of a unit at once,
// in any order.
const StopPatience = 2 * time.Second

// Command is what a [Warden] runs.
type Command struct {
	// Line is run by /bin/sh -c. Required.
	Line string
	// Env is the whole environment, as NAME=value. If a name is there twice, the last
	// one counts. Default the process's own.
	Env []string
	// Dir is the working folder. Default the process's own.
	Dir string
	// Stdin is the standard input. Default nothing.
	Stdin io.Reader
	// Stdout and Stderr get what the command prints. Default nowhere.
	Stdout, Stderr io.Writer
	// Grace is the time between SIGTERM and SIGKILL. Default none.
	Grace time.Duration
}

// Run runs c in a process group of its own. When ctx ends, the group gets SIGTERM
// and, after c.Grace, SIGKILL. What c leaves in the group when it exits is killed.
//
// Errors: an [*os/exec.ExitError] for an exit code other than 0 and for a signal;
// another error where c could not be run.
func (w *Warden) Run(ctx context.Context, c Command) error { return w.run(ctx, c) }
