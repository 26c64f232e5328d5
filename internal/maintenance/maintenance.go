// Package maintenance does what keeps the tables in order and belongs to no single
// job. Each process runs all of it:
//
//	Recovery   jobs whose worker is dead, or that nobody runs    (recovery.go)
//	expiry     rows of done and cancelled jobs                   (expiry.go)
//	unknown    due jobs whose name no worker has registered      (unknown.go)
//	pruning    what workers leave behind, and the history        (prune.go)
//	retention  dead letters that are old enough to be deleted    (retention.go)
//	alarms     a warning when dead letters pile up               (alarm.go)
//	counting   dead letters, for the charts of the past          (package rollup)
//
// Recovery, expiry and unknown jobs need no leader: each process works row by row,
// skips what another holds, and finds little to do where another was faster. The
// others are periodic tasks with a leader for each turn (see pg.TakeTurn). Of the workers
// of a process that are alike, one expires, moves and warns for all.
package maintenance

import (
	"context"
	"log/slog"
	"math"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"soniq/deadletter"
	"soniq/internal/liveness"
	"soniq/internal/periodic"
	"soniq/internal/pg"
	"soniq/internal/rollup"
	"soniq/internal/settle"
	"soniq/internal/tracecontext"
)

// Config is what maintenance needs to know of its worker.
type Config struct {
	Pool   *pg.Pool
	Logger *slog.Logger
	Worker uuid.UUID
	// DeadLetters is the queue that alarms, retention and pruning work on.
	DeadLetters *deadletter.Queue
	// Queues are those that the worker serves, and Names the job names that it handles.
	Queues, Names []string
	// AttemptLimits are the handlers' own limits, by job name. AttemptLimit is that of
	// all other jobs.
	AttemptLimits map[string]int
	AttemptLimit  int
	// ResultTTL is how long the row of a done job is kept; 0 deletes it at once.
	ResultTTL time.Duration
	// LongestTimeout is the longest timeout of an attempt; 0 if none has one.
	LongestTimeout time.Duration
	// Tokens returns the live tokens: those of the claims whose outcome this worker may
	// still write. Never nil.
	Tokens func() []int64
	// Release queues jobs again without charging the attempt, and returns how many.
	Release func(ctx context.Context, claims []Claim) (released int, err error)
	// Recovered is called with each job that was recovered. Nil is nobody.
	Recovered func(context.Context, Recovered)
	// Leads reports whether this worker is the one of its process that expires results, moves unknown
	// jobs and raises alarms, as all that are alike would. Default: it is.
	Leads func() bool
	// ClaimUncertain can be received from when the database may have committed a claim
	// whose answer was lost.
	ClaimUncertain <-chan struct{}

	// Clock watches the database's. Stepped is called when it was set, with by how much.
	Clock   *pg.Clock
	Stepped func(step time.Duration)
	// ClockBack can be received from when it may have been set back.
	ClockBack <-chan struct{}

	// These are the worker's, with their defaults; see engine.WorkerConfig.
	UnknownGrace time.Duration
	WarnDead     int
	WarnDeadAge  time.Duration
	Retention    []deadletter.Retention
}

// Recovered is a recovered job, and what became of it; no Kind means that the outcome was
// written that its worker had left.
type Recovered struct {
	ID          uuid.UUID
	Name, Queue string
	Kind        settle.Kind
	// TraceContext is the job's.
	TraceContext tracecontext.Context
}

// Claim is a job under a claim.
type Claim struct {
	ID          uuid.UUID
	Name, Queue string
	Attempts    int
	Token       int64
	// TraceContext is the job's.
	TraceContext tracecontext.Context
}

// Maintenance runs the tasks of one worker.
type Maintenance struct {
	// Recovery is for Liveness too, which finds the dead.
	Recovery *Recovery

	config  Config
	expiry  expiry
	unknown unknown
}

// New returns the maintenance of a worker.
func New(config Config) *Maintenance {
	return &Maintenance{
		Recovery: &Recovery{config: config},
		config:   config,
		expiry:   expiry{pool: config.Pool, logger: config.Logger},
		unknown:  unknown{config: config},
	}
}

const (
	expireInterval = time.Minute
	orphanInterval = time.Minute
	// Of all workers one does it each time; the others only ask.
	countInterval, pruneCountsInterval = time.Minute, 15 * time.Minute
	// clockInterval is long: what sees a step hurries the task. clockTurn keeps many
	// workers that see the same one from looking all at once.
	clockInterval = 24 * time.Hour
	clockTurn     = 5 * time.Second
	// passTimeout limits one run of a task. passPatience is when a task with many
	// batches leaves the rest to its next run.
	passTimeout  = 30 * time.Second
	passPatience = 20 * time.Second
	// registryWindow is how long a registered job name is remembered at the least:
	// three refreshes.
	registryWindow = 3 * liveness.NamesEvery * liveness.BeatInterval
)

// Run runs the tasks that are short until ctx ends, one after the other.
func (m *Maintenance) Run(ctx context.Context) error {
	c := m.config
	tasks := []*periodic.Task{
		{Name: "expire results", Every: expireInterval, Timeout: passTimeout, Do: m.forAll(m.Expire)},
		{
			Name: "recover jobs without a worker", Every: orphanInterval, Timeout: passTimeout,
			Do: m.Recovery.Orphans, Hurry: c.ClaimUncertain,
		},
	}
	if c.UnknownGrace > 0 {
		tasks = append(tasks, &periodic.Task{
			Name: "move unknown jobs",
			// Often enough that the grace means what it says.
			Every:   min(max(c.UnknownGrace/5, 250*time.Millisecond), time.Minute),
			Timeout: passTimeout, Do: m.forAll(m.MoveUnknown),
		})
	}
	if len(m.alarms()) > 0 {
		tasks = append(tasks, &periodic.Task{
			Name: "watch the dead letters", Every: alarmInterval, Timeout: passTimeout, Do: m.forAll(m.WatchDeadLetters),
		})
	}
	return periodic.Run(ctx, c.Logger, tasks...)
}

// forAll is a task that one of the workers that are alike does for all of its process.
func (m *Maintenance) forAll(do func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if m.config.Leads != nil && !m.config.Leads() {
			return nil
		}
		return do(ctx)
	}
}

// RunClock makes jobs due whose time a clock that was set back has put off, at the start
// and after each such step, until ctx ends.
func (m *Maintenance) RunClock(ctx context.Context) error {
	return periodic.Run(ctx, m.config.Logger, &periodic.Task{
		Name: "look for jobs from the future", Every: clockInterval, Timeout: passTimeout,
		Do: m.MakeDue, Hurry: m.config.ClockBack,
	})
}

// RunRetention deletes dead letters by the retention rules until ctx ends. It has a
// goroutine of its own: a first pass may take long, and no other task should wait
// for it.
func (m *Maintenance) RunRetention(ctx context.Context) error {
	if len(m.config.Retention) == 0 {
		return nil
	}
	return periodic.Run(ctx, m.config.Logger,
		&periodic.Task{Name: "clean up dead letters", Every: retentionCheck, Do: m.Retain})
}

// RunPruning deletes what is of no use any more, and keeps the counts for the charts of the past, until ctx ends.
// Both have a goroutine of their own: where there is much of it, a pass takes long.
func (m *Maintenance) RunPruning(ctx context.Context) error {
	var both errgroup.Group
	both.Go(func() error {
		return periodic.Run(ctx, m.config.Logger,
			&periodic.Task{Name: "delete old rows", Every: pruneInterval, Do: m.pruneInTurn})
	})
	both.Go(func() error { return m.runCounting(ctx) })
	return both.Wait()
}

// runCounting counts the dead letters for the charts of the past, and deletes counts that have served their time.
func (m *Maintenance) runCounting(ctx context.Context) error {
	return periodic.Run(ctx, m.config.Logger,
		&periodic.Task{
			Name: "count dead letters", Every: countInterval, Timeout: passTimeout,
			Do: func(ctx context.Context) error { return rollup.CountDeaths(ctx, m.config.Pool) },
		},
		&periodic.Task{
			Name: "delete old counts", Every: pruneCountsInterval, Timeout: passTimeout,
			Do: func(ctx context.Context) error { return rollup.Prune(ctx, m.config.Pool) },
		})
}

// Expire deletes the rows of done and cancelled jobs whose time has come, in batches.
func (m *Maintenance) Expire(ctx context.Context) error { return m.expiry.run(ctx) }

// MoveUnknown moves the jobs that nobody can run to the dead letters: all of them, as
// far as its time allows.
func (m *Maintenance) MoveUnknown(ctx context.Context) error { return m.unknown.run(ctx) }

// plus adds two durations that aren't negative; the longest stands for 'never'.
func plus(a, b time.Duration) time.Duration {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
