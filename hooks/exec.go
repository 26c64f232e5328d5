package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"soniq/internal/command"
	"soniq/internal/redact"
)

const (
	// execGrace is the time between SIGTERM and SIGKILL. With what comes on
	// top it stays below leaveBehind, so that no other try begins before.
	execGrace = 2 * time.Second
	// Exit codes of sysexits.h that say that it is useless to try again; they
	// mean the same to a worker.
	exitDataError   = 65
	exitConfigError = 78
)

// ErrExecNotAllowed is returned by [Store.Test], and logged by a [Dispatcher],
// for an exec hook where [Config] has no AllowExec.
var ErrExecNotAllowed = errors.New("it runs a command, and that is not allowed here (--allow-exec-hooks)")

// execHook runs a command for each event, which it gets as JSON on standard
// input. The exit code is the verdict.
type execHook struct {
	line string
	args bool
	// known is what must not be kept of what it prints.
	known *redact.Set
	// timeout is how long the command may take.
	timeout time.Duration

	mu     sync.Mutex
	warden *command.Warden // made for the first command
}

func (h *execHook) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.warden != nil {
		_ = h.warden.Close() // the commands have ended, or end now
		h.warden = nil
	}
}

func (h *execHook) guard() (*command.Warden, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.warden == nil {
		var err error
		if h.warden, err = command.NewWarden(); err != nil {
			return nil, err
		}
	}
	return h.warden, nil
}

// Deliver implements Hook.
func (h *execHook) Deliver(ctx context.Context, d *Delivery) error {
	b, err := body(d.Event, h.args)
	if err != nil {
		return fmt.Errorf("write the command's input: %w", err)
	}
	warden, err := h.guard()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, h.timeout, fmt.Errorf("the command took longer than %s", h.timeout))
	defer cancel()
	// So much more that what is cut at the limit is known by the rest.
	limit := maxAnswer + h.known.Longest()
	stdout, stderr := &command.Head{Limit: limit}, &command.Tail{Limit: limit}
	err = warden.Run(ctx, command.Command{
		Line: h.line, Stdin: bytes.NewReader(append(b, '\n')), Stdout: stdout, Stderr: stderr, Grace: execGrace,
		Env: append(commandEnviron(),
			"SONIQ_HOOK="+d.Hook,
			"SONIQ_EVENT="+d.Event.Type,
			"SONIQ_DELIVERY_ID="+d.ID.String(),
			"SONIQ_DEAD_LETTER_ID="+d.Event.Letter.ID.String(),
			"SONIQ_ATTEMPT="+strconv.Itoa(d.Attempt),
		),
	})
	d.Answer = strings.TrimSpace(cut(h.known.Cut(string(stdout.Bytes()), false, stdout.More), maxAnswer))
	if err == nil {
		return nil
	}
	said, isCut := strings.CutPrefix(stderr.String(), command.CutOff)
	if said = h.known.Cut(said, isCut, false); isCut {
		said = command.CutOff + said
	}
	said = cutStart(said, maxAnswer)
	if said != "" {
		d.Answer = said
		said = ": " + said
	}
	var exit *exec.ExitError
	switch cause := context.Cause(ctx); {
	case !errors.As(err, &exit):
		return err
	case cause != nil:
		// It was told to stop: its exit code says nothing.
		return fmt.Errorf("%w%s", cause, said)
	}
	d.Status = max(exit.ExitCode(), 0) // -1 is a signal
	return &AnswerError{
		Answer:  exit.ProcessState.String() + said,
		Useless: d.Status == exitDataError || d.Status == exitConfigError,
	}
}

// cutStart is the last bytes of s, limit at most, from the beginning of a line
// where there is one.
func cutStart(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	s = redact.Tail(s, limit-len(command.CutOff))
	if _, rest, found := strings.Cut(s, "\n"); found && rest != "" {
		s = rest
	}
	return command.CutOff + strings.ToValidUTF8(s, "")
}
