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

	"soniq/deadletter/classify"
)

// Registry maps job names to handlers. Register all handlers before you give it to a
// worker: it is not safe for concurrent changes. [NewRegistry] makes one; the zero
// value doesn't work.
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
	// classifiers replace the worker's if ownClassifiers is true.
	classifiers    []classify.Classifier
	ownClassifiers bool
	concurrency    *int
	// attemptLimit, if set, overrides a job's own max attempts.
	attemptLimit *int
	argsType     string
	// allowUnknown: fields of the arguments that their type hasn't are ignored.
	allowUnknown bool
	// takes reports why the handler doesn't take these arguments. Nil: it takes any.
	takes func(raw json.RawMessage) error
}

// NewRegistry returns an empty registry. Mistakes in what is registered later are
// reported by [Registry.Err], [NewClient] and [NewWorker].
func NewRegistry() *Registry {
	return &Registry{handlers: map[string]*handler{}}
}

// Validator is implemented by arguments that check themselves. An error, which should
// name the field, makes the job a dead letter at once, with the reason
// invalid_arguments.
type Validator interface{ Validate() error }

// Handle registers fn as the handler of the jobs with this name. Their arguments are
// decoded from JSON into a T, strictly. Where a type is wrong, the arguments are null, or
// the method Validate fails (see [Validator]), fn isn't called: the job becomes a dead
// letter with the reason invalid_arguments. Where all is right but a field that T hasn't,
// the job is tried again after 1, 2, 4 ... minutes, since a newer worker may know it, and
// becomes such a dead letter after its last attempt; see [AllowUnknownFields].
//
// Each job runs in a goroutine that another job may use afterwards. A handler that
// changes the goroutine, by [runtime.LockOSThread] or labels, must undo that.
//
// A mistake is reported by [NewWorker]: an empty name, a name that is registered
// already, a nil fn, an option that isn't valid.
func Handle[T any](r *Registry, name string, fn func(ctx context.Context, args T) error, opts ...HandleOption) {
	var withResult func(ctx context.Context, args T) (any, error)
	if fn != nil {
		withResult = func(ctx context.Context, args T) (any, error) { return nil, fn(ctx, args) }
	}
	HandleResult(r, name, withResult, opts...)
}

// HandleResult is [Handle] for a function with a result. The result is stored as JSON
// with the done job, until the worker's ResultTTL has passed. If it can't be encoded or
// stored, or has over 1 MiB as JSON, the job is done all the same: its work must not be
// done again for the sake of the result. The result is then the object
// {"result_not_stored": "why"}, and the worker logs an error.
func HandleResult[T, R any](r *Registry, name string, fn func(ctx context.Context, args T) (R, error), opts ...HandleOption) {
	h := r.add(name, fn != nil, opts)
	h.argsType = fmt.Sprintf("%T", *new(T))
	h.takes = func(raw json.RawMessage) error { return decodeArgs(raw, new(T), h.allowUnknown) }
	h.run = func(ctx context.Context, job *Job) (any, error) {
		var args T
		if err := decodeArgs(job.Args, &args, h.allowUnknown); err != nil {
			var unknown *unknownFieldError
			if errors.As(err, &unknown) && job.Attempts < job.MaxAttempts {
				unknown.attempt = job.Attempts
				return nil, unknown
			}
			return nil, InvalidArguments(err)
		}
		return fn(ctx, args)
	}
}

// HandleRaw is [HandleResult] for a function that gets the job, with its arguments not
// decoded. A nil result stores none. A [json.RawMessage] is stored as it is.
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

// Err returns all mistakes made so far, joined, or nil.
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

// concurrencies returns the handlers' concurrency limits by name.
func (r *Registry) concurrencies() map[string]int {
	limits := map[string]int{}
	for name, h := range r.handlers {
		if h.concurrency != nil {
			limits[name] = *h.concurrency
		}
	}
	return limits
}
