package workerflags

import (
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/hooks"
	"soniq/internal/cli/app"
	"soniq/internal/opsserver"
	"soniq/telemetry"
	"soniq/telemetry/prom"
)

// metricsVariable stands for the flag.
const metricsVariable = "SONIQ_METRICS_LISTEN"

// MetricsPath is where metrics are served.
const MetricsPath = "/metrics"

// MetricsFlag makes a program serve its metrics, and those of the database.
type MetricsFlag struct {
	MetricsListen string `name:"metrics-listen" placeholder:"ADDR" help:"Serve Prometheus metrics at GET /metrics on ADDR: PORT or HOST:PORT, on this machine only without HOST, or unix:PATH. 0.0.0.0:PORT is all networks. Default $$SONIQ_METRICS_LISTEN, else metrics_listen of the file, else none."`
}

// Metrics are those of a process. A nil one has none.
type Metrics struct {
	exporter *prom.Exporter
	process  *telemetry.Metrics
}

// Metrics adds the metrics to ops, if an address was given, by the flag, the variable or the
// configuration file; else it returns nil.
//
// Errors: a usage error for the address.
func (f *MetricsFlag) Metrics(a *app.App, ops *opsserver.Servers, file string) (*Metrics, error) {
	addr, source := listenAddress(a, f.MetricsListen, "--metrics-listen", metricsVariable, file, "metrics_listen")
	if addr == "" {
		return nil, nil
	}
	exporter, err := prom.New(prom.Config{})
	if err != nil {
		return nil, err
	}
	process, err := telemetry.NewMetrics(telemetry.MetricsConfig{MeterProvider: exporter.MeterProvider(), Logger: a.Log})
	if err != nil {
		return nil, err
	}
	if err := ops.Handle(addr, MetricsPath, exporter.Handler(a.Log)); err != nil {
		return nil, app.Usagef("%s %w", source, err)
	}
	return &Metrics{exporter, process}, nil
}

// Watch adds the metrics of the database, until the command ends.
//
// Errors: those of [telemetry.NewFleet].
func (m *Metrics) Watch(a *app.App, pool *pgxpool.Pool) error {
	if m == nil {
		return nil
	}
	fleet, err := WatchFleet(a, pool, m.exporter, 0)
	if err == nil {
		a.AtExit(fleet.Close)
	}
	return err
}

// WatchFleet has an exporter's metrics of the database. An interval of 0 is the default.
//
// Errors: those of [telemetry.NewFleet].
func WatchFleet(a *app.App, pool *pgxpool.Pool, exporter *prom.Exporter, interval time.Duration) (*telemetry.Fleet, error) {
	return telemetry.NewFleet(pool, telemetry.FleetConfig{
		Schema: a.SchemaName(), Interval: interval, MeterProvider: exporter.MeterProvider(), Logger: a.Log,
	})
}

// Workers are the tracers of a worker.
func (m *Metrics) Workers() []engine.Tracer {
	if m == nil {
		return nil
	}
	return []engine.Tracer{m.process}
}

// Hooks are the tracers of a dispatcher.
func (m *Metrics) Hooks() []hooks.Tracer {
	if m == nil {
		return nil
	}
	return []hooks.Tracer{m.process}
}
