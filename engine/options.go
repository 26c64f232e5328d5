package engine

import (
	"time"

	"soniq/deadletter/classify"
)

// HandleOption sets how the jobs of one name are run; see [Handle].
type HandleOption interface{ applyHandle(*handler) }

// EnqueueOption sets how one job is enqueued; see [Client.Enqueue].
type EnqueueOption interface{ applyEnqueue(*insert) }

// Option is for both [Handle] and [Client.Enqueue]. Given to a handler, it is the
// default for the jobs that a client with the same [Registry] enqueues.
type Option interface {
	HandleOption
	EnqueueOption
}

type handleOption func(*handler)

func (f handleOption) applyHandle(h *handler) { f(h) }

type enqueueOption func(*insert)

func (f enqueueOption) applyEnqueue(in *insert) { f(in) }

type queueOption string

func (o queueOption) applyHandle(h *handler)  { h.queue = new(string(o)) }
func (o queueOption) applyEnqueue(in *insert) { in.queue = new(string(o)) }

// Queue puts the job, or all jobs of a handler, into the named queue. An empty name
// is an error. Default "default".
func Queue(name string) Option { return queueOption(name) }

type maxAttemptsOption int

func (o maxAttemptsOption) applyHandle(h *handler)  { h.maxAttempts = new(int(o)) }
func (o maxAttemptsOption) applyEnqueue(in *insert) { in.maxAttempts = new(int(o)) }

// MaxAttempts limits how often the job is tried, the first attempt included. Less
// than 1 is an error. Default 4, which is Python Soniq's three retries.
func MaxAttempts(n int) Option { return maxAttemptsOption(n) }

// Timeout limits one attempt of a handler: when it has passed, the context of the
// attempt ends, with [ErrJobTimeout] as the cause. What the handler then returns
// within the worker's CancelGrace decides the outcome; otherwise the attempt times
// out. Negative means no limit. Default the worker's JobTimeout.
func Timeout(d time.Duration) HandleOption {
	return handleOption(func(h *handler) { h.timeout = d })
}

// Retry sets the delay between a handler's attempts. Default [Exponential]{}.
func Retry(policy RetryPolicy) HandleOption {
	return handleOption(func(h *handler) { h.retry = policy })
}

// Concurrency limits how many jobs of a handler the worker runs at once, in addition
// to the worker's own limit. Less than 1 is an error. Default none.
func Concurrency(n int) HandleOption {
	return handleOption(func(h *handler) { h.concurrency = &n })
}

// AttemptLimit overrides, in this worker, the max attempts that a job was enqueued
// with. Less than 1 is an error. Default the job's own.
func AttemptLimit(n int) HandleOption {
	return handleOption(func(h *handler) { h.attemptLimit = &n })
}

// AllowUnknownFields has a handler ignore fields of the arguments that its type hasn't.
// Default: the job is tried again later, as [Handle] describes.
func AllowUnknownFields() HandleOption {
	return handleOption(func(h *handler) { h.allowUnknown = true })
}

// PermanentIf makes an attempt's error permanent if rule returns true: the job
// becomes a dead letter at once. rule is called for errors that [Permanent] doesn't
// mark.
func PermanentIf(rule func(error) bool) HandleOption {
	return handleOption(func(h *handler) { h.permanent = rule })
}

// ClassifyBy replaces the worker's Classifiers for one handler. Without arguments it
// turns them off.
func ClassifyBy(classifiers ...classify.Classifier) HandleOption {
	return handleOption(func(h *handler) { h.classifiers, h.ownClassifiers = classifiers, true })
}

// Priority orders the due jobs of a queue: lower runs first. Default 100.
func Priority(n int) EnqueueOption {
	return enqueueOption(func(in *insert) { in.priority = n })
}

// At makes the job due at t. A time in the past means at once. A year before 1 or after
// 9999 is an error.
func At(t time.Time) EnqueueOption {
	return enqueueOption(func(in *insert) { in.at, in.delay = &t, nil })
}

// After makes the job due d after its insert, by the database's clock. Negative is an
// error.
func After(d time.Duration) EnqueueOption {
	return enqueueOption(func(in *insert) { in.at, in.delay = nil, &d })
}

// Unique enqueues nothing if a unique job with the same name and equal arguments is
// queued, and returns that job's id. A job that runs, or has ended, is no obstacle.
// Unique jobs of Python Soniq count too.
func Unique() EnqueueOption {
	return enqueueOption(func(in *insert) { in.unique = true })
}

// DedupKey enqueues nothing if a job with the same key is queued, whatever its name
// and queue, and returns that job's id. An empty key is an error.
func DedupKey(key string) EnqueueOption {
	return enqueueOption(func(in *insert) { in.dedupKey = &key })
}

// ProducerID names the program that enqueues the job. Default the client's.
func ProducerID(id string) EnqueueOption {
	return enqueueOption(func(in *insert) { in.producerID = &id })
}
