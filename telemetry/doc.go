// Package telemetry measures and traces jobs, workers, dead letters and hooks, through the API of
// OpenTelemetry. Package telemetry/prom serves what it measures to Prometheus; any other
// meter provider will do.
//
//	Metrics   what one process does: a tracer of workers and dispatchers
//	Fleet     what the database holds: gauges that are read once for all processes
//	Traces    spans of enqueues, attempts, recoveries and deliveries; docs/traces.md lists them
//
// Names, labels and meanings of all metrics are in docs/metrics.md. Where Python Soniq has
// a metric, it has the same name, labels and buckets here.
//
// Labels are names of queues, jobs, hooks and reasons, and never arguments, errors or
// addresses. Names beyond a limit count together under [Other], which is logged once.
package telemetry

// Other is the name under which names beyond a limit count together.
const Other = "other"

// scope is the name of the meter and of the tracer.
const scope = "soniq/telemetry"
