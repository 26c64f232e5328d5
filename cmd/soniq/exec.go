package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"soniq/engine"
	"soniq/internal/command"
)

// Exit codes of a command that are more than 'failed, try again': two of
// sysexits.h, and the shell's own for a command that it can't find or run.
const (
	statusInvalidArguments = 65 // EX_DATAERR
	statusPermanent        = 78 // EX_CONFIG
	statusNotExecutable    = command.StatusNotExecutable
	statusNotFound         = command.StatusNotFound
)

const (
	// killGrace is how long a command has between SIGTERM and SIGKILL.
	killGrace = 5 * time.Second
	// maxStderr is how much of the end of standard error becomes the error.
	maxStderr = 4 << 10
	// maxStdout is the longest result; it is kept in the job's row.
	maxStdout = 1 << 20
)

// execHandler runs a job by a shell command.
type execHandler struct {
	command string
	// env is added to the worker's environment, as NAME=value.
	env []string
	// withheld are variables of the worker's that the command does not get;
	// see [withheldVariable].
	withheld []string
	// dir is the command's working folder. Default the worker's.
	dir string
	// permanentCodes are exit codes that mean the same as 78.
	permanentCodes []int
	warden         *command.Warden
	// grace is the time between SIGTERM and SIGKILL.
	grace time.Duration
	log   *slog.Logger
	tap   taps
}

// run has the signature of [engine.HandleRaw]: the arguments are the command's
// standard input, its exit code is the verdict, its standard output the
// result if it is JSON, the end of its standard error the error.
//
// The command and all that it starts are one process group, which gets
// SIGTERM and then SIGKILL when ctx ends. What it leaves behind in the group
// when it exits is killed.
func (h *execHandler) run(ctx context.Context, job *engine.Job) (any, error) {
	stdout, stderr := &command.Head{Limit: maxStdout}, &command.Tail{Limit: maxStderr}
	err := h.warden.Run(ctx, command.Command{
		Line:   h.command,
		Stdin:  bytes.NewReader(job.Args),
		Stdout: tee(stdout, h.tap.stdout),
		Stderr: tee(stderr, h.tap.stderr),
		Dir:    h.dir,
		Env: append(append(commandEnvironment(os.Environ(), h.withheld), h.env...),
			"SONIQ_JOB_ID="+job.ID.String(),
			"SONIQ_JOB_NAME="+job.Name,
			"SONIQ_QUEUE="+job.Queue,
			"SONIQ_ATTEMPT="+strconv.Itoa(job.Attempts),
			"SONIQ_MAX_ATTEMPTS="+strconv.Itoa(job.MaxAttempts),
		),
		Grace: h.grace,
	})
	if err == nil {
		return h.result(job, stdout), nil
	}
	return nil, h.verdict(ctx, job, err, stderr.String())
}

// commandEnvironment is environ without what is withheld from commands: the
// secrets of endpoints and of hooks, which a command has no use for, and which
// whoever can make it print its environment would read in the job's error. The
// database's URL stays, for commands that enqueue jobs.
func commandEnvironment(environ, withheld []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return withheldVariable(name) || slices.Contains(withheld, name)
	})
}

// withheldVariable reports whether a variable is a hook's by its name.
func withheldVariable(name string) bool {
	switch name {
	case slackVariable, urlVariable, secretVariable:
		return true
	}
	return strings.HasPrefix(name, "SONIQ_HOOK_")
}

// verdict is the error of a command that did not end well.
func (h *execHandler) verdict(ctx context.Context, job *engine.Job, err error, stderr string) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		// It was told to stop: its exit code says nothing about the job.
		if stderr == "" {
			return cause
		}
		return fmt.Errorf("%w; standard error ended with: %s", cause, stderr)
	}
	failed := &commandError{status: exit.ProcessState.String(), stderr: stderr}
	switch code := exit.ExitCode(); {
	case code == statusInvalidArguments:
		return engine.InvalidArguments(failed)
	case code == statusPermanent || slices.Contains(h.permanentCodes, code):
		return engine.Permanent(failed)
	case code == statusNotFound || code == statusNotExecutable:
		h.log.Error("the command of a handler can't be run: jobs fail until it is mended",
			"name", job.Name, "command", h.command, "status", failed.status, "error", stderr)
	}
	return failed
}

// commandError is a command's failure: what it said, or how it ended.
type commandError struct {
	status string // such as 'exit status 3' or 'signal: killed'
	stderr string
}

func (e *commandError) Error() string {
	if e.stderr != "" {
		return e.stderr
	}
	return e.status
}

// ErrorCode is recorded with a dead letter.
func (e *commandError) ErrorCode() string { return e.status }

// result is standard output if it is JSON that can be stored, else nil: the
// work is done, and its output must not make it fail.
func (h *execHandler) result(job *engine.Job, stdout *command.Head) any {
	raw := bytes.TrimSpace(stdout.Bytes())
	switch {
	case len(raw) == 0:
		return nil
	case stdout.More:
		h.log.Warn("the output of a command is too long to be the job's result", "job", job.ID, "name", job.Name, "limit", stdout.Limit)
		return nil
	}
	result, refused := storableJSON(raw)
	if refused != "" {
		h.log.Warn("the output of a command can't be stored as the job's result: it holds "+refused, "job", job.ID, "name", job.Name)
	}
	if result == nil {
		if refused == "" {
			h.log.Info("the output of a command is not JSON, so its job has no result", "job", job.ID, "name", job.Name)
		}
		return nil
	}
	return result
}

// tee writes to second too, if there is one.
func tee(first, second io.Writer) io.Writer {
	if second == nil {
		return first
	}
	return io.MultiWriter(first, second)
}
