package engine

import (
	"time"

	"soniq/deadletter"
)

// HandleOption sets how the jobs of one name are run; see [Handle].
type HandleOption interface{ applyHandle(*handler) }

// EnqueueOption sets how one job is enqueued; see [Client.Enqueue].
type EnqueueOption interface{ applyEnqueue(*insert) }

// Option serves both [Handle] and [Client.Enqueue]. For a handler it is the
// default of the jobs that a client with the same [Registry] enqueues.
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

// Queue puts the job, or all jobs of a handler, into the named queue. Default
// 'default'. An empty name is an error.
func Queue(name string) Option { return queueOption(name) }

type maxAttemptsOption int

func (o maxAttemptsOption) applyHandle(h *handler)  { h.maxAttempts = new(int(o)) }
func (o maxAttemptsOption) applyEnqueue(in *insert) { in.maxAttempts = new(int(o)) }

// MaxAttempts bounds how often the job is tried, the first time included.
// Default 4, as Python Soniq's three retries. Less than 1 is an error.
func MaxAttempts(n int) Option { return maxAttemptsOption(n) }

// Timeout ends the context of one attempt of a handler. What the handler returns
// then counts, if it does so within the worker's CancelGrace; of one that takes
// longer, the attempt has failed by timeout. Default is the worker's
// JobTimeout; a negative timeout means none.
func Timeout(d time.Duration) HandleOption {
	return handleOption(func(h *handler) { h.timeout = d })
}

// Retry sets the delay between a handler's attempts. Default
// [Exponential]{}.
func Retry(policy RetryPolicy) HandleOption {
	return handleOption(func(h *handler) { h.retry = policy })
}

// Concurrency bounds how many of a handler's jobs this worker runs at once,
// beside the worker's own bound. Default none. Less than 1 is an error.
func Concurrency(n int) HandleOption {
	return handleOption(func(h *handler) { h.concurrency = &n })
}

// AttemptLimit replaces, in this worker, the max attempts that a job was
// enqueued with. Default: what the job says. Less than 1 is an error.
func AttemptLimit(n int) HandleOption {
	return handleOption(func(h *handler) { h.attemptLimit = &n })
}

// PermanentIf is a handler's own rule for errors that no retry can mend. It
// is asked after the markers of [Permanent].
func PermanentIf(rule func(error) bool) HandleOption {
	return handleOption(func(h *handler) { h.permanent = rule })
}

// ClassifyBy replaces, for a handler, the worker's Classifiers; without any it
// turns them off.
func ClassifyBy(classifiers ...deadletter.Classifier) HandleOption {
	return handleOption(func(h *handler) { h.classifiers, h.ownClassifiers = classifiers, true })
}

// Priority orders due jobs of a queue: lower runs first. Default 100.
func Priority(n int) EnqueueOption {
	return enqueueOption(func(in *insert) { in.priority = n })
}

// At makes the job due at t. A time in the past is due at once.
func At(t time.Time) EnqueueOption {
	return enqueueOption(func(in *insert) { in.at, in.delay = &t, nil })
}

// After makes the job due d after it is inserted, by the database's clock.
func After(d time.Duration) EnqueueOption {
	return enqueueOption(func(in *insert) { in.at, in.delay = nil, &d })
}

// Unique enqueues nothing if a unique job with the same name and equal
// arguments is queued already; that job's id is returned. A job that has been
// claimed no longer counts. Python Soniq's unique jobs count too.
func Unique() EnqueueOption {
	return enqueueOption(func(in *insert) { in.unique = true })
}

// DedupKey enqueues nothing if a job with the same key, of whatever name or
// queue, is queued already; that job's id is returned. An empty key is an
// error.
func DedupKey(key string) EnqueueOption {
	return enqueueOption(func(in *insert) { in.dedupKey = &key })
}

// ProducerID says who enqueued the job. Default is the client's.
func ProducerID(id string) EnqueueOption {
	return enqueueOption(func(in *insert) { in.producerID = &id })
}
