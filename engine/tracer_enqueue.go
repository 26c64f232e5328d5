package engine

import (
	"context"
	"log/slog"

	"github.com/google/uuid"

	"soniq/internal/pg"
)

// EnqueueTracer is called before and after jobs are inserted by a [Client]: for metrics,
// traces, logs. It may be a [Tracer] as well. Its methods are called by many goroutines at
// once, and must not block. A panic in one is logged.
type EnqueueTracer interface {
	// TraceEnqueueStart is called when the jobs have passed all checks. The context that it
	// returns, which must come from ctx, is that of the statements, and goes to
	// TraceEnqueueEnd.
	TraceEnqueueStart(ctx context.Context, enqueue *EnqueueTrace) context.Context
	// TraceEnqueueEnd is called when the jobs are inserted or the insert has failed. In a
	// caller's transaction they may still be rolled back.
	TraceEnqueueEnd(ctx context.Context, enqueue *EnqueueTrace)
}

// EnqueueTrace is one call that enqueues: one job, or several of which all are inserted or
// none.
type EnqueueTrace struct {
	Jobs []EnqueuedJob
	// Err is the error of the database, at the end.
	Err error
}

// EnqueuedJob is a job of an [EnqueueTrace].
type EnqueuedJob struct {
	ID          uuid.UUID
	Name, Queue string
	// TraceContext is stored with the job. TraceEnqueueStart may set it where it is none;
	// else the caller has said what it is (see [InTrace]).
	TraceContext TraceContext
	// Duplicate is set at the end: nothing was inserted, and ID is the job that was queued
	// already.
	Duplicate bool
}

// insert inserts rows, and calls the tracers.
func (c *Client) insert(ctx context.Context, db pg.Querier, rows []*insert) ([]Enqueued, error) {
	if len(c.config.Tracers) > 0 && len(rows) > 0 {
		return c.insertTraced(ctx, db, rows)
	}
	inherit(ctx, rows)
	return enqueueAll(ctx, db, rows)
}

// inherit gives rows that are in no trace that of the handler which enqueues them.
func inherit(ctx context.Context, rows []*insert) {
	trace := TraceContextFrom(ctx)
	if trace.IsZero() {
		return
	}
	for _, in := range rows {
		if in.trace.IsZero() {
			in.trace = trace
		}
	}
}

func (c *Client) insertTraced(ctx context.Context, db pg.Querier, rows []*insert) (done []Enqueued, err error) {
	trace := &EnqueueTrace{Jobs: make([]EnqueuedJob, len(rows))}
	for i, in := range rows {
		trace.Jobs[i] = EnqueuedJob{ID: in.id, Name: in.name, Queue: *in.queue, TraceContext: in.trace}
	}
	logger := slog.Default()
	each(logger, c.config.Tracers, func(one EnqueueTracer) {
		if traced := one.TraceEnqueueStart(ctx, trace); traced != nil {
			ctx = traced
		}
	})
	for i, in := range rows {
		in.trace = trace.Jobs[i].TraceContext
	}
	inherit(ctx, rows)
	defer func() {
		trace.Err = err
		for i := range done {
			trace.Jobs[i].ID, trace.Jobs[i].Duplicate = done[i].ID, done[i].Duplicate
		}
		for i := len(c.config.Tracers) - 1; i >= 0; i-- {
			func() {
				defer logPanic(logger)
				c.config.Tracers[i].TraceEnqueueEnd(ctx, trace)
			}()
		}
	}()
	return enqueueAll(ctx, db, rows)
}
