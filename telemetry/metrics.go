package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/hooks"
	"soniq/internal/redact"
)

// MetricsConfig configures [Metrics]. Its zero value works.
type MetricsConfig struct {
	// MeterProvider gets the metrics. Default [otel.GetMeterProvider].
	MeterProvider metric.MeterProvider
	// MaxJobs limits how many pairs of queue and job name have metrics of their own, and how
	// many hooks. Default 500.
	MaxJobs int
	// Logger takes the one warning that there are more. Default [slog.Default].
	Logger *slog.Logger
}

const defaultMaxJobs = 500

// Metrics counts and times what the workers and dispatchers of this process do. It is an
// [engine.Tracer], and a [hooks.Tracer]:
//
//	metrics, err := telemetry.NewMetrics(telemetry.MetricsConfig{})
//	engine.WorkerConfig{Tracers: []engine.Tracer{metrics}}
//	hooks.Config{Tracers: []hooks.Tracer{metrics}}
//
// Any number of them may share one. It starts no goroutine, and needs no end.
type Metrics struct {
	jobs  *bounded[jobKey, *jobMetrics]
	hooks *bounded[string, map[hooks.DeliveryOutcome]*statusMetrics]

	started, completed, lost, dead, recovered          metric.Int64Counter
	claims, writes, wakes, spurious, deliveries        metric.Int64Counter
	inProgress                                         metric.Int64UpDownCounter
	duration, wait, claimTime, writeTime, deliveryTime metric.Float64Histogram
	attempts, claimJobs, writeOutcomes                 metric.Int64Histogram
	listening                                          atomic.Pointer[bool]

	claimed, written [3][]metric.AddOption
	// begun is done once a worker of this process works.
	begun sync.Once
}

// jobKey is what job metrics are kept by.
type jobKey struct{ queue, name string }

// jobMetrics are the labels of one, made once: making them would take longer than counting.
type jobMetrics struct {
	add      []metric.AddOption
	record   []metric.RecordOption
	statuses map[engine.OutcomeKind]*statusMetrics
	reasons  map[classify.Reason][]metric.AddOption
	recovery map[engine.OutcomeKind][]metric.AddOption
}

type statusMetrics struct {
	add    []metric.AddOption
	record []metric.RecordOption
}

// statuses are the values of the label 'status'. Those that Python Soniq has too have its
// names.
var statuses = map[engine.OutcomeKind]string{
	engine.OutcomeDone: "done", engine.OutcomeRetry: "failed", engine.OutcomeDeadLetter: "dead_letter", engine.OutcomeSnooze: "snoozed",
	engine.OutcomeReleased: "released", engine.OutcomeCancelled: "cancelled", engine.OutcomeLost: "lost",
}

// recoveries are the values of the label 'outcome' of recovered jobs.
var recoveries = map[engine.OutcomeKind]string{
	engine.OutcomeRetry: "queued", engine.OutcomeReleased: "released", engine.OutcomeDeadLetter: "dead_letter", "": "written",
}

// seconds are the buckets of times: Python Soniq's, 5 ms to 10 min, and on to 1 ms and 1 h.
var seconds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600}

// statementSeconds are those of statements.
var statementSeconds = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// sizes are those of batches.
var sizes = []float64{0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000}

// The results of claims and writes, and the index of each.
const (
	resultOK = iota
	resultEmpty
	resultError
)

// NewMetrics makes the metrics of a process.
//
// Errors: those of the meter provider; a negative MaxJobs.
func NewMetrics(config MetricsConfig) (*Metrics, error) {
	if config.MaxJobs < 0 {
		return nil, fmt.Errorf("new metrics: config: MaxJobs must not be negative, not %d", config.MaxJobs)
	}
	if config.MaxJobs == 0 {
		config.MaxJobs = defaultMaxJobs
	}
	if config.MeterProvider == nil {
		config.MeterProvider = otel.GetMeterProvider()
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	m := &Metrics{}
	m.jobs = newBounded(config.MaxJobs, jobKey{Other, Other}, redact.Logger(config.Logger), "pairs of queue and job name", m.newJob)
	m.hooks = newBounded(config.MaxJobs, Other, redact.Logger(config.Logger), "hooks", m.newHook)
	for i, result := range []string{"ok", "empty", "error"} {
		option := attributes(attribute.String("result", result))
		m.claimed[i], m.written[i] = []metric.AddOption{option}, []metric.AddOption{option}
	}
	meter := config.MeterProvider.Meter(scope)
	if err := errors.Join(m.counters(meter), m.histograms(meter), m.listener(meter)); err != nil {
		return nil, fmt.Errorf("new metrics: %w", err)
	}
	return m, nil
}

func (m *Metrics) counters(meter metric.Meter) error {
	var errs []error
	for _, def := range []struct {
		counter    *metric.Int64Counter
		name, help string
	}{
		{&m.started, "soniq_jobs_started_total", "Attempts that began."},
		{&m.completed, "soniq_jobs_completed_total", "Attempts whose outcome was written, by status: done, failed (tried again), dead_letter, snoozed, released, cancelled, lost."},
		{&m.lost, "soniq_claims_lost_total", "Attempts whose claim was lost: another worker had taken the job, or it was deleted."},
		{&m.dead, "soniq_jobs_dead_lettered_total", "Attempts that made their job a dead letter, by reason."},
		{&m.recovered, "soniq_jobs_recovered_total", "Jobs of dead workers and lost answers that this worker recovered, by outcome: queued, released, dead_letter, written."},
		{&m.claims, "soniq_claims_total", "Claims, by result: ok, empty, error."},
		{&m.writes, "soniq_outcome_writes_total", "Statements that write outcomes, by result: ok, error. An error is tried again."},
		{&m.deliveries, "soniq_hook_deliveries_total", "Deliveries that this process tried to send, by hook and outcome: delivered, retried, failed, released."},
		{&m.wakes, "soniq_worker_wakes_total", "How often a sleeping worker was woken, by a notification or a job that became due."},
		{&m.spurious, "soniq_worker_spurious_wakes_total", "Wakes after which there was no job."},
	} {
		var err error
		*def.counter, err = meter.Int64Counter(def.name, metric.WithDescription(def.help))
		errs = append(errs, err)
	}
	var err error
	m.inProgress, err = meter.Int64UpDownCounter("soniq_jobs_in_progress", metric.WithDescription("Handlers that are running."))
	return errors.Join(append(errs, err)...)
}

func (m *Metrics) histograms(meter metric.Meter) error {
	var errs []error
	for _, def := range []struct {
		histogram  *metric.Float64Histogram
		name, help string
		bounds     []float64
	}{
		{&m.duration, "soniq_job_duration_seconds", "How long handlers ran.", seconds},
		{&m.wait, "soniq_job_wait_seconds", "How long jobs waited from when they were due until they were claimed, by the database's clock.", seconds},
		{&m.deliveryTime, "soniq_hook_delivery_duration_seconds", "How long it took to send deliveries, by hook and outcome.", seconds},
		{&m.claimTime, "soniq_claim_duration_seconds", "How long claims took.", statementSeconds},
		{&m.writeTime, "soniq_outcome_write_duration_seconds", "How long statements that write outcomes took.", statementSeconds},
	} {
		var err error
		*def.histogram, err = meter.Float64Histogram(def.name,
			metric.WithDescription(def.help), metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(def.bounds...))
		errs = append(errs, err)
	}
	for _, def := range []struct {
		histogram  *metric.Int64Histogram
		name, help string
		bounds     []float64
	}{
		{&m.attempts, "soniq_job_attempts", "The number of the attempt with which jobs were done or died.", []float64{1, 2, 3, 4, 5, 7, 10, 20, 50, 100}},
		{&m.claimJobs, "soniq_claim_jobs", "How many jobs claims brought.", sizes},
		{&m.writeOutcomes, "soniq_outcome_write_jobs", "How many outcomes statements wrote.", sizes},
	} {
		var err error
		*def.histogram, err = meter.Int64Histogram(def.name, metric.WithDescription(def.help), metric.WithExplicitBucketBoundaries(def.bounds...))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// listener makes a gauge that is absent until a worker listens.
func (m *Metrics) listener(meter metric.Meter) error {
	_, err := meter.Int64ObservableGauge("soniq_listener_up",
		metric.WithDescription("1 if notifications arrive at this process, 0 if its workers poll."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			if healthy := m.listening.Load(); healthy != nil {
				o.Observe(oneIf(*healthy))
			}
			return nil
		}))
	return err
}

// attributes is an option for both counters and histograms.
func attributes(all ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(all...))
}

// begin makes the counters of a worker's faults stand at 0. One that appeared with its first
// fault would have grown by nothing for Prometheus, which sees no growth from absence to 1.
func (m *Metrics) begin() {
	m.begun.Do(func() {
		ctx := context.Background()
		for _, counted := range []struct {
			counter metric.Int64Counter
			options [][]metric.AddOption
		}{
			{m.claims, m.claimed[:]},
			{m.writes, [][]metric.AddOption{m.written[resultOK], m.written[resultError]}},
			{m.wakes, [][]metric.AddOption{nil}},
			{m.spurious, [][]metric.AddOption{nil}},
		} {
			for _, options := range counted.options {
				counted.counter.Add(ctx, 0, options...)
			}
		}
	})
}

// newJob makes the metrics of a job. Its lost claims stand at 0, as in begin.
func (m *Metrics) newJob(k jobKey) *jobMetrics {
	j := newJobMetrics(k)
	m.lost.Add(context.Background(), 0, j.add...)
	return j
}

// newHook makes the metrics of a hook. Its deliveries that failed for good stand at 0.
func (m *Metrics) newHook(name string) map[hooks.DeliveryOutcome]*statusMetrics {
	all := newHookMetrics(name)
	m.deliveries.Add(context.Background(), 0, all[hooks.DeliveryFailed].add...)
	return all
}

func newJobMetrics(k jobKey) *jobMetrics {
	job := []attribute.KeyValue{attribute.String("queue", label(k.queue)), attribute.String("job_name", label(k.name))}
	with := func(key, value string) metric.MeasurementOption {
		return attributes(append(job[:2:2], attribute.String(key, value))...)
	}
	plain := attributes(job...)
	j := &jobMetrics{
		add: []metric.AddOption{plain}, record: []metric.RecordOption{plain},
		statuses: map[engine.OutcomeKind]*statusMetrics{}, reasons: map[classify.Reason][]metric.AddOption{},
		recovery: map[engine.OutcomeKind][]metric.AddOption{},
	}
	for kind, status := range statuses {
		option := with("status", status)
		j.statuses[kind] = &statusMetrics{[]metric.AddOption{option}, []metric.RecordOption{option}}
	}
	for _, reason := range classify.Reasons() {
		j.reasons[reason] = []metric.AddOption{with("reason", string(reason))}
	}
	for kind, outcome := range recoveries {
		j.recovery[kind] = []metric.AddOption{with("outcome", outcome)}
	}
	return j
}

func newHookMetrics(name string) map[hooks.DeliveryOutcome]*statusMetrics {
	all := map[hooks.DeliveryOutcome]*statusMetrics{}
	for _, outcome := range []hooks.DeliveryOutcome{hooks.DeliveryDelivered, hooks.DeliveryRetried, hooks.DeliveryFailed, hooks.DeliveryReleased} {
		option := attributes(attribute.String("hook", label(name)), attribute.String("outcome", string(outcome)))
		all[outcome] = &statusMetrics{[]metric.AddOption{option}, []metric.RecordOption{option}}
	}
	return all
}

// TraceAttemptStart implements [engine.Tracer].
func (m *Metrics) TraceAttemptStart(ctx context.Context, job *engine.Job) context.Context {
	j := m.jobs.get(jobKey{job.Queue, job.Name})
	m.started.Add(ctx, 1, j.add...)
	m.inProgress.Add(ctx, 1, j.add...)
	// Both times are the database's: the claim wrote UpdatedAt.
	due := job.CreatedAt
	if job.ScheduledAt != nil {
		due = *job.ScheduledAt
	}
	m.wait.Record(ctx, max(job.UpdatedAt.Sub(due).Seconds(), 0), j.record...)
	return ctx
}

// TraceAttemptEnd implements [engine.Tracer].
func (m *Metrics) TraceAttemptEnd(ctx context.Context, o engine.Outcome) {
	m.inProgress.Add(ctx, -1, m.jobs.get(jobKey{o.Job.Queue, o.Job.Name}).add...)
}

// Settled implements [engine.Observer].
func (m *Metrics) Settled(ctx context.Context, o engine.Outcome) {
	j := m.jobs.get(jobKey{o.Job.Queue, o.Job.Name})
	status := j.statuses[o.Kind]
	if status == nil {
		return
	}
	m.completed.Add(ctx, 1, status.add...)
	m.duration.Record(ctx, o.Duration.Seconds(), status.record...)
	switch o.Kind {
	case engine.OutcomeDone:
		m.attempts.Record(ctx, int64(o.Job.Attempts), j.record...)
	case engine.OutcomeDeadLetter:
		m.attempts.Record(ctx, int64(o.Job.Attempts), j.record...)
		m.dead.Add(ctx, 1, j.reasons[o.Verdict.Reason]...)
	case engine.OutcomeLost:
		m.lost.Add(ctx, 1, j.add...)
	}
}

// TraceClaim implements [engine.ClaimTracer].
func (m *Metrics) TraceClaim(ctx context.Context, claim engine.ClaimTrace) {
	m.begin()
	result := resultOK
	switch {
	case claim.Err != nil:
		result = resultError
	case claim.Jobs == 0:
		result = resultEmpty
	}
	m.claims.Add(ctx, 1, m.claimed[result]...)
	m.claimTime.Record(ctx, claim.Duration.Seconds())
	if claim.Err == nil {
		m.claimJobs.Record(ctx, int64(claim.Jobs))
	}
}

// TraceWrite implements [engine.WriteTracer].
func (m *Metrics) TraceWrite(ctx context.Context, write engine.WriteTrace) {
	result := resultOK
	if write.Err != nil {
		result = resultError
	}
	m.writes.Add(ctx, 1, m.written[result]...)
	m.writeTime.Record(ctx, write.Duration.Seconds())
	if write.Err == nil {
		m.writeOutcomes.Record(ctx, int64(write.Outcomes))
	}
}

// TraceRecovery implements [engine.RecoveryTracer].
func (m *Metrics) TraceRecovery(ctx context.Context, r engine.RecoveryTrace) {
	m.recovered.Add(ctx, 1, m.jobs.get(jobKey{r.Queue, r.JobName}).recovery[r.Outcome]...)
}

// TraceWake implements [engine.WakeTracer].
func (m *Metrics) TraceWake(ctx context.Context, jobs int) {
	m.wakes.Add(ctx, 1)
	if jobs == 0 {
		m.spurious.Add(ctx, 1)
	}
}

// TraceListening implements [engine.ListenTracer].
func (m *Metrics) TraceListening(healthy bool) {
	m.begin()
	m.listening.Store(&healthy)
}

// TraceDeliveryStart implements [hooks.Tracer].
func (m *Metrics) TraceDeliveryStart(ctx context.Context, _ *hooks.Delivery) context.Context {
	return ctx
}

// TraceDeliveryEnd implements [hooks.Tracer].
func (m *Metrics) TraceDeliveryEnd(ctx context.Context, end hooks.DeliveryTrace) {
	if status := m.hooks.get(end.Delivery.Hook)[end.Outcome]; status != nil {
		m.deliveries.Add(ctx, 1, status.add...)
		m.deliveryTime.Record(ctx, end.Duration.Seconds(), status.record...)
	}
}

// The interfaces that it follows.
var (
	_ engine.Tracer         = (*Metrics)(nil)
	_ engine.Observer       = (*Metrics)(nil)
	_ engine.ClaimTracer    = (*Metrics)(nil)
	_ engine.WriteTracer    = (*Metrics)(nil)
	_ engine.RecoveryTracer = (*Metrics)(nil)
	_ engine.WakeTracer     = (*Metrics)(nil)
	_ engine.ListenTracer   = (*Metrics)(nil)
	_ hooks.Tracer          = (*Metrics)(nil)
)
