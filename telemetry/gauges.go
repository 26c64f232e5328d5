package telemetry

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// gauges are those of a [Fleet].
type gauges struct {
	up, paused, bound                                metric.Int64ObservableGauge
	queueJobs, queueEstimate, rows, workers, slots   metric.Int64ObservableGauge
	deadEstimate, dead, deadBound, deadTotal, recent metric.Int64ObservableGauge
	hookEnabled, hookPending, hookFailures           metric.Int64ObservableGauge
	oldestDue, oldestDead, oldestPending, age, sec   metric.Float64ObservableGauge
	hookDropped                                      metric.Int64ObservableCounter
}

// create makes the gauges, and returns all of them.
func (g *gauges) create(meter metric.Meter) (all []metric.Observable, err error) {
	var errs []error
	for _, def := range []struct {
		gauge      *metric.Int64ObservableGauge
		name, help string
	}{
		{&g.up, "soniq_database_up", "1 if the latest reading of the database worked, else 0."},
		{&g.queueJobs, "soniq_queue_jobs", "Jobs by queue and state: due, scheduled (queued for later) and processing. Due and scheduled ones of a queue are counted up to soniq_queue_jobs_bound."},
		{&g.queueEstimate, "soniq_queue_jobs_estimate", "Like soniq_queue_jobs; a count that reached the bound is replaced by an estimate from a sample of the table."},
		{&g.bound, "soniq_queue_jobs_bound", "Where the counts of soniq_queue_jobs stop: such a value means that many or more."},
		{&g.paused, "soniq_queue_paused", "1 if the queue is paused, else 0."},
		{&g.rows, "soniq_rows_estimate", "The server's estimate of its rows, as of the last VACUUM or ANALYZE: jobs, queued_jobs, dead_letters, hook_deliveries."},
		{&g.workers, "soniq_workers_alive", "Workers whose heartbeat is not overdue, by runtime: go or python."},
		{&g.slots, "soniq_worker_slots", "How many jobs these workers run at once together."},
		{&g.dead, "soniq_dead_letters", "Dead letters by state, job name and reason: of each job name the latest, up to soniq_dead_letters_bound."},
		{&g.deadEstimate, "soniq_dead_letters_estimate", "Like soniq_dead_letters; where there are more than the bound, an estimate from a sample of the table."},
		{&g.deadBound, "soniq_dead_letters_bound", "How many dead letters of each job name are counted."},
		{&g.deadTotal, "soniq_dead_letters_dead", "All dead letters in the state dead, up to 2,000."},
		{&g.recent, "soniq_dead_letters_recent", "Dead letters of the last five minutes by job name and reason, up to 1,000 together."},
		{&g.hookEnabled, "soniq_hook_enabled", "1 if the hook is enabled, else 0."},
		{&g.hookPending, "soniq_hook_pending_deliveries", "Deliveries that wait to be sent, by hook, up to 1,000."},
		{&g.hookFailures, "soniq_hook_failures", "How many deliveries of the hook failed in a row."},
	} {
		*def.gauge, err = meter.Int64ObservableGauge(def.name, metric.WithDescription(def.help))
		all, errs = append(all, *def.gauge), append(errs, err)
	}
	for _, def := range []struct {
		gauge      *metric.Float64ObservableGauge
		name, help string
	}{
		{&g.oldestDue, "soniq_queue_oldest_due_seconds", "For how long the oldest due job of the queue has been due; 0 if none is."},
		{&g.oldestDead, "soniq_dead_letters_oldest_seconds", "For how long the oldest dead letter has been dead; 0 if there is none."},
		{&g.oldestPending, "soniq_hook_oldest_pending_seconds", "For how long the oldest delivery of the hook has waited; 0 if none does."},
		{&g.age, "soniq_reading_age_seconds", "How old the reading is that the gauges of the database show. The processes share one reading an interval."},
		{&g.sec, "soniq_reading_duration_seconds", "How long that reading took."},
	} {
		*def.gauge, err = meter.Float64ObservableGauge(def.name, metric.WithDescription(def.help), metric.WithUnit("s"))
		all, errs = append(all, *def.gauge), append(errs, err)
	}
	g.hookDropped, err = meter.Int64ObservableCounter("soniq_hook_dropped_deliveries_total",
		metric.WithDescription("Deliveries of the hook that were dropped because too many waited."))
	if err = errors.Join(append(errs, err)...); err != nil {
		return nil, fmt.Errorf("make gauges: %w", err)
	}
	return append(all, g.hookDropped), nil
}

// observe reports the latest reading to a meter provider. Its error is a gauge.
func (f *Fleet) observe(ctx context.Context, o metric.Observer) error {
	g := &f.gauges
	r, age, err := f.Read(ctx)
	if err != nil {
		o.ObserveInt64(g.up, 0)
		return nil
	}
	o.ObserveInt64(g.up, 1)
	o.ObserveFloat64(g.age, age.Seconds())
	o.ObserveFloat64(g.sec, r.Took)
	o.ObserveInt64(g.bound, r.QueuedBound)
	for _, q := range r.Queues {
		queue := attribute.String("queue", label(q.Queue))
		for _, c := range []struct {
			state           string
			count, estimate int64
		}{
			{"due", q.Due, q.DueEstimate}, {"scheduled", q.Scheduled, q.ScheduledEstimate}, {"processing", q.Processing, q.ProcessingEstimate},
		} {
			labels := metric.WithAttributes(queue, attribute.String("state", c.state))
			o.ObserveInt64(g.queueJobs, c.count, labels)
			o.ObserveInt64(g.queueEstimate, c.estimate, labels)
		}
		o.ObserveFloat64(g.oldestDue, q.OldestDue, metric.WithAttributes(queue))
		o.ObserveInt64(g.paused, oneIf(q.Paused), metric.WithAttributes(queue))
	}
	for what, n := range r.Estimates {
		o.ObserveInt64(g.rows, n, metric.WithAttributes(attribute.String("rows", what)))
	}
	for _, w := range r.Workers {
		runtime := metric.WithAttributes(attribute.String("runtime", w.Runtime))
		o.ObserveInt64(g.workers, w.Alive, runtime)
		o.ObserveInt64(g.slots, w.Slots, runtime)
	}
	f.observeDead(o, r)
	for _, h := range r.Hooks {
		hook := metric.WithAttributes(attribute.String("hook", label(h.Hook)))
		o.ObserveInt64(g.hookEnabled, oneIf(h.Enabled), hook)
		o.ObserveInt64(g.hookPending, h.Pending, hook)
		o.ObserveInt64(g.hookFailures, h.Failures, hook)
		o.ObserveInt64(g.hookDropped, h.Dropped, hook)
		o.ObserveFloat64(g.oldestPending, h.OldestPending, hook)
	}
	return nil
}

func (f *Fleet) observeDead(o metric.Observer, r *Reading) {
	g := &f.gauges
	o.ObserveInt64(g.deadBound, r.DeadBound)
	o.ObserveInt64(g.deadTotal, r.DeadTotal)
	o.ObserveFloat64(g.oldestDead, r.OldestDead)
	for _, d := range r.Dead {
		labels := metric.WithAttributes(
			attribute.String("state", d.State), attribute.String("job_name", d.JobName), attribute.String("reason", d.Reason))
		o.ObserveInt64(g.dead, d.Count, labels)
		o.ObserveInt64(g.deadEstimate, d.Estimate, labels)
	}
	for _, d := range r.Recent {
		o.ObserveInt64(g.recent, d.Count, metric.WithAttributes(
			attribute.String("job_name", d.JobName), attribute.String("reason", d.Reason)))
	}
}

func oneIf(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
