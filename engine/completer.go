package engine

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"soniq/internal/maintenance"
	"soniq/internal/pg"
	"soniq/internal/settle"
)

// outcomes lead from the jobs to the completer.
type outcomes struct {
	light chan settle.Outcome
	// heavy has a settler of its own: the deaths of jobs that are so large that the
	// others would wait.
	heavy chan settle.Outcome
}

func newOutcomes(concurrency int) *outcomes {
	return &outcomes{
		light: make(chan settle.Outcome, 2*concurrency+settle.MaxBatch),
		heavy: make(chan settle.Outcome, 2*concurrency),
	}
}

// places is how many more outcomes can be added without blocking.
func (o *outcomes) places() int {
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
		Duration: o.Duration, Result: o.result, Completed: o.completed, Job: job,
	}
	if o.refuse != nil {
		out.Refuse = refusal(job, o.Duration, o.refuse)
	}
	return out
}

// refusal is apart so that an outcome that can't be refused is not allocated.
func refusal(job *Job, duration time.Duration, refuse func(error) Outcome) func(error) settle.Outcome {
	return func(err error) settle.Outcome {
		refused := refuse(err)
		refused.Job, refused.Duration = job, duration
		return refused.toSettle()
	}
}

// close says that no more will be added.
func (o *outcomes) close() {
	close(o.light)
	close(o.heavy)
}

// completer writes outcomes and reports them.
type completer struct {
	outcomes *outcomes
	pool     *pg.Pool
	worker   uuid.UUID
	ttl      time.Duration
	logger   *slog.Logger
	observer Observer
	// settled is called with each outcome after it was written.
	settled func(Outcome)
	// observing is held while the observer is called.
	observing sync.Mutex
}

// run writes outcomes until there are no more, or ctx ends.
func (c *completer) run(ctx context.Context) error {
	var settlers errgroup.Group
	start := func(outcomes chan settle.Outcome, batch int) {
		settlers.Go(func() error {
			s := &settle.Settler{
				Pool: c.pool, Logger: c.logger, Worker: c.worker, TTL: c.ttl,
				Outcomes: outcomes, Batch: batch, Settled: c.report,
			}
			return s.Run(ctx)
		})
	}
	start(c.outcomes.light, settle.MaxBatch)
	start(c.outcomes.heavy, 1)
	return settlers.Wait()
}

// report logs an outcome that was written, and calls the observer.
func (c *completer) report(ctx context.Context, written settle.Outcome) {
	o := Outcome{
		Job: written.Job.(*Job), Kind: OutcomeKind(written.Kind), Delay: written.Delay,
		Verdict: written.Verdict, Duration: written.Duration, result: written.Result,
	}
	defer o.Job.held.release()
	c.settled(o)
	attrs := func(more ...any) []any {
		return append([]any{"job", o.Job.ID, "name", o.Job.Name, "attempt", o.Job.Attempts}, more...)
	}
	switch o.Kind {
	case OutcomeDeadLetter:
		c.logger.Warn("job is a dead letter", attrs("reason", string(o.Verdict.Reason), "error", o.Verdict.Message)...)
	case OutcomeRetry:
		c.logger.Info("job failed, will retry", attrs(
			"max_attempts", o.Job.MaxAttempts, "in", o.Delay.Round(time.Millisecond).String(), "error", o.Verdict.Message)...)
	case OutcomeReleased:
		c.logger.Info("job given back", attrs()...)
	case OutcomeCancelled:
		c.logger.Info("job cancelled", attrs("error", o.Verdict.Message)...)
	default:
		// Asked first: what is made for the log would cost more than the job.
		if c.logger.Enabled(ctx, slog.LevelDebug) {
			c.logger.Debug("job settled", attrs("outcome", string(o.Kind))...)
		}
	}
	if c.observer == nil {
		return
	}
	c.observing.Lock()
	defer c.observing.Unlock()
	defer func() {
		if r := recover(); r != nil {
			c.logger.Error("the observer panicked", attrs("panic", r)...)
		}
	}()
	c.observer.Settled(ctx, o)
}

// release queues again, without charging the attempt, jobs whose claim was committed
// and whose answer was lost. It returns how many.
func (c *completer) release(ctx context.Context, claims []maintenance.Claim) (released int, err error) {
	releases := make([]settle.Outcome, len(claims))
	for i, claim := range claims {
		releases[i] = settle.Outcome{
			ID: claim.ID, Attempts: claim.Attempts, Token: claim.Token, Name: claim.Name, Kind: settle.Released,
		}
	}
	s := &settle.Settler{
		Pool: c.pool, Logger: c.logger, Worker: c.worker, Batch: settle.MaxBatch,
		Settled: func(_ context.Context, o settle.Outcome) {
			if o.Kind == settle.Released {
				released++
				c.logger.Warn("the answer to a claim was lost; the job is queued again", "job", o.ID, "name", o.Name)
			}
		},
	}
	err = s.Write(ctx, releases)
	return released, err
}
