package engine

import (
	"context"
	"errors"
	"fmt"
)

// HandlerFunc runs one attempt of a job: see [HandleRaw]. job is the handler's own
// copy, which middleware and [JobFromContext] share: what is written to it changes
// neither the row nor what the worker does. Do not write to the bytes of Args,
// which an [Observer] sees too.
type HandlerFunc func(ctx context.Context, job *Job) (result any, err error)

// Middleware wraps a handler of a [Registry]. It is called once for each handler, and
// returns the function that runs instead.
//
// That function runs in the goroutine of the attempt, within its timeout. next
// returns what the handler did; what the function returns decides the outcome. It can
// measure, trace, add values to the context, change the error, or not call next.
//
//	func timed(next engine.HandlerFunc) engine.HandlerFunc {
//		return func(ctx context.Context, job *engine.Job) (any, error) {
//			defer observe(job.Name, time.Now())
//			return next(ctx, job)
//		}
//	}
//
// A panic in it is a failed attempt, as in a handler.
type Middleware func(next HandlerFunc) HandlerFunc

// Use adds middleware around all handlers of the registry, also those that are
// registered later. What was added first is outermost. A nil one is a mistake that
// [NewWorker] reports.
func (r *Registry) Use(middleware ...Middleware) {
	for _, m := range middleware {
		if m == nil {
			r.errs = append(r.errs, errors.New("middleware must not be nil"))
			continue
		}
		r.middleware = append(r.middleware, m)
	}
}

// wrap puts the middleware around a handler.
func (r *Registry) wrap(h *handler) (run HandlerFunc, err error) {
	run = h.run
	for i := len(r.middleware) - 1; i >= 0; i-- {
		if run, err = wrapOnce(r.middleware[i], run); err != nil {
			return nil, fmt.Errorf("handler %q: middleware %d %w", h.name, i+1, err)
		}
	}
	return run, nil
}

func wrapOnce(m Middleware, next HandlerFunc) (run HandlerFunc, err error) {
	defer func() {
		if r := recover(); r != nil {
			run, err = nil, fmt.Errorf("panicked: %v", r)
		}
	}()
	if run = m(next); run == nil {
		return nil, errors.New("returned nil")
	}
	return run, nil
}
