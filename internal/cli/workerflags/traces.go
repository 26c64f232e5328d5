package workerflags

import (
	"cmp"
	"context"
	"log/slog"
	"strings"
	"time"

	"soniq"
	"soniq/engine"
	"soniq/hooks"
	"soniq/internal/cli/app"
	"soniq/telemetry"
	"soniq/telemetry/otlp"
)

// flushTime is how long the last spans may take at the end of a command.
const flushTime = time.Second

// Traces are the spans of a process. A nil one makes none.
type Traces struct {
	// Target is where they are sent to, without secrets.
	Target string
	traces *telemetry.Traces
}

// TracesFlag is what the variables OTEL_* can't say about traces.
type TracesFlag struct {
	TraceLinkOnly *bool `name:"trace-link-only" negatable:"" help:"Each attempt and delivery begins a trace of its own, with a link to the one that enqueued the job: for jobs that run long after that. Default trace_link_only of the file, else no."`
}

// Traces returns the traces that the variables OTEL_* ask for, or nil if they ask for none.
// service is what the process is called if they don't say, and linkOnly what the file says
// of the flag, or nil. What is left is sent when the command ends.
//
// Errors: a usage error for a variable.
func (f *TracesFlag) Traces(a *app.App, service string, linkOnly *bool) (*Traces, error) {
	sender, err := otlp.New(otlp.Config{Getenv: a.Getenv, Service: service, Version: soniq.Version, Logger: a.Log})
	if err != nil {
		return nil, app.Usagef("%w", err)
	}
	if sender.Target() == "" {
		return nil, nil
	}
	a.AtExit(func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(a.Ctx), flushTime)
		defer cancel()
		if err := sender.Shutdown(ctx); err != nil {
			a.Log.Warn("the last traces could not be sent", "to", sender.Target(), "within", flushTime.String(), "error", err)
		}
		return nil
	})
	messaging := false
	for option := range strings.SplitSeq(a.Getenv("OTEL_SEMCONV_STABILITY_OPT_IN"), ",") {
		option = strings.TrimSpace(option)
		messaging = messaging || option == "messaging" || option == "messaging/dup"
	}
	linkOnly = cmp.Or(f.TraceLinkOnly, linkOnly)
	return &Traces{sender.Target(), telemetry.NewTraces(telemetry.TracesConfig{
		TracerProvider: sender.TracerProvider(), Messaging: messaging, LinkOnly: linkOnly != nil && *linkOnly,
	})}, nil
}

// Log says where they are sent to.
func (t *Traces) Log(log *slog.Logger) {
	if t != nil {
		log.Info("sending traces", "to", t.Target)
	}
}

// Workers are the tracers of a worker.
func (t *Traces) Workers() []engine.Tracer {
	if t == nil {
		return nil
	}
	return []engine.Tracer{t.traces}
}

// Hooks are the tracers of a dispatcher.
func (t *Traces) Hooks() []hooks.Tracer {
	if t == nil {
		return nil
	}
	return []hooks.Tracer{t.traces}
}
