package engine

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"soniq/internal/claim"
	"soniq/internal/tracecontext"
)

// inflight has the jobs from their claim until their outcome is written: which are
// running, how many more may run, and which claims are live. It has a lock of its own
// and calls nothing that waits.
type inflight struct {
	logger      *slog.Logger
	concurrency int
	// outcomes takes the outcomes. Each running job has a place in it reserved (see
	// Free), so handing one over never blocks.
	outcomes *outcomes
	// freed is readable when a slot may have become free since it was last read.
	freed chan struct{}

	mu     sync.Mutex
	limits *claim.Limits
	// running is by job and not by id: a job whose claim was lost can be claimed again
	// here while its earlier run still goes on.
	running map[*Job]*execution
	// abandoned are the jobs that were settled while their handlers went on.
	abandoned map[*Job]struct{}
	// live counts, by token, what may still write an outcome: claims whose answer is
	// awaited, and jobs until they are settled. A row of this worker's under another
	// token has nobody.
	live map[int64]int
	// claiming counts the claims under way: a job that they will bring can be cancelled
	// before it is running. heard: one might have been.
	claiming int
	heard    bool
	// idle, once draining, is closed when the last job ends.
	idle     chan struct{}
	draining bool
}

func newInflight(logger *slog.Logger, concurrency int, limits *claim.Limits, outcomes *outcomes) *inflight {
	return &inflight{
		logger: logger, concurrency: concurrency, limits: limits, outcomes: outcomes,
		freed:   make(chan struct{}, 1),
		running: map[*Job]*execution{}, abandoned: map[*Job]struct{}{}, live: map[int64]int{},
		idle: make(chan struct{}),
	}
}

// Free is how many jobs may be claimed. While outcomes can't be written it falls to
// none: a job is claimed only if its outcome has a place to go.
func (f *inflight) Free() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(min(f.concurrency, f.outcomes.places())-len(f.running), 0)
}

// busy reports whether jobs are running, or outcomes can't be written.
func (f *inflight) busy() bool { return f.Free() < f.concurrency }

// Open is what may be claimed, and full reports whether a handler or a queue is left out,
// since it runs as many jobs as it may.
func (f *inflight) Open() (open claim.Scope, full bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.limits.Open()
}

// BeginClaim retains the token of a claim until end is called, when its jobs are
// running. end reports whether a job that was not running might have been cancelled
// meanwhile.
func (f *inflight) BeginClaim(token int64) (end func() (heard bool)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.claiming++
	f.retain(token, 1)
	return func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.claiming--
		f.retain(token, -1)
		heard := f.heard
		f.heard = false
		return heard
	}
}

// retain adds n, which may be negative, to the uses of a live token. The caller holds
// the lock.
func (f *inflight) retain(token int64, n int) {
	f.live[token] += n
	if f.live[token] == 0 {
		delete(f.live, token)
	}
}

// tokens returns the live tokens.
func (f *inflight) tokens() []int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	// Never nil: that would be NULL, and 'all' of it is unknown.
	return slices.AppendSeq(make([]int64, 0, len(f.live)), maps.Keys(f.live))
}

// start notes that jobs run.
func (f *inflight) start(started []*execution) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range started {
		f.running[e.job] = e
		f.retain(e.job.token, 1)
		f.limits.Started(e.job.Queue, e.job.Name)
	}
}

// finish takes the outcome of a handler that has returned.
func (f *inflight) finish(o Outcome) { f.end(o, false) }

// end hands an outcome over and frees the job's slot, unless the job was settled or
// given back already. With abandon the handler goes on; then it returns how many such
// handlers there are, or 0 if there was nothing to end.
func (f *inflight) end(o Outcome, abandon bool) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.running[o.Job]
	if !ok {
		if _, was := f.abandoned[o.Job]; was && !abandon {
			delete(f.abandoned, o.Job)
			f.logger.Info("an abandoned handler has returned", tracecontext.Attrs(o.trace, "job", o.Job.ID, "job_name", o.Job.Name, "after", o.Duration.String())...)
		}
		return 0
	}
	e.cancel(nil)
	if abandon {
		f.abandoned[o.Job] = struct{}{}
	}
	// Under the lock: the channel is closed once the map is empty.
	f.outcomes.add(o)
	delete(f.running, o.Job)
	f.limits.Ended(o.Job.Queue, o.Job.Name)
	f.signalFreed()
	if f.draining && len(f.running) == 0 {
		close(f.idle)
	}
	return len(f.abandoned)
}

// settled follows the write of an outcome.
func (f *inflight) settled(token int64) {
	f.mu.Lock()
	f.retain(token, -1)
	f.mu.Unlock()
	f.signalFreed()
}

// Freed is readable when a slot may have become free since it was last read.
func (f *inflight) Freed() <-chan struct{} { return f.freed }

func (f *inflight) signalFreed() { signal(f.freed) }

func (f *inflight) isRunning(job *Job) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, running := f.running[job]
	return running
}

// hears reports whether a job with this id is running. If not, and a claim is under
// way, the end of the claim reports that it might have been.
func (f *inflight) hears(id uuid.UUID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for job := range f.running {
		if job.ID == id {
			return true
		}
	}
	f.heard = f.heard || f.claiming > 0
	return false
}

// claims are those of the running jobs.
func (f *inflight) claims() (ids []uuid.UUID, tokens []int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids, tokens = make([]uuid.UUID, 0, len(f.running)), make([]int64, 0, len(f.running))
	for job := range f.running {
		ids, tokens = append(ids, job.ID), append(tokens, job.token)
	}
	return ids, tokens
}

// cancel ends the contexts of the jobs under these claims, and returns those that it
// ended.
func (f *inflight) cancel(claims []claimed) (ended []*execution) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range claims {
		for job, e := range f.running {
			if job.ID == c.ID && job.token == c.Token && e.ctx.Err() == nil {
				e.cancel(ErrCancelled)
				ended = append(ended, e)
			}
		}
	}
	return ended
}

// drain waits for the running jobs, cancels them after timeout or when hurry is
// closed, and gives back those that don't return within grace, which it returns.
func (f *inflight) drain(cancelJobs context.CancelCauseFunc, timeout, grace time.Duration, hurry <-chan struct{}) (givenBack []*execution) {
	f.mu.Lock()
	n := len(f.running)
	f.draining = true
	if n == 0 {
		close(f.idle)
	}
	f.mu.Unlock()
	if n > 0 {
		f.logger.Info("draining", "running", n, "timeout", timeout.String())
	}
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	select {
	case <-f.idle:
		return nil
	case <-deadline.C:
	case <-hurry:
	}
	cancelJobs(ErrShutdown)
	patience := time.NewTimer(grace)
	defer patience.Stop()
	select {
	case <-f.idle:
		return nil
	case <-patience.C:
	}
	return f.giveBack()
}

// giveBack releases the jobs whose handlers did not return.
func (f *inflight) giveBack() (givenBack []*execution) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for job, e := range f.running {
		e.cancel(nil)
		f.logger.Warn("a handler is still running after cancellation; its job is given back, and may run elsewhere at the same time",
			tracecontext.Attrs(job.TraceContext.TraceID(), "job", job.ID, "job_name", job.Name)...)
		f.outcomes.add(Outcome{Job: job, Kind: OutcomeReleased})
		delete(f.running, job)
		givenBack = append(givenBack, e)
	}
	return givenBack
}

// signal makes c, which has room for one, readable.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
