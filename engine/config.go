package engine

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
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
	// Queues are the queues to serve. Default: 'default' and the queues of the
	// registered handlers.
	Queues []string
	// Concurrency is how many jobs run at once. Default 10.
	Concurrency int
	// QueueConcurrency limits how many jobs of a queue this worker runs at once, in
	// addition to Concurrency and to the handlers' own limits. Each queue must be
	// served. Default none.
	QueueConcurrency map[string]int
	// JobTimeout limits one attempt; a handler's Timeout overrides it. Negative means
	// no limit. Default 5 min, as in Python Soniq.
	JobTimeout time.Duration
	// MaxArgsBytes limits the arguments of a job, in bytes of JSON text. A job with more
	// becomes a dead letter (invalid_arguments), and its arguments are not read. A client
	// refuses more than 1 MiB by default. Default 16 MiB.
	MaxArgsBytes int
	// MaxArgsMemory limits the arguments of all running jobs together, in bytes of JSON
	// text. A job for which there is no room waits until another has ended. Arguments up
	// to 16 KiB don't count, and neither does what handlers make of them. It must be at
	// least MaxArgsBytes. Default 256 MiB, or MaxArgsBytes if that is more.
	MaxArgsMemory int64
	// MaxAttemptsLimit limits the attempts of each job, whatever its row says. A
	// handler's AttemptLimit overrides it. Negative means no limit. Default 1,000.
	MaxAttemptsLimit int
	// ResultTTL is how long the row of a done job is kept, with its result. Negative
	// deletes it at once. Default 5 min, as in Python Soniq.
	ResultTTL time.Duration
	// ShutdownTimeout is how long running jobs may go on after Run's context has ended.
	// Then they are cancelled and given back. Default 15 s: as a whole a worker stops
	// within 30 s, which is what Kubernetes waits for; see [WorkerConfig.StopTimeout].
	ShutdownTimeout time.Duration
	// CancelGrace is how long a handler may go on after its context has ended, because
	// of its timeout, a cancellation or a shutdown. A handler that is still running then
	// is abandoned: its job is settled (timed out, cancelled or given back), another job
	// gets its slot, and its goroutine goes on, because Go can't stop it. Default 5 s.
	CancelGrace time.Duration
	// UnknownGrace is how long a due job waits for a worker that has registered its name.
	// Then it becomes a dead letter (job_not_found). Negative means never. Default 5 min.
	UnknownGrace time.Duration
	// WarnDead is the number of dead letters, in the state dead, at which one worker
	// logs a warning. It warns again after they were a tenth fewer. It is checked once a
	// minute. Negative means never. Default 1,000.
	WarnDead int
	// WarnDeadAge is the age of the oldest dead letter, in the state dead, at which one
	// worker logs a warning. Default never.
	WarnDeadAge time.Duration
	// Classifiers decide about the errors of handlers, in this order, if neither a marker
	// (see Permanent) nor the job's own rule (PermanentIf) does: classify.HTTP(),
	// GRPC(), Postgres(), or your own. Default none: each error is retried.
	Classifiers []classify.Classifier
	// Retention says how long dead letters are kept. One worker deletes the others, in
	// small batches; see deadletter.Queue.Retain. All workers should have the same rules.
	// Default none: dead letters are kept for ever.
	Retention []deadletter.Retention
	// SafetyPoll is how often a worker looks for jobs without a notification, plus or
	// minus a fifth. At most 8 min: an insert that is due in 10 min or more notifies
	// nobody. Default 30 s.
	SafetyPoll time.Duration
	// ListenConfig is the connection to LISTEN on, if the pool goes through a pooler in
	// transaction mode. It must lead to the same database. While notifications don't
	// arrive, the worker looks for jobs every second, and warns once. Through this
	// connection other workers notice a crash within seconds, unless a pooler is here
	// too. Default: that of the pool.
	ListenConfig *pgx.ConnConfig
	// Logger takes what an operator should know. Secrets are redacted, as
	// [deadletter.RedactText] knows them. Default [slog.Default].
	Logger *slog.Logger
	// Observer is called with the outcome of each attempt. Default none.
	Observer Observer
	// Tracers are called when attempts begin and end, and on what else they follow: see
	// [Tracer]. Their contexts are nested in this order. Default none.
	Tracers []Tracer
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
	// Run returns nil soon after ctx has ended: the worker waits for a few seconds. If
	// the service has a method Stopping(), that is called when the worker is told to
	// stop, before it waits for its jobs.
	Run(ctx context.Context) error
}

// Observer is called with the outcome of each attempt after it was written to the
// database. One goroutine at a time calls it, for each worker. It must not block: that
// goroutine writes outcomes. A panic in it is logged. If the database had refused the outcome for a while,
// the job may come without its Args.
type Observer interface {
	Settled(ctx context.Context, outcome Outcome)
}

// maxSafetyPoll plus a fifth is less than 10 min: for jobs that are due later, the
// INSERT trigger relies on the poll.
const maxSafetyPoll = 8 * time.Minute

// maxConcurrency limits Concurrency.
const maxConcurrency = 10_000

// Defaults and limits of [WorkerConfig].
const (
	defaultWorkerArgsBytes  = 16 << 20
	maxWorkerArgsBytes      = 1 << 30
	defaultWorkerArgsMemory = 256 << 20
	defaultAttemptsLimit    = 1000
)

func (c WorkerConfig) withDefaults() WorkerConfig {
	c.Concurrency = cmp.Or(c.Concurrency, 10)
	c.JobTimeout = cmp.Or(c.JobTimeout, 5*time.Minute)
	c.ResultTTL = max(cmp.Or(c.ResultTTL, 5*time.Minute), 0)
	c.ShutdownTimeout = cmp.Or(c.ShutdownTimeout, 15*time.Second)
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

// StopTimeout is the longest that Run takes to return after its context has ended:
// ShutdownTimeout, CancelGrace, and 6 s to write the outcomes and to stop the services.
// That is 26 s by default. What ends the process must wait longer.
func (c WorkerConfig) StopTimeout() time.Duration {
	c = c.withDefaults()
	return plus(plus(c.ShutdownTimeout, c.CancelGrace), stopTail)
}

func (c WorkerConfig) validate() error {
	if c.Concurrency < 0 || c.Concurrency > maxConcurrency {
		return fmt.Errorf("config: Concurrency must be from 1 to %d, not %d", maxConcurrency, c.Concurrency)
	}
	// What PostgreSQL makes of a jsonb is shorter than 1 GiB.
	if c.MaxArgsBytes < 0 || c.MaxArgsBytes > maxWorkerArgsBytes {
		return fmt.Errorf("config: MaxArgsBytes must be from 1 to %d, not %d", maxWorkerArgsBytes, c.MaxArgsBytes)
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
	if i := slices.Index(c.Tracers, nil); i >= 0 {
		return fmt.Errorf("config: Tracers: number %d is nil", i+1)
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
