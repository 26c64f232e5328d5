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
	"syscall"
	"time"

	"soniq/engine"
)

// Exit codes of a command that are more than 'failed, try again': two of
// sysexits.h, and the shell's own for a command that it can't find or run.
const (
	statusInvalidArguments = 65 // EX_DATAERR
	statusPermanent        = 78 // EX_CONFIG
	statusNotExecutable    = 126
	statusNotFound         = 127
)

const (
	// killGrace is how long a command has between SIGTERM and SIGKILL.
	killGrace = 5 * time.Second
	// pipeGrace is how long output is still read after the command has ended,
	// where a process that it left behind holds it open.
	pipeGrace = time.Second
	// maxStderr is how much of the end of standard error becomes the error.
	maxStderr = 4 << 10
	// maxStdout is the longest result; it is kept in the job's row.
	maxStdout = 1 << 20
)

// gateScript holds the command back until the warden knows its process group:
// if the worker dies before, the read fails and nothing has run.
const gateScript = `read -r go <&3 && exec 3<&- /bin/sh -c "$1"`

// execHandler runs a job by a shell command.
type execHandler struct {
	command string
	// env is added to the worker's environment, as NAME=value.
	env []string
	// dir is the command's working folder. Default the worker's.
	dir string
	// permanentCodes are exit codes that mean the same as 78.
	permanentCodes []int
	warden         *warden
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
	stdout, stderr := &head{limit: maxStdout}, &tail{limit: maxStderr}
	cmd := exec.Command("/bin/sh", "-c", gateScript, "/bin/sh", h.command)
	cmd.Stdin = bytes.NewReader(job.Args)
	cmd.Stdout, cmd.Stderr = tee(stdout, h.tap.stdout), tee(stderr, h.tap.stderr)
	cmd.Dir = h.dir
	cmd.Env = append(append(os.Environ(), h.env...),
		"SONIQ_JOB_ID="+job.ID.String(),
		"SONIQ_JOB_NAME="+job.Name,
		"SONIQ_QUEUE="+job.Queue,
		"SONIQ_ATTEMPT="+strconv.Itoa(job.Attempts),
		"SONIQ_MAX_ATTEMPTS="+strconv.Itoa(job.MaxAttempts),
	)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = pipeGrace

	group, err := h.start(cmd)
	if err != nil {
		return nil, fmt.Errorf("start command: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = h.terminate(group, ended)
	}
	_ = syscall.Kill(-group, syscall.SIGKILL)
	h.warden.remove(group)

	// What it left behind held the pipes open; it ended well itself.
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return h.result(job, stdout), nil
	}
	return nil, h.verdict(ctx, job, err, stderr.String())
}

// start starts the command behind its gate, puts its process group under the
// warden, and opens the gate.
func (h *execHandler) start(cmd *exec.Cmd) (group int, err error) {
	gate, open, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer func() { _ = open.Close() }()
	cmd.ExtraFiles = []*os.File{gate}
	err = cmd.Start()
	_ = gate.Close()
	if err != nil {
		return 0, err
	}
	group = cmd.Process.Pid
	if err = h.warden.add(group); err == nil {
		_, err = open.WriteString("\n")
	}
	if err != nil {
		_ = open.Close()
		_ = cmd.Wait()
		h.warden.remove(group)
		return 0, err
	}
	return group, nil
}

// terminate ends the group, politely first, and returns what Wait returned.
func (h *execHandler) terminate(group int, ended <-chan error) error {
	_ = syscall.Kill(-group, syscall.SIGTERM)
	grace := time.NewTimer(h.grace)
	defer grace.Stop()
	select {
	case err := <-ended:
		return err
	case <-grace.C:
		_ = syscall.Kill(-group, syscall.SIGKILL)
		return <-ended
	}
}

// verdict is the error of a command that did not end well.
func (h *execHandler) verdict(ctx context.Context, job *engine.Job, err error, stderr string) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("run command: %w", err)
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

// cutOff stands where the beginning of an output was dropped.
const cutOff = "...\n"

// ErrorCode is recorded with a dead letter.
func (e *commandError) ErrorCode() string { return e.status }

// result is standard output if it is JSON that can be stored, else nil: the
// work is done, and its output must not make it fail.
func (h *execHandler) result(job *engine.Job, stdout *head) any {
	raw := bytes.TrimSpace(stdout.buf.Bytes())
	switch {
	case len(raw) == 0:
		return nil
	case stdout.more:
		h.log.Warn("the output of a command is too long to be the job's result", "job", job.ID, "name", job.Name, "limit", stdout.limit)
		return nil
	}
	result, storable := storableJSON(raw)
	if !storable {
		h.log.Warn("the output of a command can't be stored as the job's result: it holds U+0000", "job", job.ID, "name", job.Name)
	}
	if result == nil {
		if storable {
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

// head keeps the first limit bytes written to it.
type head struct {
	limit int
	buf   bytes.Buffer
	more  bool
}

func (h *head) Write(p []byte) (int, error) {
	room := h.limit - h.buf.Len()
	if len(p) > room {
		h.more = true
	}
	h.buf.Write(p[:min(len(p), room)])
	return len(p), nil
}

// tail keeps the last limit bytes written to it.
type tail struct {
	limit int
	buf   []byte
	cut   bool
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.limit; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
		t.cut = true
	}
	return len(p), nil
}

// String is the text without space around it. What was cut begins at a line's
// beginning, if there is one.
func (t *tail) String() string {
	text := string(t.buf)
	if t.cut {
		if _, rest, found := strings.Cut(text, "\n"); found && rest != "" {
			text = rest
		}
		text = cutOff + text
	}
	return strings.TrimSpace(text)
}
