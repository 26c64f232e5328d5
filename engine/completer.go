package engine

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"soniq/internal/deadwrite"
	"soniq/internal/maintenance"
	"soniq/internal/settle"
	"soniq/internal/tracecontext"
)

// outcomes lead from the jobs to the completer.
type outcomes struct {
	light chan settle.Outcome
	// heavy has a settler of its own: the deaths of jobs that are so large that the
	// others would wait.
	heavy chan settle.Outcome
	// deferred are those that the database refuses for now.
	deferred *settle.Deferred
}

func newOutcomes(concurrency int, deferred *settle.Deferred) *outcomes {
	return &outcomes{
		light:    make(chan settle.Outcome, 2*concurrency+settle.MaxBatch),
		heavy:    make(chan settle.Outcome, 2*concurrency),
		deferred: deferred,
	}
}

// places is how many more outcomes can be added without blocking. It is 0 while as many
// wait as may.
func (o *outcomes) places() int {
	if o.deferred.Full() {
		return 0
	}
	return min(cap(o.light)-len(o.light), cap(o.heavy)-len(o.heavy))
}

func (o *outcomes) add(outcome Outcome) {
	if outcome.Kind == OutcomeDeadLetter && outcome.Job.stored >= heavyBytes {
		o.heavy <- outcome.toSettle()
	} else {
		o.light <- outcome.toSettle()
	}
}

// toSettle is the outcome as it is written.
func (o Outcome) toSettle() settle.Outcome {
	job := o.Job
	out := settle.Outcome{
		ID: job.ID, Attempts: job.Attempts, Token: job.token, Name: job.Name, ClaimedAt: job.UpdatedAt,
		Replay: job.ReplayOf != nil, Kind: settle.Kind(o.Kind), Delay: o.Delay, Verdict: o.Verdict,
		Duration: o.Duration, Result: o.result, Completed: o.completed, Job: job, Bytes: len(job.Args),
		Trace: cmp.Or(o.trace, job.TraceContext.TraceID()),
	}
	return out
}

// close says that no more will be added.
func (o *outcomes) close() {
	close(o.light)
	close(o.heavy)
}

// completer writes outcomes and reports them.
type completer struct {
	settle.Writer
	outcomes *outcomes
	tracers  *tracers
	// settled is called with each outcome after it was written.
	settled func(Outcome)
	// observing is held while observers are called.
	observing sync.Mutex
}

// wireCompleter makes the completer with its outcomes.
func (w *Worker) wireCompleter() {
	c := &completer{
		Writer:  settle.Writer{Pool: w.pool, Logger: w.logger, Worker: w.id, TTL: w.config.ResultTTL, Wrote: w.tracers.wrote()},
		tracers: w.tracers,
		settled: func(o Outcome) { w.inflight.settled(o.Job.token) },
	}
	c.Settled = c.report
	deferred := settle.NewDeferred(c.Writer)
	deferred.OnDeferred = func(o *settle.Outcome) {
		if job := o.Job.(*Job); job.held != nil {
			// Others need the room.
			job.Args, o.Bytes = nil, 0
			job.held.Release()
		}
	}
	c.outcomes = newOutcomes(w.config.Concurrency, deferred)
	w.completer = c
}

// run writes outcomes until there are no more, or ctx ends.
func (c *completer) run(ctx context.Context) error {
	var settlers, deferred errgroup.Group
	start := func(outcomes chan settle.Outcome, batch int) {
		settlers.Go(func() error {
			s := &settle.Settler{Writer: c.Writer, Outcomes: outcomes, Batch: batch, Deferred: c.outcomes.deferred}
			return s.Run(ctx)
		})
	}
	start(c.outcomes.light, settle.MaxBatch)
	start(c.outcomes.heavy, 1)
	deferred.Go(func() error { return c.outcomes.deferred.Run(ctx) })
	err := settlers.Wait()
	c.outcomes.deferred.Close()
	return errors.Join(err, deferred.Wait())
}

// report logs an outcome that was written, and calls the observers.
func (c *completer) report(ctx context.Context, written settle.Outcome) {
	o := Outcome{
		Job: written.Job.(*Job), Kind: OutcomeKind(written.Kind), Delay: written.Delay,
		Verdict: written.Verdict, Duration: written.Duration, result: written.Result, trace: written.Trace,
	}
	if !written.Deferred {
		defer o.Job.held.Release()
	}
	c.settled(o)
	attrs := func(more ...any) []any {
		return tracecontext.Attrs(o.trace, append([]any{"job", o.Job.ID, "job_name", o.Job.Name, "attempt", o.Job.Attempts}, more...)...)
	}
	switch o.Kind {
	case OutcomeDeadLetter:
		deadwrite.Dead{
			ID: o.Job.ID, JobName: o.Job.Name, Queue: o.Job.Queue, Attempts: o.Job.Attempts, MaxAttempts: o.Job.MaxAttempts, Verdict: o.Verdict,
		}.Log(c.Logger, tracecontext.Attrs(o.trace)...)
	case OutcomeRetry:
		c.Logger.Info("job failed, will retry", attrs(
			"max_attempts", o.Job.MaxAttempts, "in", o.Delay.Round(time.Millisecond).String(), "error", o.Verdict.Message)...)
	case OutcomeReleased:
		c.Logger.Info("job given back", attrs()...)
	case OutcomeCancelled:
		c.Logger.Info("job cancelled", attrs("error", o.Verdict.Message)...)
	default:
		// Asked first: what is made for the log would cost more than the job.
		if c.Logger.Enabled(ctx, slog.LevelDebug) {
			c.Logger.Debug("job settled", attrs("outcome", string(o.Kind))...)
		}
	}
	if len(c.tracers.observers) == 0 {
		return
	}
	c.observing.Lock()
	defer c.observing.Unlock()
	each(c.Logger, c.tracers.observers, func(one Observer) { one.Settled(ctx, o) })
}

// release queues again, without charging the attempt, jobs whose claim was committed
// and whose answer was lost. It returns how many.
func (c *completer) release(ctx context.Context, claims []maintenance.Claim) (released int, err error) {
	releases, of := make([]settle.Outcome, len(claims)), make(map[uuid.UUID]maintenance.Claim, len(claims))
	for i, claim := range claims {
		of[claim.ID] = claim
		releases[i] = settle.Outcome{
			ID: claim.ID, Attempts: claim.Attempts, Token: claim.Token, Name: claim.Name, Kind: settle.Released,
		}
	}
	w := c.Writer
	w.Settled = func(ctx context.Context, o settle.Outcome) {
		if o.Kind == settle.Released {
			released++
			trace := of[o.ID].TraceContext
			c.tracers.recovered(ctx, maintenance.Recovered{ID: o.ID, Name: o.Name, Queue: of[o.ID].Queue, Kind: settle.Released, TraceContext: trace})
			c.Logger.Warn("the answer to a claim was lost; the job is queued again",
				tracecontext.Attrs(trace.TraceID(), "job", o.ID, "job_name", o.Name)...)
		}
	}
	s := &settle.Settler{Writer: w, Batch: settle.MaxBatch}
	err = s.Write(ctx, releases)
	return released, err
}
