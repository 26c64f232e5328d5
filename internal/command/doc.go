// Package command runs shell commands that can't outlive the process that runs
// them: the handlers of 'soniq worker', and exec hooks.
//
// A command and all that it starts are one process group. A [Warden], which is
// a shell on the other end of a pipe, knows the groups, and kills those that
// are left when the pipe closes, as it does when the process is killed:
//
//	process --- pipe ---> warden: '+ group', '- group'; at the end kill
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

// PipeGrace is how long output is still read after a command has ended, where a
// process that it left behind holds it open.
const PipeGrace = time.Second

// Command is what a [Warden] runs.
type Command struct {
	// Line is run by /bin/sh -c. Required.
	Line string
	// Env is the whole environment, as NAME=value; of two values the later
	// counts. Default the process's own.
	Env []string
	// Dir is the working folder. Default the process's own.
	Dir   string
	Stdin io.Reader
	// Stdout and Stderr get what it prints. Default nowhere.
	Stdout, Stderr io.Writer
	// Grace is the time between SIGTERM and SIGKILL. Default none.
	Grace time.Duration
}

// Run runs c in a process group of its own. When ctx ends, the group gets
// SIGTERM, then, after c.Grace, SIGKILL. What c leaves in the group when it
// exits is killed. The error is an [*os/exec.ExitError] for an exit code but 0
// and for a signal; another one says that c could not be run.
func (w *Warden) Run(ctx context.Context, c Command) error { return w.run(ctx, c) }
