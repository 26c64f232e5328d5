package engine

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/redact"
	"soniq/notify"
)

// WorkerConfig configures a [Worker]. Its zero value works.
type WorkerConfig struct {
	// Schema is the schema of Soniq's tables, spelled as the catalog has it: case
	// counts. The role's search_path doesn't matter. Default "public".
	Schema string
	// Queues are the queues to serve. Default: 'default' and the queues of
	// the registered handlers.
	Queues []string
	// Concurrency is how many jobs run at once. Default 10.
	Concurrency int
	// QueueConcurrency bounds how many jobs of a queue this worker runs at
	// once, beside its own bound and those of the handlers. Each queue must be
	// served. Default none.
	QueueConcurrency map[string]int
	// JobTimeout is after how long the context of an attempt ends whose
	// handler doesn't set its own Timeout. Negative is never. Default 5 min,
	// as Python Soniq's.
	JobTimeout time.Duration
	// MaxArgsBytes bounds the arguments of a job, as JSON text. One with more is
	// not loaded: it becomes a dead letter (invalid_arguments). Default 16 MiB;
	// a client refuses what is over 1 MiB, unless its own limit is higher.
	MaxArgsBytes int
	// MaxArgsMemory bounds, in bytes, the arguments that the worker holds at once,
	// of the jobs that it runs: one that finds no room waits until another has
	// ended. Those up to 16 KiB are not counted, nor is what handlers make of
	// them. At least MaxArgsBytes. Default 256 MiB, or MaxArgsBytes if that is
	// more.
	MaxArgsMemory int64
	// MaxAttemptsLimit bounds how often a job is tried, whatever its row says. A
	// handler's own AttemptLimit stands above it. Negative is no limit. Default
	// 1,000.
	MaxAttemptsLimit int
	// ResultTTL is how long a done job's row, with its result, is kept.
	// Negative deletes it at once. Default 5 min, as Python Soniq's.
	ResultTTL time.Duration
	// ShutdownTimeout is how long running jobs may go on once Run's context
	// has ended; then they are cancelled and given back. Default 30 s.
	ShutdownTimeout time.Duration
	// CancelGrace is how long a handler has to return once its context has
	// ended: by its timeout, by request, or at shutdown. The job of one that
	// doesn't is settled all the same (timed out, cancelled, or given back),
	// its slot goes to another job, and its goroutine is left to itself: Go
	// can't stop it. Default 5 s.
	CancelGrace time.Duration
	// UnknownGrace is how long a due job whose name nobody has registered
	// waits before it becomes a dead letter (job_not_found). Negative never
	// does that. Default 5 min.
	UnknownGrace time.Duration
	// WarnDead is how many dead letters, in the state dead, make one worker of
	// the fleet log a warning; it warns again once they were a tenth fewer.
	// Looked at each minute. Negative never warns. Default 1,000.
	WarnDead int
	// WarnDeadAge is the same for the oldest of them: how long ago it may have
	// died. Default none.
	WarnDeadAge time.Duration
	// Classifiers judge what the handlers return, in their order, where neither
	// a marker (see Permanent) nor the job's own rule (PermanentIf) decides:
	// classify.HTTP(), GRPC(), Postgres(), or your own. Default none: each
	// error is tried again.
	Classifiers []classify.Classifier
	// Retention says how long dead letters are kept. One worker of the fleet
	// deletes what no longer is, in small batches; see deadletter.Queue.Retain.
	// Workers should have the same rules. Default none: they are kept for ever.
	Retention []deadletter.Retention
	// SafetyPoll is how often a worker looks for jobs though nobody woke it,
	// give or take a fifth. At most 8 min: an insert that is due in 10 min or
	// more wakes nobody. Default 30 s.
	SafetyPoll time.Duration
	// ListenConfig is the connection to LISTEN on, for people whose pool goes
	// through a pooler in transaction mode. It must lead to the same database.
	// Where notifications don't arrive, the worker warns once and looks for jobs
	// each second until they do. Others notice in seconds that it ended with the
	// process, unless there is a pooler here too. Default: that of the pool.
	ListenConfig *pgx.ConnConfig
	// Logger takes what an operator should know. What it is told has no secrets
	// in it, as [deadletter.RedactText] knows them. Default [slog.Default].
	Logger *slog.Logger
	// Observer is told the outcome of each attempt. Default none.
	Observer Observer
	// Services run beside the jobs, on the connection of the worker's listener: the
	// dispatcher of hooks, for instance. Default none.
	Services []BackgroundService
}

// BackgroundService runs beside a worker's jobs. It is started before the first job is
// claimed, and stopped after the outcomes of the last one were written. If it ends
// early, even by an error or a panic, that is logged, and the worker goes on.
type BackgroundService interface {
	// Channels are the notifications that it receives. The worker's own channels are
	// not allowed.
	Channels() map[string]notify.Handler
	// Run returns nil soon after ctx has ended.
	Run(ctx context.Context) error
}

// Observer is told what becomes of each attempt, once that has been written to
// the database. It is called from one goroutine at a time, which writes
// outcomes: it must not block. A panic in it is logged.
type Observer interface {
	Settled(ctx context.Context, outcome Outcome)
}

// maxSafetyPoll and a fifth is less than the 10 min for which the INSERT trigger
// relies on the poll.
const maxSafetyPoll = 8 * time.Minute

// maxConcurrency bounds Concurrency.
const maxConcurrency = 10_000

// What a worker takes on, unless its configuration says otherwise.
const (
	defaultWorkerArgsBytes  = 16 << 20
	defaultWorkerArgsMemory = 256 << 20
	defaultAttemptsLimit    = 1000
)

func (c WorkerConfig) withDefaults() WorkerConfig {
	c.Concurrency = cmp.Or(c.Concurrency, 10)
	c.JobTimeout = cmp.Or(c.JobTimeout, 5*time.Minute)
	c.ResultTTL = max(cmp.Or(c.ResultTTL, 5*time.Minute), 0)
	c.ShutdownTimeout = cmp.Or(c.ShutdownTimeout, 30*time.Second)
	c.CancelGrace = cmp.Or(c.CancelGrace, 5*time.Second)
	c.UnknownGrace = cmp.Or(c.UnknownGrace, 5*time.Minute)
	c.WarnDead = cmp.Or(c.WarnDead, 1000)
	c.SafetyPoll = cmp.Or(c.SafetyPoll, 30*time.Second)
	c.MaxArgsBytes = cmp.Or(c.MaxArgsBytes, defaultWorkerArgsBytes)
	c.MaxArgsMemory = cmp.Or(c.MaxArgsMemory, max(defaultWorkerArgsMemory, int64(c.MaxArgsBytes)))
	if c.MaxAttemptsLimit = cmp.Or(c.MaxAttemptsLimit, defaultAttemptsLimit); c.MaxAttemptsLimit < 0 {
		c.MaxAttemptsLimit = math.MaxInt32
	}
	c.Logger = redact.Logger(cmp.Or(c.Logger, slog.Default()))
	return c
}

func (c WorkerConfig) validate() error {
	if c.Concurrency < 0 || c.Concurrency > maxConcurrency {
		return fmt.Errorf("config: Concurrency must be from 1 to %d, not %d", maxConcurrency, c.Concurrency)
	}
	// What PostgreSQL makes of a jsonb is shorter than 1 GiB.
	if c.MaxArgsBytes < 0 || c.MaxArgsBytes > 1<<30 {
		return fmt.Errorf("config: MaxArgsBytes must be from 1 to %d, not %d", 1<<30, c.MaxArgsBytes)
	}
	if least := cmp.Or(c.MaxArgsBytes, defaultWorkerArgsBytes); c.MaxArgsMemory != 0 && c.MaxArgsMemory < int64(least) {
		return fmt.Errorf("config: MaxArgsMemory must be at least MaxArgsBytes, which is %d, not %d", least, c.MaxArgsMemory)
	}
	if c.MaxAttemptsLimit > math.MaxInt32 {
		return fmt.Errorf("config: MaxAttemptsLimit must be at most %d, not %d", math.MaxInt32, c.MaxAttemptsLimit)
	}
	for _, q := range c.Queues {
		if err := checkText("queue", q); err != nil {
			return fmt.Errorf("config: Queues: %w", err)
		}
	}
	for queue, n := range c.QueueConcurrency {
		if n < 1 {
			return fmt.Errorf("config: QueueConcurrency: queue %q: must be at least 1, not %d", queue, n)
		}
	}
	for name, d := range map[string]time.Duration{
		"ShutdownTimeout": c.ShutdownTimeout, "CancelGrace": c.CancelGrace, "SafetyPoll": c.SafetyPoll,
		"WarnDeadAge": c.WarnDeadAge,
	} {
		if d < 0 {
			return fmt.Errorf("config: %s must not be negative, not %s", name, d)
		}
	}
	for i, classifier := range c.Classifiers {
		if err := classifier.Validate(); err != nil {
			return fmt.Errorf("config: Classifiers: number %d: %w", i+1, err)
		}
	}
	if err := deadletter.ValidateRetention(c.Retention); err != nil {
		return fmt.Errorf("config: Retention: %w", err)
	}
	if c.SafetyPoll > maxSafetyPoll {
		return fmt.Errorf("config: SafetyPoll must be at most %s, not %s", maxSafetyPoll, c.SafetyPoll)
	}
	return nil
}
