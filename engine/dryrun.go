package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// DryRun runs one attempt of a job by its handler as a worker would, without a
// database, and says what would become of it: nothing is claimed and nothing
// is written. Args must be a JSON object that could be enqueued, else the
// error is an [*ArgumentError]; so it is for a name that isn't registered.
//
// The job is one that was enqueued with the defaults of its handler, at the
// attempt of this number; 1 is the first. It is in the outcome, with its
// result. timeout bounds the attempt where the handler doesn't; 0 is none. Of
// classifiers, those of ClassifyBy are asked: the others are a worker's.
func (r *Registry) DryRun(ctx context.Context, name string, args any, attempt int, timeout time.Duration) (Outcome, error) {
	h, ok := r.handlers[name]
	if !ok {
		return Outcome{}, &ArgumentError{"job name", "has no handler: " + name}
	}
	raw, err := encodeArgs(args, defaultMaxArgsBytes)
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
	e := &execution{job: job, handler: h, handle: run, timeout: timeout, classifiers: h.classifiers}
	if h.timeout != 0 {
		e.timeout = h.timeout
	}
	outcome := make(chan Outcome, 1)
	// A handler may end its goroutine, which must not be the caller's.
	go e.run(ctx, func(o Outcome) { outcome <- o })
	o := <-outcome
	o.Job.Result = o.result
	return o, nil
}
