package engine

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
)

// DryRun runs one attempt of a job as a worker would, with its handler and middleware
// but without a database, and returns the outcome that would be written. Outcome.Job
// is the job, with its result.
//
// The job has the defaults of its handler, and args as [Client.Enqueue] takes them, up
// to 1 GiB, the most that a worker may be configured to load. attempt is the number of the attempt, from 1 to the job's max attempts.
// timeout limits the attempt if the handler has no [Timeout]; 0 means no limit.
// The classifiers of [ClassifyBy] apply; those of a worker's configuration are not
// known here.
//
// Errors: an [*ArgumentError] for a name without a handler, for args that could not
// be enqueued, and for an attempt out of range; one of a middleware that returned nil
// or panicked when it was called for the handler.
func (r *Registry) DryRun(ctx context.Context, name string, args any, attempt int, timeout time.Duration) (Outcome, error) {
	h, ok := r.handlers[name]
	if !ok {
		return Outcome{}, &ArgumentError{"job name", "has no handler: " + name}
	}
	raw, err := encodeArgs(args, maxWorkerArgsBytes)
	if err != nil {
		return Outcome{}, err
	}
	now := time.Now().UTC()
	job := &Job{
		ID: uuid.Must(uuid.NewV7()), Name: name, Args: raw, Queue: defaultQueue, Priority: defaultPriority,
		Status: StatusProcessing, Attempts: attempt, MaxAttempts: defaultMaxAttempts, CreatedAt: now, UpdatedAt: now,
	}
	if h.queue != nil {
		job.Queue = *h.queue
	}
	for _, limit := range []*int{h.maxAttempts, h.attemptLimit} {
		if limit != nil {
			job.MaxAttempts = *limit
		}
	}
	if attempt < 1 || attempt > job.MaxAttempts {
		return Outcome{}, &ArgumentError{"attempt", fmt.Sprintf("must be from 1 to %d, not %d", job.MaxAttempts, attempt)}
	}
	run, err := r.wrap(h)
	if err != nil {
		return Outcome{}, err
	}
	e := &execution{
		job: job, handler: h, handle: run, timeout: timeout, classifiers: h.classifiers,
		// What it would say is in the result.
		log: slog.New(slog.DiscardHandler),
	}
	if h.timeout != 0 {
		e.timeout = h.timeout
	}
	outcome := make(chan Outcome, 1)
	// A handler may end its goroutine: it must not be the caller's.
	go e.run(ctx, func(o Outcome) { outcome <- o })
	o := <-outcome
	o.Job.Result = o.result
	return o, nil
}
