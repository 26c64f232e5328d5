package engine

import (
	"context"

	"soniq/internal/tracecontext"
)

// TraceContext is a trace context of W3C: to which trace a job belongs, and which span came
// before it. Its zero value is none. [NewTraceContext] makes one of the two headers.
type TraceContext = tracecontext.Context

// NewTraceContext returns the trace context of the headers traceparent and tracestate. They
// may come from anywhere: an invalid traceparent is none, and an invalid tracestate, or one
// over 512 bytes, is left out.
func NewTraceContext(traceparent, tracestate string) TraceContext {
	return tracecontext.New(traceparent, tracestate)
}

// TraceContextFrom returns the trace context of the attempt whose handler's context ctx is
// or comes from: that of the span which a [ContextTracer] began for it, else that of the
// job. It is none outside of a handler. Handlers that are commands and endpoints get it.
func TraceContextFrom(ctx context.Context) TraceContext {
	if e, ok := ctx.Value(executionKey{}).(*execution); ok {
		return e.trace
	}
	return TraceContext{}
}

// InTrace says to which trace the job belongs. Default: what a tracer of the client says,
// else the trace of the handler that enqueues it, if its context is given.
func InTrace(trace TraceContext) EnqueueOption {
	return enqueueOption(func(in *insert) { in.trace = trace })
}
