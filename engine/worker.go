package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq"
	"soniq/deadletter"
	"soniq/internal/claim"
	"soniq/internal/fetch"
	"soniq/internal/health"
	"soniq/internal/hub"
	"soniq/internal/incarnation"
	"soniq/internal/jobargs"
	"soniq/internal/liveness"
	"soniq/internal/maintenance"
	"soniq/internal/pg"
	"soniq/internal/rollup"
	"soniq/internal/tables"
	"soniq/internal/waiters"
	"soniq/notify"
)

// Worker claims the due jobs of its queues whose names are registered and runs
// them. It sleeps until PostgreSQL wakes it or the next job is due.
//
// It only wires its parts; the package comment draws them.
type Worker struct {
	id       uuid.UUID
	pool     *pg.Pool
	registry *Registry
	config   WorkerConfig
	logger   *slog.Logger
	tables   *tables.Monitor
	queues   []string
	// handlers are the registry's, with its middleware around them.
	handlers map[string]HandlerFunc

	tracers     *tracers
	recorder    *rollup.Recorder
	inflight    *inflight
	fetcher     *fetch.Fetcher[*Job]
	loader      *jobargs.Loader
	completer   *completer
	cancels     *cancelWatch
	liveness    liveness.Parts
	clock       pg.Clock
	maintenance *maintenance.Maintenance
	health      health.State

	started    atomic.Bool
	cancelOnce sync.Once
	cancelled  chan struct{}
	// stopping is closed when Run's context has ended.
	stopping chan struct{}
	// tail is stopTail, but for tests.
	tail time.Duration
}

// NewWorker checks registry and config and returns a worker on pool. The caller
// closes the pool. A worker uses few connections of the pool at once, whatever its
// concurrency, and one of its own to listen on.
//
// Errors: one that says what is missing or wrong, with the config's field.
func NewWorker(pool *pgxpool.Pool, registry *Registry, config WorkerConfig) (*Worker, error) {
	w, err := newWorker(pool, registry, config)
	if err != nil {
		return nil, fmt.Errorf("new worker: %w", err)
	}
	return w, nil
}

func newWorker(pool *pgxpool.Pool, registry *Registry, config WorkerConfig) (*Worker, error) {
	if pool == nil {
		return nil, errors.New("pool is nil")
	}
	if registry == nil || len(registry.handlers) == 0 && registry.Err() == nil {
		return nil, errors.New("no handlers are registered")
	}
	if err := registry.Err(); err != nil {
		return nil, err
	}
	if err := config.validate(); err != nil {
		return nil, err
	}
	schema, err := pg.NewSchema(config.Schema)
	if err != nil {
		return nil, fmt.Errorf("config: Schema: %w", err)
	}
	config = config.withDefaults()
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("make id: %w", err)
	}
	w := &Worker{
		id:        id,
		pool:      schema.Pool(pool),
		registry:  registry,
		config:    config,
		tables:    tables.NewMonitor(pool, config.Schema, config.Logger.With("worker", id.String())),
		handlers:  map[string]HandlerFunc{},
		cancelled: make(chan struct{}),
		stopping:  make(chan struct{}),
		health:    health.State{Schema: newestMigration()},
		tail:      stopTail,
		// A queue named twice would be walked twice by each claim.
		queues: slices.Compact(slices.Sorted(slices.Values(config.Queues))),
	}
	w.logger, w.health.Missing = w.tables.Logger(), w.tables.Missing
	w.pool.SetLogger(w.logger)
	w.tracers = newTracers(config, w.logger)
	w.recorder = rollup.NewRecorder(w.pool, w.logger)
	w.tracers.observers = append(w.tracers.observers, recorded{w.recorder})
	if len(w.queues) == 0 {
		w.queues = registry.queues()
	}
	for name, h := range registry.handlers {
		if w.handlers[name], err = registry.wrap(h); err != nil {
			return nil, err
		}
	}
	for queue := range config.QueueConcurrency {
		if !slices.Contains(w.queues, queue) {
			return nil, fmt.Errorf("config: QueueConcurrency: queue %q is not served", queue)
		}
	}
	if err := w.wire(); err != nil {
		return nil, err
	}
	return w, nil
}

// wire makes the parts and tells each what it needs of the others.
func (w *Worker) wire() error {
	c := w.config
	w.wireCompleter()
	limits := claim.NewLimits(c.Concurrency, w.queues, w.registry.Names(), c.QueueConcurrency, w.registry.concurrencies())
	w.inflight = newInflight(w.logger, c.Concurrency, limits, w.completer.outcomes)
	w.loader = jobargs.New(w.pool, c.MaxArgsBytes, c.MaxArgsMemory)
	w.cancels = &cancelWatch{
		Wakeups: notify.NewWakeups(), pool: w.pool, worker: w.id, logger: w.logger, inflight: w.inflight,
		grace: c.CancelGrace, abandon: w.abandon,
	}
	w.fetcher = fetch.New(fetch.Config[*Job]{
		Logger: w.logger, Slots: w.inflight, Waiter: waiters.New(w.pool, w.id, w.logger, w.queues),
		Claimer: claim.New(w.pool, w.id, limits, w.registry.attemptLimits(), c.MaxAttemptsLimit,
			func(job *claim.Job, token int64) *Job { return claimedJob(job, &w.id, token) }),
		Scope: claim.Scope{Queues: w.queues, Names: w.registry.Names()}, SafetyPoll: c.SafetyPoll,
		Load: w.loadMiddle, Start: w.start, Heard: w.cancels.Set, Claimed: w.health.Claimed,
		Took: w.tracers.claimed(), Woken: w.tracers.woken,
	})

	letters, err := deadletter.NewQueue(w.pool.Raw(), deadletter.QueueConfig{Schema: w.pool.Schema().Name()})
	if err != nil {
		return err
	}
	clockBack := make(chan struct{}, 1)
	stepped := func(step time.Duration) {
		w.logger.Warn("the database's clock was set; what was put off to a time comes earlier or later by as much",
			"by", step.Round(time.Millisecond).String())
		signal(clockBack)
	}
	w.maintenance = maintenance.New(maintenance.Config{
		Pool: w.pool, Logger: w.logger, Worker: w.id, DeadLetters: letters,
		Queues: w.queues, Names: w.registry.Names(),
		AttemptLimits: w.registry.attemptLimits(), AttemptLimit: c.MaxAttemptsLimit, LongestTimeout: w.longestTimeout(), ResultTTL: c.ResultTTL,
		Tokens: w.inflight.tokens, Release: w.completer.release, Recovered: w.tracers.recovered, ClaimUncertain: w.fetcher.ClaimUncertain,
		Clock: &w.clock, Stepped: stepped, ClockBack: clockBack,
		Leads:        func() bool { return w.fetcher.Member.LeadsAlike() },
		UnknownGrace: c.UnknownGrace, WarnDead: c.WarnDead, WarnDeadAge: c.WarnDeadAge, Retention: c.Retention,
	})
	w.liveness = liveness.New(liveness.Config{
		Pool: w.pool, Logger: w.logger, Worker: w.id, Version: soniq.WorkerVersion,
		Queues: w.queues, Concurrency: c.Concurrency, Names: w.registry.Names(), ArgsTypes: w.registry.argsTypes(),
		Busy: w.inflight.busy, Registered: w.registered, Tried: w.health.Tried, Recover: w.maintenance.Recovery.OfWorker,
		Clock: &w.clock, Stepped: stepped, Crew: hub.CrewKey(w.queues, w.registry.Names()),
		Leads: func() bool { return w.fetcher.Member.Leads() },
		Saw:   func(peers []liveness.Peer) { w.fetcher.Member.Saw(peers) },
	})
	w.wireHub()
	return nil
}

// wireHub makes the worker's side of a hub.
func (w *Worker) wireHub() {
	w.fetcher.Member = hub.NewMember(hub.MemberConfig{
		Queues: w.queues, Names: w.registry.Names(), Alike: w.alike(), Session: w.liveness.Session, Control: w.cancels,
		Listened: w.fetcher.Waiter.Invalidate, OnHealth: w.listening, Busy: w.inflight.busy, WakeDetector: w.liveness.Watch.Wake,
	})
	w.cancels.wakeDetector = func() {
		if w.fetcher.Member.Leads() {
			w.liveness.Watch.Wake()
		}
	}
}

// alike is equal for workers that expire, move and warn as this one does.
func (w *Worker) alike() string {
	c := w.config
	return fmt.Sprint(hub.CrewKey(w.queues, w.registry.Names()), c.UnknownGrace, c.WarnDead, c.WarnDeadAge)
}

// newestMigration is the version of the tables that this release was built for.
func newestMigration() string {
	all := soniq.Migrations()
	return all[len(all)-1].String()
}

// ID is the worker's id in soniq_workers.
func (w *Worker) ID() uuid.UUID { return w.id }

// Queues are the queues that the worker serves.
func (w *Worker) Queues() []string { return slices.Clone(w.queues) }

// Cancel ends a drain early: running jobs are cancelled at once and given back
// without charging the attempt. It has an effect only after Run's context has ended.
func (w *Worker) Cancel() { w.cancelOnce.Do(func() { close(w.cancelled) }) }

// Run works until ctx ends. Then it claims no more jobs, lets running ones go on for
// ShutdownTimeout, gives back the rest, writes all outcomes, and returns nil, all within
// [WorkerConfig.StopTimeout]. A worker runs once. While it runs, it waits for a database that is away.
//
// Errors: that the worker could not start, and that outcomes could not be written at
// the end.
func (w *Worker) Run(ctx context.Context) (err error) {
	if w.started.Swap(true) {
		return errors.New("run worker: it has run already")
	}
	defer func() { w.health.Ended(err) }()
	// Checked now: an outcome that can't be written because a column is missing would be
	// tried for ever.
	// As it was given: where none was, the check says which schema of the search_path has tables.
	schema := soniq.Config{Schema: w.config.Schema}
	err = w.checkGrants(ctx)
	if err == nil {
		err = soniq.Check(ctx, w.pool.Raw(), schema)
	}
	if err == nil {
		soniq.WarnOfFindings(ctx, w.pool.Raw(), schema, w.logger)
		err = w.liveness.Heartbeat.Register(ctx, w.pool, true)
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

// work runs the parts and stops them in order: fetching first, then the jobs, then
// the completer that writes their outcomes, then the heartbeat.
func (w *Worker) work(ctx context.Context) error {
	if err := w.join(ctx); err != nil {
		return err
	}
	// ctx ends the fetching; jobs, their outcomes and the heartbeat outlive it.
	background := context.WithoutCancel(ctx)
	stopServices := w.startServices(background)
	// Later it has jobs to wait for first.
	tail := func() time.Duration { return w.tail }
	defer func() { stopServices(tail()) }()
	defer context.AfterFunc(ctx, w.tellStopping)()

	jobsCtx, cancelJobs := context.WithCancelCause(background)
	defer cancelJobs(nil)

	beatCtx, stopBeating := context.WithCancel(background)
	defer stopBeating()
	var beating errgroup.Group
	beating.Go(func() error { return w.liveness.Heartbeat.Run(beatCtx) })
	beating.Go(func() error { return w.cancels.run(beatCtx) })
	beating.Go(func() error { return w.recorder.Run(beatCtx) })

	settleCtx, stopSettling := context.WithCancel(background)
	defer stopSettling()
	var settling errgroup.Group
	settling.Go(func() error { return w.completer.run(settleCtx) })

	awake, awakeCtx := errgroup.WithContext(ctx)
	awake.Go(func() error { return w.fetcher.Member.Run(awakeCtx) })
	awake.Go(func() error { return w.tables.Run(awakeCtx) })
	awake.Go(func() error { return w.maintenance.Run(awakeCtx) })
	awake.Go(func() error { return w.maintenance.RunClock(awakeCtx) })
	awake.Go(func() error { return w.maintenance.RunRetention(awakeCtx) })
	awake.Go(func() error { return w.maintenance.RunPruning(awakeCtx) })
	awake.Go(func() error { return w.liveness.Watch.Run(awakeCtx) })
	awake.Go(func() error { return incarnation.NewGuard(w.pool, w.logger).Run(awakeCtx) })
	awake.Go(func() error { return w.fetcher.Run(awakeCtx, jobsCtx) })
	err := awake.Wait()

	began := time.Now()
	if w.inflight.busy() {
		// Producers need not wait for a drain. Without one, Unregister withdraws.
		beating.Go(func() error { w.fetcher.Waiter.WithdrawAll(background); return nil })
	}
	w.traceGivenBack(w.inflight.drain(cancelJobs, w.config.ShutdownTimeout, w.config.CancelGrace, w.cancelled))
	// All outcomes are there now. Handlers that never returned can't add any.
	w.completer.outcomes.close()
	drained := time.Now()
	tail = func() time.Duration { return w.tail - time.Since(drained) }
	// The database may be away for good: don't wait for it for ever. What the jobs have
	// left of their time is for their outcomes.
	unused := plus(w.config.ShutdownTimeout, w.config.CancelGrace) - drained.Sub(began)
	giveUp := time.AfterFunc(plus(max(unused, 0), minSettling), stopSettling)
	defer giveUp.Stop()
	err = errors.Join(err, settling.Wait())
	stopBeating()
	err = errors.Join(err, beating.Wait())
	w.liveness.Heartbeat.Unregister(background)
	return err
}

const (
	// minSettling is the minimum time to flush outcomes at shutdown. A short
	// ShutdownTimeout is about handlers, not about a busy database. A job that is not
	// given back is charged, and waits until its worker is found dead.
	minSettling = 4 * time.Second
	// stopTail is how long a worker takes to stop once its jobs have ended: to flush
	// outcomes, to unregister, and to wait for its services. Dispatchers of hooks need
	// 3 s at most to send, and 2 s to end a command.
	stopTail = 6 * time.Second
)

// join makes the worker a member of its hub, which other workers of the process share. One
// with services of its own shares with nobody: they may want more channels.
func (w *Worker) join(ctx context.Context) error {
	schema := w.pool.Schema()
	key := hub.Key{Pool: w.pool.Raw(), Listen: w.config.ListenConfig, Schema: schema.Name()}
	channels := map[string]notify.Handler{}
	for _, s := range w.config.Services {
		key.Alone = w
		maps.Copy(channels, s.Channels())
	}
	return hub.Join(ctx, hub.Config{Key: key, Pool: w.pool, Logger: w.logger, Channels: channels}, w.fetcher.Member)
}

// A hearer wants to know whether notifications arrive.
type hearer interface{ Listening(healthy bool) }

// listening tells the parts whether notifications arrive.
func (w *Worker) listening(healthy bool) {
	w.health.Listening(healthy)
	w.fetcher.Listening(healthy)
	w.tracers.listening(healthy)
	for _, s := range w.config.Services {
		if h, ok := s.(hearer); ok {
			h.Listening(healthy)
		}
	}
}

// registered follows each write of the worker's row.
func (w *Worker) registered(incarnation int64) {
	w.health.Beat()
	w.fetcher.Registered(incarnation)
}

// plus adds two durations that aren't negative; the longest stands for 'never'.
func plus(a, b time.Duration) time.Duration {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// longestTimeout is the longest timeout of a job here; 0 if none has one.
func (w *Worker) longestTimeout() time.Duration {
	longest := max(w.config.JobTimeout, 0)
	for _, h := range w.registry.handlers {
		longest = max(longest, h.timeout)
	}
	return longest
}

// start runs jobs at once. There is a goroutine for each, which takes the job that has
// waited longest, and then others while some wait: a short job leaves its goroutine,
// and the stack that has grown, to the next.
func (w *Worker) start(ctx context.Context, jobs []*Job) {
	started := make([]*execution, len(jobs))
	for i, job := range jobs {
		started[i] = w.execution(ctx, job)
	}
	w.inflight.start(started)
	waiting := &backlog{jobs: started}
	for range started {
		go waiting.run(w.inflight.finish)
	}
}

func (w *Worker) execution(ctx context.Context, job *Job) *execution {
	e := &execution{
		job: job, handler: w.registry.handlers[job.Name], handle: w.handlers[job.Name], loader: w.loader, log: w.logger,
		timeout: w.config.JobTimeout, classifiers: w.config.Classifiers,
		worker: w.id, schema: w.pool.Schema(), ttl: w.config.ResultTTL, overdue: w.abandon, grace: w.config.CancelGrace,
		stopping: w.stopping, tracers: w.tracers,
	}
	if e.handler.timeout != 0 {
		e.timeout = e.handler.timeout
	}
	if e.handler.ownClassifiers {
		e.classifiers = e.handler.classifiers
	}
	e.ctx, e.cancel = context.WithCancelCause(ctx)
	return e
}

// backlog is what one claim brought and is not running yet.
type backlog struct {
	mu   sync.Mutex
	jobs []*execution
}

// run runs jobs until none waits. A handler may end the goroutine. There are as many
// goroutines as jobs, so each job finds one.
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
