// Package otlp sends the spans of a program to a collector by OTLP, as the standard variables
// OTEL_* of OpenTelemetry say. It is what 'soniq worker' uses.
//
//	sender, err := otlp.New(otlp.Config{Service: "orders"})
//	defer sender.Shutdown(ctx)
//	traces := telemetry.NewTraces(telemetry.TracesConfig{TracerProvider: sender.TracerProvider()})
//
// It makes the messages with OpenTelemetry's own exporter, and has a client of its own for
// both protocols, http/protobuf and grpc: the usual clients link all of gRPC, by which Soniq's
// program grows five times as much.
package otlp

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"soniq/internal/redact"
)

// Config configures a [Sender]. Its zero value works.
type Config struct {
	// Getenv looks up a variable. Default [os.Getenv]. What OpenTelemetry's SDK reads by
	// itself, the limits of spans, is always of the environment.
	Getenv func(name string) string
	// Service is the name of the service, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES
	// has one, and Version its version. Default "soniq", and none.
	Service, Version string
	// Logger takes what an operator should know. Default [slog.Default].
	Logger *slog.Logger
}

// Sender sends spans in the background, in batches.
type Sender struct {
	provider *sdktrace.TracerProvider
	client   *client
	target   string
}

// New returns the sender that the environment asks for. Without an endpoint, or with
// OTEL_TRACES_EXPORTER=none or OTEL_SDK_DISABLED=true, it sends nothing, and costs nothing. It
// does not connect.
//
// Errors: one for a variable with a mistake, which it names. No value is shown.
func New(config Config) (*Sender, error) {
	if config.Getenv == nil {
		config.Getenv = os.Getenv
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	e := environment(config.Getenv)
	settings, err := e.settings()
	if err != nil {
		return nil, err
	}
	if settings == nil {
		if e("OTEL_TRACES_EXPORTER") == "otlp" && !e.disabled() {
			config.Logger.Warn("OTEL_TRACES_EXPORTER is otlp, and no traces are sent: OTEL_EXPORTER_OTLP_ENDPOINT is not set")
		}
		return &Sender{}, nil
	}
	resource, err := e.resource(config)
	if err != nil {
		return nil, err
	}
	sampler, err := e.sampler()
	if err != nil {
		return nil, err
	}
	batching, err := e.batching()
	if err != nil {
		return nil, err
	}
	client := newClient(settings, config.Version)
	exporter := &exporter{
		queue:        batching.queue,
		SpanExporter: otlptrace.NewUnstarted(client),
		log:          redact.Logger(config.Logger), target: settings.target(), hint: settings.hint(),
	}
	client.retried = exporter.retried
	return &Sender{
		provider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(batching.processor(exporter)), sdktrace.WithResource(resource), sdktrace.WithSampler(sampler)),
		client:   client,
		target:   settings.target(),
	}, nil
}

// TracerProvider makes the spans that are sent. Of a sender that sends nothing it makes none.
func (s *Sender) TracerProvider() trace.TracerProvider {
	if s.provider == nil {
		return noop.NewTracerProvider()
	}
	return s.provider
}

// Target is where the spans go: protocol, scheme and host. It is empty if nothing is sent.
func (s *Sender) Target() string { return s.target }

// Shutdown sends what is left, and ends the sender. Spans that end later are dropped.
//
// Errors: that ctx has ended before that, with what the collector said last.
func (s *Sender) Shutdown(ctx context.Context) error {
	if s.provider == nil {
		return nil
	}
	err := s.provider.Shutdown(ctx)
	// What is still under way must not outlive it.
	_ = s.client.Stop(ctx)
	if err == nil {
		return nil
	}
	if last := s.client.last.Load(); last != nil {
		return fmt.Errorf("send the last traces: %w: %s", err, *last)
	}
	return fmt.Errorf("send the last traces: %w", err)
}
