// Package handler runs jobs by shell commands and by HTTP endpoints. It is what
// 'soniq worker' needs of handlers; docs/worker.md is their contract.
//
//	Spec --- Set.Handler ---> engine.HandlerFunc
//	                            |
//	               Exec: a process for each attempt. It reads the arguments from
//	                     standard input; its exit code is the verdict.
//	               HTTP: a POST for each attempt. Its body is the arguments; the
//	                     status is the verdict, by package httpverdict.
//
// A [Set] owns what its handlers share, and gives it back when it is closed.
package handler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"soniq/engine"
	"soniq/internal/command"
)

// MaxResult is the longest result of a handler, in bytes. It is kept in the job's
// row.
const MaxResult = 1 << 20

// killGrace is how long a command has between SIGTERM and SIGKILL.
const killGrace = 5 * time.Second

// CancelGrace is how long a handler may take to end once its context has ended. A
// command that ignores SIGTERM is dead by then, so a worker that waits as long
// never gives a job back while its command still runs.
const CancelGrace = killGrace + 2*command.PipeGrace

// A Spec says what runs the jobs of one name: a command or an HTTP endpoint.
type Spec struct {
	// Exec is the command. Default none, and HTTP counts.
	Exec Exec
	// HTTP is the endpoint. It counts where there is no command.
	HTTP HTTP
}

// Kind is 'exec' or 'http'.
func (s Spec) Kind() string {
	if s.Exec.Command != "" {
		return "exec"
	}
	return "http"
}

// Target is the command, or the URL without what may be secret in it.
func (s Spec) Target() string {
	if s.Exec.Command != "" {
		return s.Exec.Command
	}
	return s.HTTP.Target()
}

// Format prints the kind and the target, by every verb of package fmt: the other
// fields may be secret.
func (s Spec) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.Kind()+" "+s.Target()) }

// MarshalText returns what Format prints, for encoding/json and log/slog.
//
// Errors: none.
func (s Spec) MarshalText() ([]byte, error) { return fmt.Append(nil, s), nil }

// Config is what the handlers of a [Set] share.
type Config struct {
	// Logger gets what an operator should know. Default none.
	Logger *slog.Logger
	// Stdout and Stderr get a copy of what commands print. Default nowhere.
	Stdout, Stderr io.Writer
}

// traced is log for what concerns the attempt of ctx.
func traced(ctx context.Context, log *slog.Logger) *slog.Logger {
	if id := engine.TraceContextFrom(ctx).TraceID(); id != "" {
		return log.With("trace_id", id)
	}
	return log
}

// A Set makes handlers, and owns their connections and the warden that ends their
// commands with this process. It is for one goroutine; its handlers are for many.
type Set struct {
	config    Config
	warden    *command.Warden
	endpoints []*httpHandler
}

// NewSet returns a set without handlers. Close it when no handler runs any more.
func NewSet(config Config) *Set {
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	return &Set{config: config}
}

// Handler returns a handler for [engine.HandleRaw].
//
// Errors: all mistakes in the spec, one a line and without anything in it that may
// be secret; or that no command can be started here.
func (s *Set) Handler(spec Spec) (engine.HandlerFunc, error) {
	if spec.Exec.Command == "" {
		h, err := newHTTPHandler(spec.HTTP, s.config.Logger)
		if err != nil {
			return nil, err
		}
		s.endpoints = append(s.endpoints, h)
		return h.run, nil
	}
	if s.warden == nil {
		warden, err := command.NewWarden()
		if err != nil {
			return nil, err
		}
		s.warden = warden
	}
	h := &execHandler{
		Exec:   spec.Exec,
		warden: s.warden,
		grace:  killGrace,
		log:    s.config.Logger,
		stdout: s.config.Stdout,
		stderr: s.config.Stderr,
	}
	return h.run, nil
}

// Close kills the commands that still run, and closes idle connections.
//
// Errors: those of the warden's end; no caller decides by them.
func (s *Set) Close() error {
	for _, h := range s.endpoints {
		h.close()
	}
	if s.warden == nil {
		return nil
	}
	if err := s.warden.Close(); err != nil {
		return errors.Join(errors.New("stop the warden of commands"), err)
	}
	return nil
}
