package hooks

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	"soniq/deadletter"
	"soniq/internal/redact"
)

// Tracer is called when a dispatcher begins and ends to send a delivery: for metrics,
// traces, logs. Its methods are called by many goroutines at once, and must not block. A
// panic in one is logged.
type Tracer interface {
	// TraceDeliveryStart is called before the hook is. The context that it returns, which
	// must come from ctx, is the hook's, and goes to TraceDeliveryEnd.
	TraceDeliveryStart(ctx context.Context, d *Delivery) context.Context
	TraceDeliveryEnd(ctx context.Context, end DeliveryTrace)
}

// ContextTracer is a [Tracer] that knows the trace context of what it has begun: of a span.
// TraceContext gets a context that TraceDeliveryStart has returned. What it returns is the
// delivery's TraceContext. The first one that knows it decides.
type ContextTracer interface {
	TraceContext(ctx context.Context) deadletter.TraceContext
}

// DeliveryTrace is how a delivery ended.
type DeliveryTrace struct {
	Delivery *Delivery
	// Outcome is what was written.
	Outcome DeliveryOutcome
	// Duration is how long it took to send, and to write that.
	Duration time.Duration
	// Err is why the hook did not take it.
	Err error
}

// DeliveryOutcome is what becomes of a delivery that a dispatcher has tried to send.
type DeliveryOutcome string

const (
	// DeliveryDelivered: the hook took it.
	DeliveryDelivered DeliveryOutcome = "delivered"
	// DeliveryRetried: it is tried again.
	DeliveryRetried DeliveryOutcome = "retried"
	// DeliveryFailed: it was tried for the last time.
	DeliveryFailed DeliveryOutcome = "failed"
	// DeliveryReleased: it was broken off, or nothing could be written. It is sent again,
	// and this does not count.
	DeliveryReleased DeliveryOutcome = "released"
)

// Format implements [fmt.Formatter]: the error and the delivery are printed without secrets.
func (t DeliveryTrace) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "delivery %s after %s", t.Outcome, t.Duration)
	if t.Err != nil {
		_, _ = fmt.Fprintf(s, ": %s", redact.Text(t.Err.Error()))
	}
}

// LogValue implements [slog.LogValuer].
func (t DeliveryTrace) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(t)) }

func (d *Dispatcher) traceStart(ctx context.Context, delivery *Delivery) context.Context {
	if len(delivery.Groups) == 1 && delivery.Groups[0].Count == 1 {
		delivery.TraceContext = delivery.Event.Letter.TraceContext
	}
	for _, t := range d.tracers {
		func() {
			defer d.logTracerPanic()
			if traced := t.TraceDeliveryStart(ctx, delivery); traced != nil {
				ctx = traced
			}
		}()
	}
	for _, t := range slices.Backward(d.tracers) {
		func() {
			defer d.logTracerPanic()
			if knows, ok := t.(ContextTracer); ok {
				if trace := knows.TraceContext(ctx); !trace.IsZero() {
					delivery.TraceContext = trace
				}
			}
		}()
	}
	return ctx
}

func (d *Dispatcher) traceEnd(ctx context.Context, delivery *Delivery, r result, began time.Time, failure error) {
	outcome := DeliveryReleased
	switch {
	case r.sent:
		outcome = DeliveryDelivered
	case r.failed && r.final:
		outcome = DeliveryFailed
	case r.failed:
		outcome = DeliveryRetried
	}
	for i := len(d.tracers) - 1; i >= 0; i-- {
		func() {
			defer d.logTracerPanic()
			d.tracers[i].TraceDeliveryEnd(ctx, DeliveryTrace{delivery, outcome, time.Since(began), failure})
		}()
	}
}

func (d *Dispatcher) logTracerPanic() {
	if r := recover(); r != nil {
		d.log.Error("a tracer panicked", "panic", r, "stack", string(debug.Stack()))
	}
}
