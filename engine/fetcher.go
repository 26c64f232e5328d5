package engine

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"

	"soniq/internal/claim"
	"soniq/internal/hub"
	"soniq/internal/waiters"
)

// fetcher claims jobs and starts them. Its hub wakes it when there may be a job for it:
// see package hub.
type fetcher struct {
	logger   *slog.Logger
	inflight *inflight
	claimer  *claim.Claimer[*Job]
	loader   *loader
	waiter   *waiters.Waiter
	member   *hub.Member
	// scope is all that the worker serves.
	scope      claim.Scope
	safetyPoll time.Duration
	// start runs jobs.
	start func(ctx context.Context, jobs []*Job)
	// heard is called when a cancellation may concern a job that was just claimed.
	heard func()

	// notificationsUnreliable: the worker must poll.
	notificationsUnreliable atomic.Bool
	// claimUncertain is readable when a claim failed since it was last read, and the
	// database answers again: it may have committed that claim.
	claimUncertain chan struct{}
	// overdue paces the next looks at a due job that another session holds.
	overdue time.Duration
}

const (
	// claimTimeout is when a connection that doesn't answer is given up.
	claimTimeout = 10 * time.Second
	// unreliablePoll is how often a worker looks for jobs while notifications are
	// unreliable.
	unreliablePoll = time.Second
)

// registered follows each write of the worker's row.
func (f *fetcher) registered(incarnation int64) {
	if f.waiter.Registered(incarnation) {
		f.waiter.Invalidate()
		f.member.Wakeups().Set()
	}
}

// listening notes whether notifications are reliable. It wakes the fetcher, which may
// be asleep for longer than it should now.
func (f *fetcher) listening(healthy bool) {
	f.notificationsUnreliable.Store(!healthy)
	if !healthy {
		f.member.Wakeups().Set()
	}
}

// run claims jobs and starts them until ctx ends. The jobs run under jobsCtx.
func (f *fetcher) run(ctx, jobsCtx context.Context) error {
	// retry paces the claims while the database is away.
	retry := &backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 5 * time.Second,
	}
	retry.Reset()
	failing := false
	for {
		free := f.inflight.free()
		// Read after the slots, never before: a slot that a job left after ctx had ended
		// would be taken again.
		if ctx.Err() != nil {
			return nil
		}
		if free == 0 {
			f.passOn(ctx)
			sleep(ctx, f.waiter.Full(ctx), nil, f.inflight.freed)
			continue
		}
		// Before the fetch, never after: what commits while the fetch runs wakes again.
		f.member.Begin()
		next, err := f.fetch(ctx, jobsCtx, free)
		wait := next.wait
		if err == nil && wait > 0 {
			wait, err = f.waiter.Park(ctx, next.short, wait, !next.partly)
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			f.member.Pass()
			if !failing {
				f.logger.Warn("can't claim jobs; trying until that works", "error", err)
				failing = true
			}
			sleep(ctx, retry.NextBackOff(), nil, nil)
			continue
		}
		if failing {
			f.logger.Info("claiming jobs again")
			failing = false
			retry.Reset()
			signal(f.claimUncertain)
		}
		f.sleep(ctx, next, wait)
	}
}

// passOn follows a fetch that left no free slot. If the worker was woken for more than it
// took, and others sleep, it looks whether to wake one.
func (f *fetcher) passOn(ctx context.Context) {
	if !f.member.Full() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	next, err := f.claimer.UntilNext(ctx, f.scope)
	if err != nil || next.Unsure || next.OK && next.Wait <= 0 {
		f.member.Pass()
		return
	}
	f.member.Answered(next.Wait, next.OK)
}

// sleep waits until there may be jobs to claim. wait is how long the waiter allows.
func (f *fetcher) sleep(ctx context.Context, next fetched, wait time.Duration) {
	if next.wait == 0 {
		f.waiter.Full(ctx)
	}
	if wait == 0 {
		return
	}
	var freed <-chan struct{}
	if next.capped {
		freed = f.inflight.freed
	}
	f.member.Park(hub.Parked{Limited: next.capped, Partly: next.partly, Due: next.due, DueIn: next.dueIn})
	sleep(ctx, wait, f.member.Wakeups().C(), freed)
}

// fetched is what a fetch found.
type fetched struct {
	// wait is how long to sleep: 0 after a full fetch, because there may be more.
	wait time.Duration
	// due: a job is due in dueIn, which is no longer. Somebody of the hub is woken then.
	due   bool
	dueIn time.Duration
	// capped: a handler or a queue runs as many jobs as it may, so its jobs were not
	// asked for.
	capped bool
	// short are the queues that were asked for and have no more.
	short []string
	// partly: the fetch did not look at all of them (see package claim).
	partly bool
}

// fetch claims up to free jobs, starts them, and looks when the next one is due.
func (f *fetcher) fetch(ctx, jobsCtx context.Context, free int) (next fetched, err error) {
	scopes, open, capped := f.inflight.scopes()
	next.capped = capped
	more, again, err := f.claimAll(ctx, jobsCtx, scopes, free)
	if err != nil {
		return next, err
	}
	nextCtx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	if more {
		if len(scopes) > 0 {
			err = f.claimer.LookIfDue(nextCtx, open)
		}
		return next, err
	}
	if len(scopes) > 0 {
		next.short = open.Queues
	}
	if !again.IsZero() {
		next.wait, next.partly = max(time.Until(again), time.Millisecond), true
		return next, nil
	}
	due, err := f.claimer.UntilNext(nextCtx, open)
	if err != nil || due.Unsure {
		return next, err
	}
	next.wait, next.dueIn, next.due = f.untilLook(due)
	return next, nil
}

// claimAll claims up to free jobs in the scopes. more reports that there may be more
// jobs, and again is when a whole claim is due: zero if all were.
func (f *fetcher) claimAll(ctx, jobsCtx context.Context, scopes []claim.Scope, free int) (more bool, again time.Time, err error) {
	// A claim that has begun is finished, so that no claimed row is left without a
	// runner; but not for ever.
	claimCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimTimeout)
	defer cancel()
	for _, scope := range scopes {
		if free == 0 {
			return true, again, nil
		}
		n := f.inflight.room(scope, free)
		if n == 0 {
			// Another scope took what this one shares with it; more was true then.
			continue
		}
		got, err := f.claim(claimCtx, jobsCtx, scope, n)
		if err != nil {
			return more, again, err
		}
		free -= len(got.Jobs)
		more = more || got.Full
		if at := got.Again; !at.IsZero() && (again.IsZero() || at.Before(again)) {
			again = at
		}
	}
	return more, again, nil
}

// untilLook is how long to sleep before the next fetch, and in how long a job is due, if
// one is due by then.
func (f *fetcher) untilLook(next claim.Next) (poll, dueIn time.Duration, due bool) {
	poll = f.safetyPoll
	if f.notificationsUnreliable.Load() {
		poll = min(poll, unreliablePoll)
	}
	poll += time.Duration((rand.Float64() - 0.5) * 0.4 * float64(poll))
	switch {
	case !next.OK || next.Wait > poll:
		f.overdue = 0
		return poll, 0, false
	case next.Wait > 0:
		f.overdue = 0
		// Waking a moment too early would only cost a fetch that finds nothing.
		return poll, next.Wait + time.Millisecond, true
	}
	// Due and not claimed: another session holds the row's lock, or it has just become
	// due. Look again soon, and ever less often.
	f.overdue = min(max(f.overdue*2, 25*time.Millisecond), time.Second)
	return poll, f.overdue, true
}

// claim makes one claim and starts its jobs.
func (f *fetcher) claim(ctx, jobsCtx context.Context, scope claim.Scope, n int) (claim.Taken[*Job], error) {
	token := rand.Int64()
	end := f.inflight.beginClaim(token)
	defer func() {
		if end() {
			f.heard()
		}
	}()
	taken, err := f.claimer.Take(ctx, token, scope, n)
	if err != nil {
		return claim.Taken[*Job]{}, err
	}
	f.loader.loadMiddle(ctx, token, taken.Jobs)
	f.start(jobsCtx, taken.Jobs)
	// The first job begins now, on this thread, and not once another is awake.
	runtime.Gosched()
	return taken, nil
}

// claimedJob is a claimed row as a job. All jobs of a worker share its id.
func claimedJob(c *claim.Job, worker *uuid.UUID, token int64) *Job {
	j := &Job{
		ID: c.ID, Name: c.Name, Args: c.Args, Queue: c.Queue, Priority: c.Priority, Status: StatusProcessing,
		Attempts: c.Attempts, MaxAttempts: c.MaxAttempts,
		ScheduledAt: c.ScheduledAt, CreatedAt: c.CreatedAt, UpdatedAt: c.UpdatedAt, LastError: c.LastError,
		ProducerID: c.ProducerID, DedupKey: c.DedupKey, WorkerID: worker, ReplayOf: c.ReplayOf, token: token,
	}
	j.inUTC()
	return j
}

// sleep returns when d has passed (negative: never), ctx ends, or one of the
// channels, which may be nil, has something.
func sleep(ctx context.Context, d time.Duration, woken, freed <-chan struct{}) {
	var timeout <-chan time.Time
	if d >= 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-ctx.Done():
	case <-timeout:
	case <-woken:
	case <-freed:
	}
}

// signal makes c, which has room for one, readable.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
