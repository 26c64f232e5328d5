package handler

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
	"soniq/internal/tracecontext"
)

// Exit codes of a command that say more than 'failed, try again': two of
// sysexits.h, and the shell's own for a command that it can't find or run.
const (
	StatusInvalidArguments = 65 // EX_DATAERR
	StatusPermanent        = 78 // EX_CONFIG
	StatusNotExecutable    = command.StatusNotExecutable
	StatusNotFound         = command.StatusNotFound
)

// Variables that declare hooks in the environment. A command gets none of them.
const (
	SlackVariable         = "SONIQ_SLACK_WEBHOOK_URL"
	WebhookVariable       = "SONIQ_WEBHOOK_URL"
	WebhookSecretVariable = "SONIQ_WEBHOOK_SECRET"
	hookPrefix            = "SONIQ_HOOK_"
)

// maxStderr is how much of the end of standard error becomes the error, in bytes.
const maxStderr = 4 << 10

// Exec is a shell command that runs jobs.
type Exec struct {
	// Command is run by /bin/sh -c. Required.
	Command string
	// PermanentCodes are exit codes that mean the same as 78. Default none.
	PermanentCodes []int
	// Env is added to the worker's environment, as NAME=value. Default nothing.
	Env []string
	// Dir is the working folder. Default the worker's.
	Dir string
	// Withheld names variables of the worker's environment that the command does
	// not get, beside those of hooks. Default none.
	Withheld []string
}

// Format prints the command alone, by every verb of package fmt: the values of Env
// may be secret.
func (e Exec) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "exec "+e.Command) }

// MarshalText returns what Format prints, for encoding/json and log/slog.
//
// Errors: none.
func (e Exec) MarshalText() ([]byte, error) { return fmt.Append(nil, e), nil }

// JobVariables returns the names of the variables that every command gets.
func JobVariables() []string {
	return []string{"SONIQ_JOB_ID", "SONIQ_JOB_NAME", "SONIQ_QUEUE", "SONIQ_ATTEMPT", "SONIQ_MAX_ATTEMPTS"}
}

// traceVariables are those that a command gets if its job is in a trace, and never the
// worker's own.
var traceVariables = []string{tracecontext.ParentVariable, tracecontext.StateVariable}

// execHandler runs a job by a shell command.
type execHandler struct {
	Exec
	warden *command.Warden
	// grace is the time between SIGTERM and SIGKILL.
	grace time.Duration
	log   *slog.Logger
	// stdout and stderr get a copy of what the command prints; nil gets none.
	stdout, stderr io.Writer
}

// run is an [engine.HandlerFunc]. The arguments are the command's standard input,
// its exit code is the verdict, its standard output the result if it is JSON, and
// the end of its standard error the error.
//
// The command and all that it starts are one process group, which gets SIGTERM
// and then SIGKILL when ctx ends. What the command leaves in the group when it
// exits is killed.
func (h *execHandler) run(ctx context.Context, job *engine.Job) (any, error) {
	stdout, stderr := &command.Head{Limit: MaxResult}, &command.Tail{Limit: maxStderr}
	err := h.warden.Run(ctx, command.Command{
		Line:   h.Command,
		Stdin:  bytes.NewReader(job.Args),
		Stdout: tee(stdout, h.stdout),
		Stderr: tee(stderr, h.stderr),
		Dir:    h.Dir,
		Env: slices.Concat(commandEnvironment(os.Environ(), h.Withheld), h.Env, []string{
			"SONIQ_JOB_ID=" + job.ID.String(),
			"SONIQ_JOB_NAME=" + job.Name,
			"SONIQ_QUEUE=" + job.Queue,
			"SONIQ_ATTEMPT=" + strconv.Itoa(job.Attempts),
			"SONIQ_MAX_ATTEMPTS=" + strconv.Itoa(job.MaxAttempts),
		}, engine.TraceContextFrom(ctx).Environ()),
		Grace: h.grace,
	})
	if err == nil {
		return h.result(ctx, job, stdout), nil
	}
	return nil, h.verdict(ctx, job, err, stderr.String())
}

// commandEnvironment returns environ without the secrets of endpoints and hooks. A
// command has no use for them, and could print them into the job's error, where
// others read them. The database's URL stays, for commands that enqueue jobs. The trace
// that the worker was started in is not the job's.
func commandEnvironment(environ, withheld []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return isHookVariable(name) || slices.Contains(withheld, name) || slices.Contains(traceVariables, name)
	})
}

// isHookVariable reports whether a variable is a hook's by its name.
func isHookVariable(name string) bool {
	switch name {
	case SlackVariable, WebhookVariable, WebhookSecretVariable:
		return true
	}
	return strings.HasPrefix(name, hookPrefix)
}

// verdict is the error of a command that did not exit with 0.
func (h *execHandler) verdict(ctx context.Context, job *engine.Job, err error, stderr string) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		// The worker stopped it: its exit code says nothing about the job.
		if stderr == "" {
			return cause
		}
		return fmt.Errorf("%w; standard error ended with: %s", cause, stderr)
	}
	if command.WasStopped(err) && workerStops(ctx) {
		// Whoever stops the worker has stopped the command with it, as systemd does by
		// default.
		return fmt.Errorf("%w: %s", engine.ErrShutdown, exit.ProcessState)
	}
	failed := &commandError{status: exit.ProcessState.String(), stderr: stderr}
	switch code := exit.ExitCode(); {
	case code == StatusInvalidArguments:
		return engine.InvalidArguments(failed)
	case code == StatusPermanent || slices.Contains(h.PermanentCodes, code):
		return engine.Permanent(failed)
	case code == StatusNotFound || code == StatusNotExecutable:
		traced(ctx, h.log).Error("the command of a handler can't be run: jobs fail until it is mended",
			"job_name", job.Name, "command", h.Command, "status", failed.status, "error", stderr)
	}
	return failed
}

// workerStops reports whether the worker was told to stop, or is within a moment.
func workerStops(ctx context.Context) bool {
	stopping := engine.Stopping(ctx)
	if stopping == nil {
		return false
	}
	late := time.NewTimer(command.StopPatience)
	defer late.Stop()
	select {
	case <-stopping:
		return true
	case <-late.C:
		return false
	}
}

// commandError is a command's failure: its standard error, or how it ended.
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

// ErrorType is the name of this type in 0.1.0. Dead letters are grouped by it, and the
// old and the new ones of one cause must be one group.
func (e *commandError) ErrorType() string { return "*main.commandError" }

// result is standard output if that is JSON which can be stored, else nil. The
// work is done: its output must not make it fail.
func (h *execHandler) result(ctx context.Context, job *engine.Job, stdout *command.Head) any {
	raw, log := bytes.TrimSpace(stdout.Bytes()), traced(ctx, h.log)
	switch {
	case len(raw) == 0:
		return nil
	case stdout.More:
		log.Warn("the output of a command is too long to be the job's result", "job", job.ID, "job_name", job.Name, "limit", stdout.Limit)
		return nil
	}
	result, refused := storableJSON(raw)
	switch {
	case refused != "":
		log.Warn("the output of a command can't be stored as the job's result: it holds "+refused, "job", job.ID, "job_name", job.Name)
		return nil
	case result == nil:
		log.Info("the output of a command is not JSON, so its job has no result", "job", job.ID, "job_name", job.Name)
		return nil
	default:
		return result
	}
}

// tee writes to second too, unless that is nil.
func tee(first, second io.Writer) io.Writer {
	if second == nil {
		return first
	}
	return io.MultiWriter(first, second)
}
