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
)

// outcomes lead from the jobs to the completer.
type outcomes struct {
	light chan Outcome
	// heavy has a settler of its own: the deaths of jobs that are so large that the
	// others would wait.
	heavy chan Outcome
}

func newOutcomes(concurrency int) *outcomes {
	return &outcomes{
		light: make(chan Outcome, 2*concurrency+maxSettleBatch),
		heavy: make(chan Outcome, 2*concurrency),
	}
}

// places is how many more outcomes can be added without blocking.
func (o *outcomes) places() int {
	return min(cap(o.light)-len(o.light), cap(o.heavy)-len(o.heavy))
}

func (o *outcomes) add(outcome Outcome) {
	if outcome.Kind == OutcomeDeadLetter && outcome.Job.stored >= heavyBytes {
		o.heavy <- outcome
	} else {
		o.light <- outcome
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
	settle := func(outcomes chan Outcome, batch int) {
		settlers.Go(func() error {
			s := &settler{
				pool: c.pool, worker: c.worker, ttl: c.ttl, logger: c.logger,
				outcomes: outcomes, batch: batch, settled: c.report,
			}
			return s.run(ctx)
		})
	}
	settle(c.outcomes.light, maxSettleBatch)
	settle(c.outcomes.heavy, 1)
	return settlers.Wait()
}

// report logs an outcome that was written, and calls the observer.
func (c *completer) report(ctx context.Context, o Outcome) {
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
	releases := make([]Outcome, len(claims))
	for i, claim := range claims {
		job := &Job{ID: claim.ID, Name: claim.Name, Attempts: claim.Attempts, token: claim.Token}
		releases[i] = Outcome{Job: job, Kind: OutcomeReleased}
	}
	s := &settler{pool: c.pool, worker: c.worker, logger: c.logger, batch: maxSettleBatch, settled: func(_ context.Context, o Outcome) {
		if o.Kind == OutcomeReleased {
			released++
			c.logger.Warn("the answer to a claim was lost; the job is queued again", "job", o.Job.ID, "name", o.Job.Name)
		}
	}}
	err = s.write(ctx, releases)
	return released, err
}
