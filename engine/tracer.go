package engine

import (
	"context"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/google/uuid"

	"soniq/internal/maintenance"
)

// Tracer is called when an attempt of a job begins and ends: for metrics, traces, logs. It
// may also implement any of the other interfaces of this file, and [Observer]. What follows
// enqueues is an [EnqueueTracer].
//
// Its methods are called by many goroutines at once, and must not block: jobs wait for
// them. A panic in one is logged.
type Tracer interface {
	// TraceAttemptStart is called before anything else is done with a claimed job, in the
	// goroutine of its handler. The context that it returns, which must come from ctx, is
	// the handler's, and goes to TraceAttemptEnd. The job is the worker's own: do not
	// change it.
	TraceAttemptStart(ctx context.Context, job *Job) context.Context
	// TraceAttemptEnd is called when the handler has returned, panicked, or ended its
	// goroutine. The outcome is not written yet, and may be lost; Settled of an Observer
	// has what was written. An abandoned handler ends late, and its outcome is not used.
	TraceAttemptEnd(ctx context.Context, outcome Outcome)
}

// ContextTracer is a [Tracer] that knows the trace context of what it has begun: of a span.
// TraceContext gets a context that TraceAttemptStart has returned. What it returns goes to
// commands and endpoints that run the job, to [TraceContextFrom], and into the log as
// trace_id. The first ContextTracer that knows one decides; without any it is the job's own.
type ContextTracer interface {
	TraceContext(ctx context.Context) TraceContext
}

// AbandonTracer is a [Tracer] that follows handlers which go on after their attempt was
// settled. TraceAttemptAbandon is called with what was decided, before it is written; the
// context is that of TraceAttemptStart. TraceAttemptEnd follows if the handler ever returns.
type AbandonTracer interface {
	TraceAttemptAbandon(ctx context.Context, outcome Outcome)
}

// ClaimTracer is a [Tracer] that follows claims. TraceClaim is called after each.
type ClaimTracer interface {
	TraceClaim(ctx context.Context, claim ClaimTrace)
}

// ClaimTrace is what came of one claim.
type ClaimTrace struct {
	// Asked is how many jobs the claim was for, and Jobs how many it brought.
	Asked, Jobs int
	Duration    time.Duration
	// Err is the error of the database. It may have committed the claim all the same.
	Err error
}

// WriteTracer is a [Tracer] that follows the statements that write outcomes. TraceWrite is
// called after each, also when it is tried again.
type WriteTracer interface {
	TraceWrite(ctx context.Context, write WriteTrace)
}

// WriteTrace is what came of one statement that writes outcomes.
type WriteTrace struct {
	// Outcomes is how many it was to write.
	Outcomes int
	Duration time.Duration
	// Err is the error of the database. Nothing is lost by it: the outcomes are written
	// again.
	Err error
}

// RecoveryTracer is a [Tracer] that follows the recovery of jobs whose worker has died, or
// whose claim was never answered.
type RecoveryTracer interface {
	TraceRecovery(ctx context.Context, recovery RecoveryTrace)
}

// RecoveryTrace is a job that was recovered.
type RecoveryTrace struct {
	JobID uuid.UUID
	// JobName and Queue may be cut.
	JobName, Queue string
	// Outcome is what became of it. OutcomeRetry: it was queued again. OutcomeReleased: it
	// was too, without charging the attempt. OutcomeDeadLetter: it had no attempts left.
	// Empty: the outcome was written that its worker had left behind.
	Outcome OutcomeKind
	// TraceContext is the job's.
	TraceContext TraceContext
}

// WakeTracer is a [Tracer] that follows what wakes a worker which sleeps: a notification, or
// a job that has become due. TraceWake is called after the fetch that follows. jobs is how
// many it brought: 0 means that another worker was faster, or that there was nothing.
type WakeTracer interface {
	TraceWake(ctx context.Context, jobs int)
}

// ListenTracer is a [Tracer] that is told when it changes whether notifications arrive. If
// they don't, the worker polls.
type ListenTracer interface {
	TraceListening(healthy bool)
}

// tracers are those of a worker, by what they follow. A nil one has none.
type tracers struct {
	logger     *slog.Logger
	attempts   []Tracer
	contexts   []ContextTracer
	abandons   []AbandonTracer
	observers  []Observer
	claims     []ClaimTracer
	writes     []WriteTracer
	recoveries []RecoveryTracer
	wakes      []WakeTracer
	listens    []ListenTracer
}

func newTracers(c WorkerConfig, logger *slog.Logger) *tracers {
	t := &tracers{logger: logger, attempts: c.Tracers}
	if c.Observer != nil {
		t.observers = append(t.observers, c.Observer)
	}
	for _, tracer := range c.Tracers {
		t.observers = also(t.observers, tracer)
		t.contexts, t.abandons = also(t.contexts, tracer), also(t.abandons, tracer)
		t.claims, t.writes = also(t.claims, tracer), also(t.writes, tracer)
		t.recoveries, t.wakes, t.listens = also(t.recoveries, tracer), also(t.wakes, tracer), also(t.listens, tracer)
	}
	return t
}

// also adds a tracer that is a T.
func also[T any](all []T, tracer Tracer) []T {
	if t, ok := tracer.(T); ok {
		return append(all, t)
	}
	return all
}

// each calls do with each of them, and logs a panic.
func each[T any](logger *slog.Logger, all []T, do func(T)) {
	for _, one := range all {
		func() {
			defer logPanic(logger)
			do(one)
		}()
	}
}

func logPanic(logger *slog.Logger) {
	if r := recover(); r != nil {
		logger.Error("a tracer panicked", "panic", r, "stack", string(debug.Stack()))
	}
}

// start returns the context of an attempt that begins, and its trace context.
func (t *tracers) start(ctx context.Context, job *Job) (context.Context, TraceContext) {
	if t == nil || len(t.attempts) == 0 {
		return ctx, job.TraceContext
	}
	trace := job.TraceContext
	each(t.logger, t.attempts, func(one Tracer) {
		if traced := one.TraceAttemptStart(ctx, job); traced != nil {
			ctx = traced
		}
	})
	for i := len(t.contexts) - 1; i >= 0; i-- {
		func() {
			defer logPanic(t.logger)
			if known := t.contexts[i].TraceContext(ctx); !known.IsZero() {
				trace = known
			}
		}()
	}
	return ctx, trace
}

// end is called in the reverse order of start.
func (t *tracers) end(ctx context.Context, o Outcome) {
	if t == nil {
		return
	}
	for i := len(t.attempts) - 1; i >= 0; i-- {
		func() {
			defer logPanic(t.logger)
			t.attempts[i].TraceAttemptEnd(ctx, o)
		}()
	}
}

func (t *tracers) abandoned(ctx context.Context, o Outcome) {
	each(t.logger, t.abandons, func(one AbandonTracer) { one.TraceAttemptAbandon(ctx, o) })
}

// claimed, wrote and woken are nil if nobody follows.

func (t *tracers) claimed() func(ctx context.Context, asked, jobs int, took time.Duration, err error) {
	if len(t.claims) == 0 {
		return nil
	}
	return func(ctx context.Context, asked, jobs int, took time.Duration, err error) {
		each(t.logger, t.claims, func(one ClaimTracer) { one.TraceClaim(ctx, ClaimTrace{asked, jobs, took, err}) })
	}
}

func (t *tracers) wrote() func(ctx context.Context, outcomes int, took time.Duration, err error) {
	if len(t.writes) == 0 {
		return nil
	}
	return func(ctx context.Context, outcomes int, took time.Duration, err error) {
		each(t.logger, t.writes, func(one WriteTracer) { one.TraceWrite(ctx, WriteTrace{outcomes, took, err}) })
	}
}

func (t *tracers) woken(ctx context.Context, jobs int) {
	each(t.logger, t.wakes, func(one WakeTracer) { one.TraceWake(ctx, jobs) })
}

func (t *tracers) recovered(ctx context.Context, r maintenance.Recovered) {
	each(t.logger, t.recoveries, func(one RecoveryTracer) {
		one.TraceRecovery(ctx, RecoveryTrace{JobID: r.ID, JobName: r.Name, Queue: r.Queue, Outcome: OutcomeKind(r.Kind), TraceContext: r.TraceContext})
	})
}

func (t *tracers) listening(healthy bool) {
	each(t.logger, t.listens, func(one ListenTracer) { one.TraceListening(healthy) })
}
