package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"soniq/deadletter"
	"soniq/internal/command"
	"soniq/internal/redact"
)

const (
	// execGrace is the time between SIGTERM and SIGKILL. It is shorter than
	// abandonAfter, so that the command has ended before another attempt begins.
	execGrace = 2 * time.Second
	// Exit codes of sysexits.h after which a delivery is not tried again. A worker's
	// commands use them too.
	exitDataError   = 65
	exitConfigError = 78
)

var execKind = kind{
	fields: []Field{FieldCommand, FieldArgs},
	check: func(s *Spec) error {
		if strings.TrimSpace(s.Command) == "" {
			return errors.New("the command is empty")
		}
		return nil
	},
	target: func(s *Spec) string { return deadletter.RedactText(s.Command) },
	exec:   true,
	open: func(d *Dispatcher, p prepared) (Hook, *redact.Set, error) {
		known := secretsInEnv(os.Environ(), d.rights.env)
		return &execHook{line: p.settings.Command, args: p.settings.Args, known: known, timeout: sendTimeout}, known, nil
	},
}

// ErrExecNotAllowed is the error of an exec hook where [Config].AllowExec is not set.
var ErrExecNotAllowed = errors.New("it runs a command, and that is not allowed here (--allow-exec-hooks)")

// execHook runs a command for each event, with the event as JSON on standard input.
// The exit code is the result.
type execHook struct {
	line string
	args bool
	// known is what must not be kept of the output.
	known *redact.Set
	// timeout bounds one run.
	timeout time.Duration

	mu     sync.Mutex
	warden *command.Warden // made for the first command
}

func (h *execHook) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.warden != nil {
		_ = h.warden.Close() // commands that still run are killed
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
	b, err := marshalEvent(d.Event, h.args)
	if err != nil {
		return fmt.Errorf("write the command's input: %w", err)
	}
	warden, err := h.guard()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, h.timeout, fmt.Errorf("the command took longer than %s", h.timeout))
	defer cancel()
	// A secret that is cut off at maxAnswer is read to its end, or it would not be
	// recognised.
	limit := maxAnswer + h.known.Longest()
	stdout, stderr := &command.Head{Limit: limit}, &command.Tail{Limit: limit}
	err = warden.Run(ctx, command.Command{
		Line: h.line, Stdin: bytes.NewReader(append(b, '\n')), Stdout: stdout, Stderr: stderr, Grace: execGrace,
		Env: slices.Concat(commandEnviron(), []string{
			"SONIQ_HOOK=" + d.Hook,
			"SONIQ_EVENT=" + string(d.Event.Type),
			"SONIQ_DELIVERY_ID=" + d.ID.String(),
			"SONIQ_DEAD_LETTER_ID=" + d.Event.Letter.ID.String(),
			"SONIQ_ATTEMPT=" + strconv.Itoa(d.Attempt),
		}, d.TraceContext.Environ()),
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
		// It was stopped, so its exit code means nothing.
		return fmt.Errorf("%w%s", cause, said)
	}
	d.Status = max(exit.ExitCode(), 0) // -1 is a signal
	return &AnswerError{
		Answer:  exit.ProcessState.String() + said,
		Useless: d.Status == exitDataError || d.Status == exitConfigError,
		stopped: command.WasStopped(err),
	}
}

// cutStart returns at most the last limit bytes of s, from the beginning of a line
// if one begins there.
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
