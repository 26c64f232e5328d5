// Package prom serves the metrics of package telemetry to Prometheus.
//
// It is apart from telemetry, so that a program that sends its metrics elsewhere, through a
// meter provider of OpenTelemetry's SDK, links nothing of Prometheus.
package prom

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/otlptranslator"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
)

const (
	// maxScrapes is how many scrapes are answered at once. Others get 503.
	maxScrapes = 20
	// scrapeTimeout is the longest that one takes. Prometheus waits for 10 s by default.
	scrapeTimeout = 30 * time.Second
)

// Config configures an [Exporter]. Its zero value works.
type Config struct {
	// WithoutProcess leaves out the usual metrics of a process and of Go: process_* and go_*.
	// Default false.
	WithoutProcess bool
}

// Exporter has a meter provider, and serves what it measures.
type Exporter struct {
	registry *prometheus.Registry
	provider *sdk.MeterProvider
}

// New returns an exporter without metrics of Soniq: give its [Exporter.MeterProvider] to
// telemetry.NewMetrics and telemetry.NewFleet.
//
// Errors: those of the libraries; none is known.
func New(config Config) (*Exporter, error) {
	registry := prometheus.NewRegistry()
	if !config.WithoutProcess {
		registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	reader, err := otelprom.New(
		otelprom.WithRegisterer(registry),
		// The names are Prometheus's as they stand. A label for each metric that says which
		// library made it would help nobody.
		otelprom.WithTranslationStrategy(otlptranslator.NoTranslation),
		otelprom.WithoutScopeInfo(), otelprom.WithoutTargetInfo(),
	)
	if err != nil {
		return nil, fmt.Errorf("new exporter: %w", err)
	}
	return &Exporter{
		registry: registry,
		// Package telemetry bounds the names itself; the SDK would replace labels.
		provider: sdk.NewMeterProvider(sdk.WithReader(reader), sdk.WithCardinalityLimit(0)),
	}, nil
}

// MeterProvider is where metrics are registered.
func (e *Exporter) MeterProvider() metric.MeterProvider { return e.provider }

// Registry is where a program may register metrics of its own, which are then served too.
func (e *Exporter) Registry() *prometheus.Registry { return e.registry }

// Handler answers scrapes. A metric that can't be collected is left out and logged; a nil
// logger is [slog.Default].
func (e *Exporter) Handler(logger *slog.Logger) http.Handler {
	if logger == nil {
		logger = slog.Default()
	}
	return promhttp.HandlerFor(e.registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes, Timeout: scrapeTimeout, EnableOpenMetrics: true,
	})
}

// WriteText collects once, and writes what a scrape would get, in Prometheus's text format.
//
// Errors: those of the collection and of w.
func (e *Exporter) WriteText(w io.Writer) error {
	families, err := e.registry.Gather()
	if err != nil {
		return fmt.Errorf("collect metrics: %w", err)
	}
	encoder := expfmt.NewEncoder(w, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, family := range families {
		if err := encoder.Encode(family); err != nil {
			return fmt.Errorf("write metrics: %w", err)
		}
	}
	return nil
}

// Shutdown ends the meter provider.
//
// Errors: those of the SDK.
func (e *Exporter) Shutdown(ctx context.Context) error { return e.provider.Shutdown(ctx) }
