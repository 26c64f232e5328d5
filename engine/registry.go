package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"soniq/deadletter"
)

// Registry maps job names to their handlers. Fill it before it is given to a
// worker; it isn't safe for concurrent change. The zero value is not usable:
// see [NewRegistry].
type Registry struct {
	handlers   map[string]*handler
	middleware []Middleware
	errs       []error
}

// handler is how the jobs of one name are run.
type handler struct {
	name        string
	run         HandlerFunc
	queue       *string
	maxAttempts *int
	timeout     time.Duration
	retry       RetryPolicy
	permanent   func(error) bool
	// classifiers take the place of the worker's if ownClassifiers.
	classifiers    []deadletter.Classifier
	ownClassifiers bool
	concurrency    *int
	// attemptLimit, if set, beats a job's own max attempts.
	attemptLimit *int
	argsType     string
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry {
	return &Registry{handlers: map[string]*handler{}}
}

// Validator is implemented by arguments that check themselves. An error makes
// the job a dead letter with the reason invalid_arguments, at once; it should
// name the field.
type Validator interface{ Validate() error }

// Handle registers fn for the jobs called name. Their arguments are decoded
// from JSON into a T, strictly: an unknown field, a wrong type, null or a
// failing Validate method (see [Validator]) is invalid_arguments, and fn isn't
// called.
//
// Each running job has a goroutine, which another job may use afterwards: what a
// handler does to it alone ([runtime.LockOSThread], a goroutine's labels) it
// must undo.
//
// A mistake (an empty name, a name registered twice, a nil fn, a bad option) is
// kept and reported by [NewWorker].
func Handle[T any](r *Registry, name string, fn func(ctx context.Context, args T) error, opts ...HandleOption) {
	var withResult func(ctx context.Context, args T) (any, error)
	if fn != nil {
		withResult = func(ctx context.Context, args T) (any, error) { return nil, fn(ctx, args) }
	}
	HandleResult(r, name, withResult, opts...)
}

// HandleResult is [Handle] for a function whose result is stored, as JSON,
// with the done job until the worker's ResultTTL has passed. A result that
// can't be JSON, or is over 1 MiB as JSON, is a failed attempt.
func HandleResult[T, R any](r *Registry, name string, fn func(ctx context.Context, args T) (R, error), opts ...HandleOption) {
	h := r.add(name, fn != nil, opts)
	h.argsType = fmt.Sprintf("%T", *new(T))
	h.run = func(ctx context.Context, job *Job) (any, error) {
		var args T
		if err := decodeArgs(job.Args, &args); err != nil {
			return nil, InvalidArguments(err)
		}
		return fn(ctx, args)
	}
}

// HandleRaw registers fn for the jobs called name and leaves their arguments
// as they are. A result of nil stores none; a [json.RawMessage] is stored as
// it is. See [HandleResult] for those that can't be stored.
func HandleRaw(r *Registry, name string, fn HandlerFunc, opts ...HandleOption) {
	h := r.add(name, fn != nil, opts)
	h.argsType = fmt.Sprintf("%T", json.RawMessage(nil))
	h.run = fn
}

func (r *Registry) add(name string, hasFunc bool, opts []HandleOption) *handler {
	h := &handler{name: name, retry: Exponential{}}
	for _, o := range opts {
		o.applyHandle(h)
	}
	if err := h.validate(); err != nil {
		r.errs = append(r.errs, err)
	} else if !hasFunc {
		r.errs = append(r.errs, fmt.Errorf("handler %q: function must not be nil", name))
	} else if _, ok := r.handlers[name]; ok {
		r.errs = append(r.errs, fmt.Errorf("handler %q is registered twice", name))
	} else {
		r.handlers[name] = h
	}
	return h
}

func (h *handler) validate() error {
	if err := checkText("job name", h.name); err != nil {
		return fmt.Errorf("handler %q: %w", h.name, err)
	}
	if h.queue != nil {
		if err := checkText("queue", *h.queue); err != nil {
			return fmt.Errorf("handler %q: %w", h.name, err)
		}
	}
	for what, n := range map[string]*int{
		"max attempts": h.maxAttempts, "concurrency": h.concurrency, "attempt limit": h.attemptLimit,
	} {
		if n != nil && (*n < 1 || *n > math.MaxInt32) {
			return fmt.Errorf("handler %q: %s must be from 1 to %d, not %d", h.name, what, math.MaxInt32, *n)
		}
	}
	for i, classifier := range h.classifiers {
		if err := classifier.Validate(); err != nil {
			return fmt.Errorf("handler %q: classifier %d: %w", h.name, i+1, err)
		}
	}
	if h.retry == nil {
		return fmt.Errorf("handler %q: retry policy must not be nil", h.name)
	}
	return nil
}

// Names returns the registered job names, sorted.
func (r *Registry) Names() []string {
	return slices.Sorted(maps.Keys(r.handlers))
}

// argsTypes returns the Go types of the handlers' arguments, in the order of Names.
func (r *Registry) argsTypes() []string {
	var types []string
	for _, name := range r.Names() {
		types = append(types, r.handlers[name].argsType)
	}
	return types
}

// Err reports all mistakes made so far, or nil.
func (r *Registry) Err() error { return errors.Join(r.errs...) }

// queues returns 'default' and the handlers' queues, sorted.
func (r *Registry) queues() []string {
	set := map[string]bool{defaultQueue: true}
	for _, h := range r.handlers {
		if h.queue != nil {
			set[*h.queue] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// attemptLimits returns the handlers' attempt limits by name.
func (r *Registry) attemptLimits() map[string]int {
	limits := map[string]int{}
	for name, h := range r.handlers {
		if h.attemptLimit != nil {
			limits[name] = *h.attemptLimit
		}
	}
	return limits
}
