package engine

import (
	"cmp"
	"context"
	"errors"
	"time"

	"soniq/internal/hub"
	"soniq/internal/liveness"
	"soniq/internal/waiters"
)

// RecoverOrphans is a look and a run of the task, by a worker that has been in contact
// for long, and has watched each peer since its heartbeat.
func (w *Worker) RecoverOrphans(ctx context.Context) error {
	timing := *w.liveness.Timing
	timing.Trust, timing.SilentSince = 0, asItsHeartbeatSays
	_, err := w.liveness.Watch.Look(ctx, liveness.NewDetector(timing))
	return errors.Join(err, w.RecoverStrays(ctx))
}

// asItsHeartbeatSays makes a worker believe a heartbeat that it has not watched: peers
// of a test that are to be dead have an old one.
func asItsHeartbeatSays(p liveness.Peer) time.Time { return p.Heartbeat }

// Timing is what tests shorten; zero leaves the real one.
type Timing struct {
	// A negative Trust also believes heartbeats that the worker has not watched.
	Beat, Trust, Dead time.Duration
	WithdrawAfter     time.Duration
	// Tail is how long the end of a worker takes once its jobs have ended.
	Tail time.Duration
	// Reached is called by the fetcher at each step.
	Reached func(waiters.Step)
}

// SetHealthClock changes the clock by which probes are answered.
func (w *Worker) SetHealthClock(now func() time.Time) { w.health.SetClock(now) }

// SetTiming must be called before Run.
func (w *Worker) SetTiming(t Timing) {
	*w.liveness.Timing = liveness.Timing{
		Beat:  cmp.Or(t.Beat, liveness.RealTiming.Beat),
		Trust: cmp.Or(t.Trust, liveness.RealTiming.Trust),
		Dead:  cmp.Or(t.Dead, liveness.RealTiming.Dead),
	}
	if t.Trust < 0 {
		w.liveness.Timing.SilentSince = asItsHeartbeatSays
	}
	w.tail = cmp.Or(t.Tail, w.tail)
	w.fetcher.Waiter.WithdrawAfter = cmp.Or(t.WithdrawAfter, waiters.WithdrawAfter)
	w.fetcher.Waiter.Reached = t.Reached
}

// AtHubStep has reached called at each step from a wake to the fetch that answers it. Call it
// before Run.
func (w *Worker) AtHubStep(reached func(hub.Step)) { w.fetcher.Member.Reached = reached }

// LookAtOthers is a look at the other workers, which decides nothing.
func (w *Worker) LookAtOthers(ctx context.Context) error {
	_, err := w.liveness.Watch.Look(ctx, liveness.NewDetector(*w.liveness.Timing))
	return err
}

// Advertises reports whether the worker's row names its lock.
func (w *Worker) Advertises() bool { return w.liveness.Session.Advertises() }

// WakeDetector is what a notification does to the failure detector.
func (w *Worker) WakeDetector() { w.liveness.Watch.Wake() }

// MarkDead is what a worker does to another that it found dead.
func (w *Worker) MarkDead(ctx context.Context, p liveness.Peer) error {
	_, err := w.liveness.Watch.MarkDead(ctx, w.pool, p)
	return err
}

// Prune is a run of the task.
func (w *Worker) Prune(ctx context.Context) error { return w.maintenance.Prune(ctx) }

// MoveUnknown is a run of the task by a worker that has watched the database's clock for
// long.
func (w *Worker) MoveUnknown(ctx context.Context) error {
	if !w.clock.Watched(time.Nanosecond) {
		w.SawClock(time.Now())
	}
	return w.maintenance.MoveUnknown(ctx)
}

// SawClock is a first reading of the database's clock, an hour ago: at is what it would
// say now.
func (w *Worker) SawClock(at time.Time) {
	before := time.Now().Add(-time.Hour)
	w.clock.Note(at.Add(-time.Hour), before, before)
}

// Cancels hears requests to cancel.
func (w *Worker) Cancels() *cancelWatch { return w.cancels }

// BeginClaim is the beginning of a claim; it returns its end.
func (w *Worker) BeginClaim() func() {
	end := w.inflight.BeginClaim(0)
	return func() {
		if end() {
			w.fetcher.Heard()
		}
	}
}

// LookForCancels is what a worker does with each heartbeat.
func (w *Worker) LookForCancels(ctx context.Context) error { return w.cancels.look(ctx) }

// Beat is a heartbeat, with the names.
func (w *Worker) Beat(ctx context.Context) error {
	return w.liveness.Heartbeat.Renew(ctx, true, liveness.PoolPatience)
}

// Hears reports whether the worker relies on notifications.
func (w *Worker) Hears() bool { return w.fetcher.Reliable() }

// WatchDeadLetters is a run of the task.
func (w *Worker) WatchDeadLetters(ctx context.Context) error {
	return w.maintenance.WatchDeadLetters(ctx)
}

// Retain is a pass, if the worker is the leader of the turn.
func (w *Worker) Retain(ctx context.Context) error { return w.maintenance.Retain(ctx) }

// Expire is a run of the task.
func (w *Worker) Expire(ctx context.Context) error { return w.maintenance.Expire(ctx) }
