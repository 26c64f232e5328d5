package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq"
	"soniq/deadletter"
	"soniq/notify"
)

// Worker claims the due jobs of its queues whose names are registered and runs
// them. It sleeps until PostgreSQL wakes it or the next job is due.
type Worker struct {
	id       uuid.UUID
	pool     *pgxpool.Pool
	letters  *deadletter.Queue
	registry *Registry
	config   WorkerConfig
	logger   *slog.Logger
	queues   []string

	claims  claims
	loader  *loader
	slots   slots
	wakeups *notify.Wakeups
	cancels *cancelWatch
	// handlers are the registry's, with its middleware around them.
	handlers map[string]HandlerFunc

	presence *presence
	hunger   *hunger
	timing   timing
	// deaf says that notifications can't be relied on.
	deaf atomic.Bool

	// outcomes leads from the jobs to the settler. Each running job has a
	// place in it reserved (see freeSlots), so that sending never blocks.
	outcomes chan Outcome
	// heavy leads to a settler of their own: the deaths of jobs that are so large
	// that the others would wait.
	heavy chan Outcome
	// telling is held while the observer is told.
	telling sync.Mutex
	// freed is readable when a slot may have become free since it was last
	// read.
	freed chan struct{}
	// doubt is readable when a claim failed since it was last read, and
	// the database has answered again: it may have committed that claim.
	doubt chan struct{}

	// unrecovered, unburied and unexpired are the jobs of which the database has
	// refused that.
	unrecovered, unburied, unexpired refusedRows

	cancelOnce sync.Once
	cancelled  chan struct{}

	mu      sync.Mutex
	started bool
	// running is by job and not by id: a job whose claim was lost can be claimed
	// again here while its earlier run still goes on.
	running map[*Job]*execution
	// left are the jobs that were settled while their handlers went on.
	left map[*Job]struct{}
	// held counts, by token, what may still write an outcome: claims whose
	// answer is awaited, and jobs until they are settled. A row of ours under
	// another token has nobody.
	held map[int64]int
	// idle, once draining, is closed when the last job ends.
	idle     chan struct{}
	draining bool
}

// NewWorker checks registry and config and returns a worker on pool, which
// stays the caller's to close. A worker uses few of the pool's connections at
// once, whatever its concurrency, and one more of its own to listen on.
func NewWorker(pool *pgxpool.Pool, registry *Registry, config WorkerConfig) (*Worker, error) {
	if pool == nil {
		return nil, errors.New("new worker: pool is nil")
	}
	if registry == nil || len(registry.handlers) == 0 && registry.Err() == nil {
		return nil, errors.New("new worker: no handlers are registered")
	}
	if err := registry.Err(); err != nil {
		return nil, fmt.Errorf("new worker: %w", err)
	}
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("new worker: %w", err)
	}
	config = config.withDefaults()
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("new worker: make id: %w", err)
	}
	// A queue named twice would be walked twice by each claim.
	queues := slices.Compact(slices.Sorted(slices.Values(config.Queues)))
	if len(queues) == 0 {
		queues = registry.queues()
	}
	letters, err := deadletter.NewQueue(pool, deadletter.QueueConfig{})
	if err != nil {
		return nil, fmt.Errorf("new worker: %w", err)
	}
	w := &Worker{
		id:        id,
		pool:      pool,
		letters:   letters,
		registry:  registry,
		config:    config,
		logger:    config.Logger.With("worker", id.String()),
		queues:    queues,
		claims:    claims{pool: pool, worker: id, limits: registry.attemptLimits(), attemptLimit: config.MaxAttemptsLimit},
		handlers:  map[string]HandlerFunc{},
		loader:    newLoader(pool, config),
		slots:     newSlots(config.Concurrency, queues, config.QueueConcurrency, registry),
		wakeups:   notify.NewWakeups(queues...),
		outcomes:  make(chan Outcome, 2*config.Concurrency+maxSettleBatch),
		heavy:     make(chan Outcome, 2*config.Concurrency),
		freed:     make(chan struct{}, 1),
		doubt:     make(chan struct{}, 1),
		cancelled: make(chan struct{}),
		running:   map[*Job]*execution{},
		left:      map[*Job]struct{}{},
		held:      map[int64]int{},
		idle:      make(chan struct{}),
		presence:  newPresence(),
		timing:    realTiming,
	}
	for name, h := range registry.handlers {
		if w.handlers[name], err = registry.wrap(h); err != nil {
			return nil, fmt.Errorf("new worker: %w", err)
		}
	}
	for queue := range config.QueueConcurrency {
		if !slices.Contains(queues, queue) {
			return nil, fmt.Errorf("new worker: config: QueueConcurrency: queue %q is not served", queue)
		}
	}
	w.hunger = newHunger(pool, id, w.logger, queues)
	w.cancels = &cancelWatch{Wakeups: notify.NewWakeups(), worker: w}
	w.deaf.Store(true) // until the listener has proved the contrary
	return w, nil
}

// ID is the worker's id in soniq_workers.
func (w *Worker) ID() uuid.UUID { return w.id }

// Queues are the queues that the worker serves.
func (w *Worker) Queues() []string { return w.queues }

// Cancel ends a drain early: running jobs are cancelled at once and given
// back without charging the attempt. It has an effect once Run's context has
// ended.
func (w *Worker) Cancel() { w.cancelOnce.Do(func() { close(w.cancelled) }) }

// Run works until ctx ends. Then it claims nothing more, lets running jobs go
// on for ShutdownTimeout, gives back those that are left, writes all
// outcomes, and returns nil. A worker runs once.
//
// An error means that it could not start, or that outcomes could not be
// written at the end. While it runs, a database that is away is waited for.
func (w *Worker) Run(ctx context.Context) error {
	w.mu.Lock()
	if w.started {
		w.mu.Unlock()
		return errors.New("run worker: it has run already")
	}
	w.started = true
	w.mu.Unlock()

	// Found out now: an outcome that can't be written for want of a column
	// would be tried for ever.
	err := soniq.Check(ctx, w.pool, soniq.Config{})
	if err == nil {
		soniq.WarnOfFindings(ctx, w.pool, soniq.Config{}, w.logger)
		err = w.register(ctx, w.pool, true)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("run worker: %w", err)
	}
	w.logger.Info("worker started", "queues", w.queues, "jobs", w.registry.Names(), "concurrency", w.config.Concurrency)
	if err := w.work(ctx); err != nil {
		return fmt.Errorf("run worker: %w", err)
	}
	w.logger.Info("worker stopped")
	return nil
}

// work runs the worker's parts and stops them in order: fetching first, then
// the jobs, then the settler that writes their outcomes, then the heartbeat.
func (w *Worker) work(ctx context.Context) error {
	listenConfig := w.config.ListenConfig
	if listenConfig == nil {
		listenConfig = w.pool.Config().ConnConfig
	}
	listener, err := notify.NewListener(notify.Config{
		ConnConfig: listenConfig, Logger: w.logger, OnConnect: w.sessionUp, OnDisconnect: w.sessionDown,
		Probe: w.probe, OnHealth: w.hearing,
	})
	if err != nil {
		return err
	}
	listener.Handle(notify.NewJob, newJobs{w.wakeups, w.presence, w.hunger})
	listener.Handle(notify.Control, w.cancels)
	defer w.accompany(context.WithoutCancel(ctx), listener)()

	// ctx ends the fetching; jobs, their outcomes and the heartbeat outlive it.
	background := context.WithoutCancel(ctx)
	jobsCtx, cancelJobs := context.WithCancelCause(background)
	defer cancelJobs(nil)

	beatCtx, stopBeating := context.WithCancel(background)
	defer stopBeating()
	var beat errgroup.Group
	beat.Go(func() error { return w.beat(beatCtx) })
	beat.Go(func() error { return w.cancels.run(beatCtx) })

	settleCtx, stopSettling := context.WithCancel(background)
	defer stopSettling()
	var settling errgroup.Group
	settle := func(outcomes chan Outcome, batch int) {
		settling.Go(func() error {
			s := &settler{
				pool: w.pool, worker: w.id, ttl: w.config.ResultTTL, logger: w.logger,
				outcomes: outcomes, batch: batch, settled: w.settled,
			}
			return s.run(settleCtx)
		})
	}
	settle(w.outcomes, maxSettleBatch)
	settle(w.heavy, 1)

	awake, awakeCtx := errgroup.WithContext(ctx)
	awake.Go(func() error { return listener.Run(awakeCtx) })
	awake.Go(func() error { return w.maintain(awakeCtx) })
	awake.Go(func() error { return w.retain(awakeCtx) })
	awake.Go(func() error { return w.tidy(awakeCtx) })
	awake.Go(func() error { return w.watch(awakeCtx) })
	awake.Go(func() error { return w.fetch(awakeCtx, jobsCtx) })
	err = awake.Wait()

	if w.freeSlots() < w.config.Concurrency {
		// Producers need not wait for a drain. Without one, unregister tells.
		beat.Go(func() error { w.hunger.leave(background); return nil })
	}
	w.drain(cancelJobs)
	// All outcomes are in the channel now, and handlers that never returned
	// have nobody left to tell.
	close(w.outcomes)
	close(w.heavy)
	// The database may be away for good: don't wait for it for ever.
	giveUp := time.AfterFunc(max(plus(w.config.ShutdownTimeout, w.config.CancelGrace), minSettling), stopSettling)
	defer giveUp.Stop()
	err = errors.Join(err, settling.Wait())
	stopBeating()
	return errors.Join(err, beat.Wait(), w.unregister(background))
}

// minSettling is how long the last outcomes are tried at the least: short
// patience with handlers is none with a busy database, and a job that isn't
// given back is charged, and waits until its worker is missed.
const minSettling = 5 * time.Second

const probeSQL = `select pg_notify($1, $2)`

// probe sends a notification to the listener through the pool.
func (w *Worker) probe(ctx context.Context, channel, payload string) error {
	_, err := w.pool.Exec(ctx, probeSQL, channel, payload)
	return err
}

// hearing notes whether notifications can be relied on. The fetcher is woken:
// it may be asleep for longer than it should now.
func (w *Worker) hearing(healthy bool) {
	w.deaf.Store(!healthy)
	if !healthy {
		w.wakeups.Set()
	}
}

// plus adds two durations that aren't negative; the longest stands for 'never'.
func plus(a, b time.Duration) time.Duration {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// fetch claims jobs and starts them until ctx ends.
func (w *Worker) fetch(ctx, jobsCtx context.Context) error {
	// trouble paces the retries while the database is away.
	trouble := &backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 5 * time.Second,
	}
	trouble.Reset()
	inTrouble := false
	// overdue paces the second looks at a due job that someone else holds.
	overdue := time.Duration(0)
	for {
		free := w.freeSlots()
		// Looked at after the slots, never before: a slot that a job left after
		// ctx had ended would be taken again.
		if ctx.Err() != nil {
			return nil
		}
		if free == 0 {
			sleep(ctx, w.hunger.full(ctx), nil, w.freed)
			continue
		}
		// Cleared before the fetch, never after: what commits while the fetch
		// runs sets the bit again.
		w.wakeups.Clear()
		f, err := w.fetchOnce(ctx, jobsCtx, free, &overdue)
		wait := f.wait
		if err == nil && wait > 0 {
			wait, err = w.hunger.short(ctx, f.short, wait, !f.partly)
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if !inTrouble {
				w.logger.Warn("can't claim jobs; trying until that works", "error", err)
				inTrouble = true
			}
			sleep(ctx, trouble.NextBackOff(), nil, nil)
			continue
		}
		if inTrouble {
			w.logger.Info("claiming jobs again")
			inTrouble = false
			trouble.Reset()
			signal(w.doubt)
		}
		if f.wait == 0 {
			w.hunger.full(ctx)
		}
		if wait == 0 {
			continue
		}
		var freed <-chan struct{}
		if f.capped {
			freed = w.freed
		}
		sleep(ctx, wait, w.wakeups.C(), freed)
		if f.due && wait == f.wait {
			// Without a notification.
			w.presence.stir()
		}
	}
}

// claimTimeout is when a connection that doesn't answer is given up.
const claimTimeout = 10 * time.Second

// deafPoll is how often a worker looks for jobs while notifications can't be
// relied on.
const deafPoll = time.Second

// fetched is what a fetch found.
type fetched struct {
	// wait is how long to sleep: 0 after a full fetch, since more may wait.
	wait time.Duration
	// due says that a job is due then.
	due bool
	// capped says that a handler or a queue runs all that it may: its jobs were
	// not asked for.
	capped bool
	// short are the queues that were asked for and have no more.
	short []string
	// partly says that not all of them was looked at (see claims.takeDear).
	partly bool
}

// fetchOnce claims up to free jobs and starts them.
func (w *Worker) fetchOnce(ctx, jobsCtx context.Context, free int, overdue *time.Duration) (f fetched, err error) {
	// A claim that has begun is finished, so that no claimed row is left
	// without a runner; but not for ever.
	claimCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimTimeout)
	defer cancel()
	w.mu.Lock()
	asks := w.slots.asks()
	open := w.slots.open()
	f.capped = w.slots.full()
	w.mu.Unlock()
	more := false
	var again time.Time
	for _, ask := range asks {
		if free == 0 {
			more = true
			break
		}
		w.mu.Lock()
		n := w.slots.room(ask, free)
		w.mu.Unlock()
		if n == 0 {
			// Another ask took what this one shares with it; more was true then.
			continue
		}
		claimed, err := w.claim(claimCtx, jobsCtx, ask, n)
		if err != nil {
			return f, err
		}
		free -= len(claimed.jobs)
		more = more || claimed.full
		if at := claimed.again; !at.IsZero() && (again.IsZero() || at.Before(again)) {
			again = at
		}
	}
	nextCtx, cancelNext := context.WithTimeout(ctx, claimTimeout)
	defer cancelNext()
	if more {
		if len(asks) > 0 && w.claims.lookIsDue() {
			_, _, err = w.claims.look(nextCtx, open)
		}
		return f, err
	}
	if len(asks) > 0 {
		f.short = open.queues
	}
	if !again.IsZero() {
		f.wait, f.partly = max(time.Until(again), time.Millisecond), true
		return f, nil
	}
	next, err := w.claims.untilNext(nextCtx, open)
	if err != nil || next.unsure {
		return f, err
	}
	poll := w.config.SafetyPoll
	if w.deaf.Load() {
		poll = min(poll, deafPoll)
	}
	poll += time.Duration((rand.Float64() - 0.5) * 0.4 * float64(poll))
	switch {
	case !next.ok || next.wait > poll:
		*overdue = 0
		f.wait = poll
	case next.wait > 0:
		*overdue = 0
		// Waking a hair early would only cost a fetch that finds nothing.
		f.wait, f.due = next.wait+time.Millisecond, true
	default:
		// Due, yet not claimed: someone holds the row's lock, or it has just
		// become due. Look again soon, and ever less often.
		*overdue = min(max(*overdue*2, 25*time.Millisecond), time.Second)
		f.wait, f.due = *overdue, true
	}
	return f, nil
}

// claim makes one claim and starts its jobs.
func (w *Worker) claim(ctx, jobsCtx context.Context, a ask, n int) (claimed taken, err error) {
	token := rand.Int64()
	w.hold(token, 1)
	defer w.hold(token, -1)
	defer w.cancels.claim()()
	claimed, err = w.claims.take(ctx, token, a, n)
	if err != nil {
		return taken{}, err
	}
	w.loader.loadMiddle(ctx, token, claimed.jobs)
	w.start(jobsCtx, claimed.jobs)
	// The first job begins now, on this thread, and not once another is awake.
	runtime.Gosched()
	return claimed, nil
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

// freeSlots is how many jobs may be claimed. While outcomes can't be written
// it falls to none: a job is claimed only if its outcome has a place to go.
func (w *Worker) freeSlots() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	places := min(cap(w.outcomes)-len(w.outcomes), cap(w.heavy)-len(w.heavy))
	return max(min(w.config.Concurrency, places)-len(w.running), 0)
}

func (w *Worker) signalFreed() {
	select {
	case w.freed <- struct{}{}:
	default:
	}
}

// start runs each job at once. There is a goroutine for each, which takes the
// job that has waited longest, and then others while some wait: a short job
// leaves its goroutine, and the stack that has grown, to the next.
func (w *Worker) start(ctx context.Context, jobs []*Job) {
	started := make([]*execution, len(jobs))
	w.mu.Lock()
	for i, job := range jobs {
		e := &execution{
			job: job, handler: w.registry.handlers[job.Name], handle: w.handlers[job.Name], loader: w.loader,
			timeout: w.config.JobTimeout, classifiers: w.config.Classifiers,
			worker: w.id, ttl: w.config.ResultTTL, overdue: w.leave, grace: w.config.CancelGrace,
		}
		if e.handler.timeout != 0 {
			e.timeout = e.handler.timeout
		}
		if e.handler.ownClassifiers {
			e.classifiers = e.handler.classifiers
		}
		e.ctx, e.cancel = context.WithCancelCause(ctx)
		w.running[job] = e
		w.held[job.token]++
		w.slots.started(job)
		started[i] = e
	}
	w.mu.Unlock()
	waiting := &backlog{jobs: started}
	for range started {
		go waiting.run(w.finish)
	}
}

// A backlog is what one claim brought and is not running yet.
type backlog struct {
	mu   sync.Mutex
	jobs []*execution
}

// run runs jobs until none waits. A handler may end the goroutine: as many were
// begun as there are jobs, so that each job finds one.
func (b *backlog) run(report func(Outcome)) {
	name := ""
	for e := b.next(); e != nil; e = b.next() {
		if name == "" {
			name = goroutine()
		}
		e.goroutine = name
		e.run(e.ctx, report)
	}
}

func (b *backlog) next() *execution {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.jobs) == 0 {
		return nil
	}
	e := b.jobs[0]
	b.jobs = b.jobs[1:]
	return e
}

// finish takes the outcome of a handler that has returned.
func (w *Worker) finish(o Outcome) { w.end(o, false) }

// end hands an outcome to the settler and frees the job's slot, unless the job
// was settled or given back already. left says that its handler goes on: then
// it returns how many such handlers there are, or 0 if there was nothing to
// end.
func (w *Worker) end(o Outcome, left bool) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.running[o.Job]
	if !ok {
		if _, was := w.left[o.Job]; was && !left {
			delete(w.left, o.Job)
			w.logger.Info("a handler that ignored the end of its context has returned",
				"job", o.Job.ID, "name", o.Job.Name, "after", o.Duration.String())
		}
		return 0
	}
	e.cancel(nil)
	if left {
		w.left[o.Job] = struct{}{}
	}
	// Sent under the lock: the channel is closed once the map is empty.
	if o.Kind == OutcomeDeadLetter && o.Job.stored >= heavyBytes {
		w.heavy <- o
	} else {
		w.outcomes <- o
	}
	delete(w.running, o.Job)
	w.slots.ended(o.Job)
	w.signalFreed()
	if w.draining && len(w.running) == 0 {
		close(w.idle)
	}
	return len(w.left)
}

// drain waits for the running jobs, cancels them after ShutdownTimeout or on
// Cancel, and gives back those that even then don't return.
func (w *Worker) drain(cancelJobs context.CancelCauseFunc) {
	w.mu.Lock()
	n := len(w.running)
	w.draining = true
	if n == 0 {
		close(w.idle)
	}
	w.mu.Unlock()
	if n > 0 {
		w.logger.Info("draining", "running", n, "timeout", w.config.ShutdownTimeout.String())
	}
	deadline := time.NewTimer(w.config.ShutdownTimeout)
	defer deadline.Stop()
	select {
	case <-w.idle:
		return
	case <-deadline.C:
	case <-w.cancelled:
	}
	cancelJobs(ErrShutdown)
	grace := time.NewTimer(w.config.CancelGrace)
	defer grace.Stop()
	select {
	case <-w.idle:
		return
	case <-grace.C:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for job, e := range w.running {
		e.cancel(nil)
		w.logger.Warn("a handler ignores its cancellation; its job is given back while it still runs",
			"job", job.ID, "name", job.Name)
		w.outcomes <- Outcome{Job: job, Kind: OutcomeReleased}
		delete(w.running, job)
	}
}

// settled logs an outcome and tells the observer.
func (w *Worker) settled(ctx context.Context, o Outcome) {
	w.hold(o.Job.token, -1)
	defer o.Job.held.release()
	w.signalFreed()
	attrs := func(more ...any) []any {
		return append([]any{"job", o.Job.ID, "name", o.Job.Name, "attempt", o.Job.Attempts}, more...)
	}
	switch o.Kind {
	case OutcomeDeadLetter:
		w.logger.Warn("job is a dead letter", attrs("reason", string(o.Verdict.Reason), "error", o.Verdict.Message)...)
	case OutcomeRetry:
		w.logger.Info("job failed, will retry", attrs(
			"max_attempts", o.Job.MaxAttempts, "in", o.Delay.Round(time.Millisecond).String(), "error", o.Verdict.Message)...)
	case OutcomeReleased:
		w.logger.Info("job given back", attrs()...)
	case OutcomeCancelled:
		w.logger.Info("job cancelled", attrs("error", o.Verdict.Message)...)
	default:
		// Asked first: what is made for the log would cost more than the job.
		if w.logger.Enabled(ctx, slog.LevelDebug) {
			w.logger.Debug("job settled", attrs("outcome", string(o.Kind))...)
		}
	}
	if w.config.Observer == nil {
		return
	}
	w.telling.Lock()
	defer w.telling.Unlock()
	defer func() {
		if r := recover(); r != nil {
			w.logger.Error("the observer panicked", attrs("panic", r)...)
		}
	}()
	w.config.Observer.Settled(ctx, o)
}
