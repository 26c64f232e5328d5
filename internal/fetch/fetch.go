// Package fetch is the loop of a worker that claims jobs and starts them: when it claims,
// how many, and how long it sleeps.
package fetch

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"soniq/internal/claim"
	"soniq/internal/hub"
	"soniq/internal/pause"
	"soniq/internal/waiters"
)

// Slots are the worker's running jobs, as its fetcher sees them.
type Slots interface {
	// Free is how many jobs may be claimed.
	Free() int
	// Freed is readable when a slot may have become free since it was last read.
	Freed() <-chan struct{}
	// Open is what may be claimed, and full reports whether a handler or a queue is left
	// out, since it runs as many jobs as it may.
	Open() (open claim.Scope, full bool)
	// BeginClaim keeps the token of a claim live until end is called, when its jobs are
	// running. end reports whether a job that was not running might have been cancelled
	// meanwhile.
	BeginClaim(token int64) (end func() (heard bool))
}

// Config is what a fetcher needs. J is a claimed job.
type Config[J any] struct {
	Logger  *slog.Logger
	Slots   Slots
	Claimer *claim.Claimer[J]
	Waiter  *waiters.Waiter
	// Scope is all that the worker serves.
	Scope      claim.Scope
	SafetyPoll time.Duration
	// Load reads what the claim left out of its jobs.
	Load func(ctx context.Context, token int64, jobs []J)
	// Took follows each claim: for how many jobs it was, how many came, and how long it
	// took. Nil is nobody.
	Took func(ctx context.Context, asked, jobs int, took time.Duration, err error)
	// Woken follows the fetch after a wake-up, with how many jobs it brought.
	Woken func(ctx context.Context, jobs int)
	// Start runs jobs.
	Start func(ctx context.Context, jobs []J)
	// Claimed is called with the error of each claim that failed, and with nil once one works
	// again.
	Claimed func(err error)
	// Heard is called when a cancellation may concern a job that was just claimed.
	Heard func()
}

// Fetcher claims jobs and starts them. Its hub wakes it when there may be a job for it:
// see package hub.
type Fetcher[J any] struct {
	Config[J]
	// Member is its side of the hub. Set it before Run.
	Member *hub.Member
	// ClaimUncertain is readable when a claim failed since it was last read, and the
	// database answers again: it may have committed that claim.
	ClaimUncertain chan struct{}

	// notificationsUnreliable: the worker must poll.
	notificationsUnreliable atomic.Bool
	// overdue paces the next looks at a due job that another session holds.
	overdue time.Duration
	// got is how many jobs the last fetch has brought.
	got int
}

// New returns a fetcher, which takes notifications for unreliable until the listener has
// proved the contrary.
func New[J any](config Config[J]) *Fetcher[J] {
	f := &Fetcher[J]{Config: config, ClaimUncertain: make(chan struct{}, 1)}
	f.notificationsUnreliable.Store(true)
	return f
}

const (
	// Timeout is when a connection that doesn't answer is given up.
	Timeout = 10 * time.Second
	// unreliablePoll is how often a worker looks for jobs while notifications are
	// unreliable.
	unreliablePoll = time.Second
)

// Registered follows each write of the worker's row.
func (f *Fetcher[J]) Registered(incarnation int64) {
	if f.Waiter.Registered(incarnation) {
		f.Waiter.Invalidate()
		f.Member.Wakeups().Set()
	}
}

// Reliable reports whether notifications arrive.
func (f *Fetcher[J]) Reliable() bool { return !f.notificationsUnreliable.Load() }

// Listening notes whether notifications are reliable. It wakes the fetcher, which may
// be asleep for longer than it should now.
func (f *Fetcher[J]) Listening(healthy bool) {
	f.notificationsUnreliable.Store(!healthy)
	if !healthy {
		f.Member.Wakeups().Set()
	}
}

// Run claims jobs and starts them until ctx ends. The jobs run under jobsCtx.
func (f *Fetcher[J]) Run(ctx, jobsCtx context.Context) error {
	// retry paces the claims while the database is away. A failover takes some seconds, and
	// should not take more.
	retry := &backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 2 * time.Second,
	}
	retry.Reset()
	failing, woken := false, false
	for {
		free := f.Slots.Free()
		// Read after the slots, never before: a slot that a job left after ctx had ended
		// would be taken again.
		if ctx.Err() != nil {
			return nil
		}
		if free == 0 {
			f.passOn(ctx)
			pause.Until(ctx, f.Waiter.Full(ctx), nil, f.Slots.Freed())
			continue
		}
		// Before the fetch, never after: what commits while the fetch runs wakes again.
		polls := f.Member.Begin()
		next, err := f.fetch(ctx, jobsCtx, free, polls)
		wait := next.wait
		if err == nil && wait > 0 {
			wait, err = f.Waiter.Park(ctx, next.short, wait, !next.partly, polls)
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			f.Member.Pass()
			f.Claimed(err)
			if !failing {
				f.Logger.Warn("can't claim jobs; trying until that works", "error", err)
				failing = true
			}
			pause.Until(ctx, retry.NextBackOff(), nil, nil)
			continue
		}
		if woken {
			f.Woken(ctx, f.got)
		}
		if failing {
			f.Logger.Info("claiming jobs again")
			failing = false
			f.Claimed(nil)
			retry.Reset()
			select {
			case f.ClaimUncertain <- struct{}{}:
			default:
			}
		}
		woken = f.sleep(ctx, next, wait)
	}
}

// passOn follows a fetch that left no free slot. If the worker was woken for more than it
// took, and others sleep, it looks whether to wake one.
func (f *Fetcher[J]) passOn(ctx context.Context) {
	if !f.Member.Full() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	next, err := f.Claimer.UntilNext(ctx, f.Scope)
	if err != nil || next.Unsure || next.OK && next.Wait <= 0 {
		f.Member.Pass()
		return
	}
	f.Member.Answered(next.Wait, next.OK)
}

// sleep waits until there may be jobs to claim, and reports whether the hub has said so. wait
// is how long the waiter allows.
func (f *Fetcher[J]) sleep(ctx context.Context, next fetched, wait time.Duration) (woken bool) {
	if next.wait == 0 {
		f.Waiter.Full(ctx)
	}
	if wait == 0 {
		return false
	}
	var freed <-chan struct{}
	if next.capped {
		freed = f.Slots.Freed()
	}
	f.Member.Park(hub.Parked{Limited: next.capped, Partly: next.partly, Due: next.due, DueIn: next.dueIn})
	return pause.Until(ctx, wait, f.Member.Wakeups().C(), freed)
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

// fetch claims up to free jobs, starts them, and looks when the next one is due, unless the
// crew polls.
func (f *Fetcher[J]) fetch(ctx, jobsCtx context.Context, free int, polls bool) (next fetched, err error) {
	f.got = 0
	last, err := f.claimAll(ctx, jobsCtx, free)
	next.capped = last.full
	if err != nil {
		return next, err
	}
	nextCtx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	switch {
	case last.more:
		return next, f.Claimer.LookIfDue(nextCtx, last.open)
	case last.open.Empty():
		next.wait, _, _ = f.untilLook(claim.Next{})
		return next, nil
	}
	next.short = last.open.Queues
	if !last.again.IsZero() {
		next.wait, next.partly = max(time.Until(last.again), time.Millisecond), true
		return next, nil
	}
	var due claim.Next
	if polls {
		err = f.Claimer.LookIfDue(nextCtx, last.open)
	} else {
		due, err = f.Claimer.UntilNext(nextCtx, last.open)
	}
	if err != nil || due.Unsure {
		return next, err
	}
	next.wait, next.dueIn, next.due = f.untilLook(due)
	return next, nil
}

// lastClaim is what the last claim of a fetch asked for and found.
type lastClaim struct {
	// open was asked for. full: something was not, since it runs as many jobs as it may.
	open claim.Scope
	full bool
	// more: there may be more jobs. If not, all that the open queues had was taken.
	more bool
	// again is when a claim looks at all lanes; zero if the last one did.
	again time.Time
}

// claimAll claims up to free jobs. It claims again, in what is open then, when a claim has
// filled a handler or a queue. Each such claim has brought a job at least.
func (f *Fetcher[J]) claimAll(ctx, jobsCtx context.Context, free int) (last lastClaim, err error) {
	// A claim that has begun is finished, so that no claimed row is left without a
	// runner; but not for ever.
	claimCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Timeout)
	defer cancel()
	for {
		last.open, last.full = f.Slots.Open()
		if last.open.Empty() {
			return last, nil
		}
		got, err := f.claim(claimCtx, jobsCtx, last.open, free)
		if err != nil {
			return last, err
		}
		free -= len(got.Jobs)
		f.got += len(got.Jobs)
		last.again, last.more = got.Again, got.Full || free == 0
		if last.more || !got.Unfinished {
			return last, nil
		}
	}
}

// untilLook is how long to sleep before the next fetch, and in how long a job is due, if
// one is due by then.
func (f *Fetcher[J]) untilLook(next claim.Next) (poll, dueIn time.Duration, due bool) {
	poll = f.SafetyPoll
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
func (f *Fetcher[J]) claim(ctx, jobsCtx context.Context, scope claim.Scope, n int) (claim.Taken[J], error) {
	token := rand.Int64()
	end := f.Slots.BeginClaim(token)
	defer func() {
		if end() {
			f.Heard()
		}
	}()
	began := time.Now()
	taken, err := f.Claimer.Take(ctx, token, scope, n)
	if f.Took != nil {
		f.Took(ctx, n, len(taken.Jobs), time.Since(began), err)
	}
	if err != nil {
		return claim.Taken[J]{}, err
	}
	f.Member.Took(len(taken.Jobs), f.Claimer.Waited())
	f.Load(ctx, token, taken.Jobs)
	f.Start(jobsCtx, taken.Jobs)
	// The first job begins now, on this thread, and not once another is awake.
	runtime.Gosched()
	return taken, nil
}
