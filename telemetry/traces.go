package telemetry

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"soniq/engine"
	"soniq/hooks"
	"soniq/internal/redact"
	"soniq/internal/tracecontext"
)

// TracesConfig configures [Traces]. Its zero value works.
type TracesConfig struct {
	// TracerProvider makes the spans, and decides which are sampled. Default
	// [otel.GetTracerProvider].
	TracerProvider trace.TracerProvider
	// Propagator reads and writes trace contexts. Only traceparent and tracestate are kept
	// with a job: baggage is not. Default [propagation.TraceContext].
	Propagator propagation.TextMapPropagator
	// Messaging gives spans the names and attributes of OpenTelemetry's semantic conventions
	// for messaging too. They may still change. Default false.
	Messaging bool
	// LinkOnly begins a new trace for each attempt, delivery and recovery, with a link to the
	// span that enqueued the job: for jobs that run long after that. Default false: they are
	// children of that span, with the link as well.
	LinkOnly bool
}

// Traces makes spans of what the clients, workers and dispatchers of this process do. It is
// an [engine.EnqueueTracer], an [engine.Tracer] and a [hooks.Tracer]:
//
//	traces := telemetry.NewTraces(telemetry.TracesConfig{})
//	engine.ClientConfig{Tracers: []engine.EnqueueTracer{traces}}
//	engine.WorkerConfig{Tracers: []engine.Tracer{traces}}
//	hooks.Config{Tracers: []hooks.Tracer{traces}}
//
// docs/traces.md lists the spans and their attributes. Any number of clients, workers and
// dispatchers may share one. It starts no goroutine, and needs no end.
type Traces struct {
	config TracesConfig
	tracer trace.Tracer
	names  spanNames
	// standard is true if trace contexts are read and written without the propagator: it
	// would do the same, by way of a carrier.
	standard bool
}

// NewTraces returns the traces of a process.
func NewTraces(config TracesConfig) *Traces {
	if config.TracerProvider == nil {
		config.TracerProvider = otel.GetTracerProvider()
	}
	if config.Propagator == nil {
		config.Propagator = propagation.TraceContext{}
	}
	_, standard := config.Propagator.(propagation.TraceContext)
	return &Traces{
		config: config, tracer: config.TracerProvider.Tracer(scope), names: spanNames{of: map[jobKey]*spanName{}}, standard: standard,
	}
}

const (
	// maxSpanNames is how many pairs of queue and job name are remembered without secrets.
	maxSpanNames = 1000
	// maxLinks is how many links a span gets: as many as OpenTelemetry keeps by default.
	maxLinks = 128
	// maxSpanText limits the text of an error, in bytes.
	maxSpanText = 2000
)

// The operations of the conventions.
const (
	operationSend    = "send"
	operationProcess = "process"
)

// spanName is what a job is called in its spans.
type spanName struct {
	queue, job string
	// first is how a first attempt of such a job begins. Nil if there was none.
	first atomic.Pointer[attemptStart]
}

// attemptStart is what the spans of attempts with the same numbers begin with. It is shared
// by them: an attempt that is not sampled then builds nothing of its own. A sampler sees
// these attributes, and those that are of one job alone come when it has decided.
type attemptStart struct {
	max     int
	name    string
	options []trace.SpanStartOption
}

// spanNames remembers them: to look for secrets takes longer than a span.
type spanNames struct {
	mu sync.RWMutex
	of map[jobKey]*spanName
}

func (n *spanNames) get(queue, job string) *spanName {
	key := jobKey{queue, job}
	n.mu.RLock()
	known := n.of[key]
	n.mu.RUnlock()
	if known != nil {
		return known
	}
	name := &spanName{queue: label(queue), job: label(job)}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.of) < maxSpanNames {
		n.of[key] = name
	}
	return name
}

// text is a text as an attribute: cut, and without what looks like a secret.
func text(s string) string {
	if len(s) > maxSpanText {
		s = redact.Head(s, maxSpanText) + "..."
	}
	return redact.Text(s)
}

// headers are a trace context as a carrier of a propagator.
type headers struct{ parent, state string }

func (h *headers) Get(key string) string {
	switch key {
	case "traceparent":
		return h.parent
	case "tracestate":
		return h.state
	}
	return ""
}

func (h *headers) Set(key, value string) {
	switch key {
	case "traceparent":
		h.parent = value
	case "tracestate":
		h.state = value
	}
}

func (h *headers) Keys() []string { return []string{"traceparent", "tracestate"} }

// TraceContext implements [engine.ContextTracer] and [hooks.ContextTracer].
func (t *Traces) TraceContext(ctx context.Context) engine.TraceContext {
	if t.standard {
		sc := trace.SpanContextFromContext(ctx)
		return tracecontext.Of(sc.TraceID(), sc.SpanID(), byte(sc.TraceFlags()&knownFlags), sc.TraceState().String())
	}
	var h headers
	t.config.Propagator.Inject(ctx, &h)
	return engine.NewTraceContext(h.parent, h.state)
}

// knownFlags are the flags that have a meaning. Others are not passed on, as W3C wants it.
const knownFlags = trace.FlagsSampled | trace.FlagsRandom

// origin is ctx with the span of a trace context as the remote parent, and that span. It is
// not valid for none.
func (t *Traces) origin(ctx context.Context, from engine.TraceContext) (context.Context, trace.SpanContext) {
	switch {
	case from.IsZero():
		return ctx, trace.SpanContext{}
	case t.standard:
		origin := spanContext(from)
		return trace.ContextWithRemoteSpanContext(ctx, origin), origin
	}
	h := headers{known(from), from.State()}
	ctx = t.config.Propagator.Extract(ctx, &h)
	return ctx, trace.SpanContextFromContext(ctx)
}

// known is a traceparent with flags that OpenTelemetry takes: it refuses some that have no
// meaning yet, and W3C ignores them.
func known(from engine.TraceContext) string {
	parent := from.Parent()
	switch {
	case parent[:2] != "00" || parent[53:] <= "03":
		return parent
	case from.Sampled():
		return parent[:53] + "01"
	}
	return parent[:53] + "00"
}

// spanContext is what [propagation.TraceContext] makes of a trace context, which is valid.
func spanContext(from engine.TraceContext) trace.SpanContext {
	config := trace.SpanContextConfig{Remote: true}
	config.TraceID, _ = trace.TraceIDFromHex(from.TraceID())
	config.SpanID, _ = trace.SpanIDFromHex(from.SpanID())
	flags, _ := strconv.ParseUint(known(from)[53:], 16, 8)
	config.TraceFlags = trace.TraceFlags(flags) & knownFlags //nolint:gosec // it has 8 bits
	config.TraceState, _ = trace.ParseTraceState(from.State())
	return trace.NewSpanContext(config)
}

// begin starts a span about something of a job: a child of the span that enqueued the job,
// with a link to it. The options are not changed.
func (t *Traces) begin(ctx context.Context, name string, from engine.TraceContext, options []trace.SpanStartOption) (context.Context, trace.Span) {
	if trace.SpanContextFromContext(ctx).IsValid() {
		// It is of whoever runs the worker, and has nothing to do with the job.
		ctx = trace.ContextWithSpanContext(ctx, trace.SpanContext{})
	}
	child, origin := t.origin(ctx, from)
	switch {
	case !origin.IsValid():
		return t.tracer.Start(ctx, name, append(slices.Clip(options), trace.WithNewRoot())...)
	case t.config.LinkOnly:
		return t.tracer.Start(ctx, name, append(slices.Clip(options), trace.WithNewRoot(), trace.WithLinks(trace.Link{SpanContext: origin}))...)
	}
	ctx, span := t.tracer.Start(child, name, options...)
	if span.IsRecording() {
		// A sampler knows the span from ctx.
		span.AddLink(trace.Link{SpanContext: origin})
	}
	return ctx, span
}

// operation is the name of a span, and the attributes of the conventions.
func (t *Traces) operation(operation, verb string, name *spanName) (string, []attribute.KeyValue) {
	attributes := make([]attribute.KeyValue, 0, 16)
	if !t.config.Messaging {
		return verb + " " + name.job, attributes
	}
	return operation + " " + name.queue, append(attributes,
		attribute.String("messaging.system", "soniq"),
		attribute.String("messaging.operation.name", operation),
		attribute.String("messaging.operation.type", operation),
		attribute.String("messaging.destination.name", name.queue))
}

// TraceEnqueueStart implements [engine.EnqueueTracer]. One call is one span, however many
// jobs it enqueues, and all are of that span.
func (t *Traces) TraceEnqueueStart(ctx context.Context, e *engine.EnqueueTrace) context.Context {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		// A handler of a worker without traces: the job that it runs may be in one.
		ctx, _ = t.origin(ctx, engine.TraceContextFrom(ctx))
	}
	first := &e.Jobs[0]
	name, attributes := t.operation(operationSend, "enqueue", t.names.get(first.Queue, first.Name))
	attributes, kind := t.enqueued(e, attributes), trace.SpanKindClient
	var links []trace.Link
	for i := range e.Jobs {
		if e.Jobs[i].TraceContext.IsZero() {
			kind = trace.SpanKindProducer
		} else if len(links) < maxLinks {
			if _, own := t.origin(context.Background(), e.Jobs[i].TraceContext); own.IsValid() {
				links = append(links, trace.Link{SpanContext: own})
			}
		}
	}
	ctx, _ = t.tracer.Start(ctx, name, trace.WithSpanKind(kind), trace.WithAttributes(attributes...), trace.WithLinks(links...))
	sent := t.TraceContext(ctx)
	for i := range e.Jobs {
		if e.Jobs[i].TraceContext.IsZero() {
			e.Jobs[i].TraceContext = sent
		}
	}
	return ctx
}

// enqueued adds what is to be enqueued. What differs among several jobs is left out.
func (t *Traces) enqueued(e *engine.EnqueueTrace, attributes []attribute.KeyValue) []attribute.KeyValue {
	first := &e.Jobs[0]
	sameName, sameQueue := true, true
	for i := range e.Jobs {
		sameName = sameName && e.Jobs[i].Name == first.Name
		sameQueue = sameQueue && e.Jobs[i].Queue == first.Queue
	}
	name := t.names.get(first.Queue, first.Name)
	if sameName {
		attributes = append(attributes, attribute.String("soniq.job.name", name.job))
	}
	if sameQueue {
		attributes = append(attributes, attribute.String("soniq.queue", name.queue))
	}
	if len(e.Jobs) > 1 {
		attributes = append(attributes, attribute.Int("soniq.jobs", len(e.Jobs)))
		if t.config.Messaging {
			attributes = append(attributes, attribute.Int("messaging.batch.message_count", len(e.Jobs)))
		}
		return attributes
	}
	attributes = append(attributes, attribute.String("soniq.job.id", first.ID.String()))
	if t.config.Messaging {
		attributes = append(attributes, attribute.String("messaging.message.id", first.ID.String()))
	}
	return attributes
}

// TraceEnqueueEnd implements [engine.EnqueueTracer].
func (t *Traces) TraceEnqueueEnd(ctx context.Context, e *engine.EnqueueTrace) {
	span := trace.SpanFromContext(ctx)
	defer span.End()
	if !span.IsRecording() {
		return
	}
	duplicates := 0
	for i := range e.Jobs {
		if e.Jobs[i].Duplicate {
			duplicates++
		}
	}
	if duplicates > 0 {
		span.SetAttributes(attribute.Int("soniq.duplicates", duplicates))
	}
	if e.Err != nil {
		span.SetStatus(codes.Error, text(e.Err.Error()))
	}
}

// TraceAttemptStart implements [engine.Tracer]. Each attempt is a span of its own.
func (t *Traces) TraceAttemptStart(ctx context.Context, job *engine.Job) context.Context {
	start := t.attempt(job)
	ctx, span := t.begin(ctx, start.name, job.TraceContext, start.options)
	if !span.IsRecording() {
		return ctx
	}
	id := job.ID.String()
	attributes := make([]attribute.KeyValue, 1, 3)
	attributes[0] = attribute.String("soniq.job.id", id)
	if job.ReplayOf != nil {
		attributes = append(attributes, attribute.String("soniq.replay_of", job.ReplayOf.String()))
	}
	if t.config.Messaging {
		attributes = append(attributes, attribute.String("messaging.message.id", id))
	}
	span.SetAttributes(attributes...)
	return ctx
}

// attempt is how the span of a job's attempt begins.
func (t *Traces) attempt(job *engine.Job) *attemptStart {
	names := t.names.get(job.Queue, job.Name)
	first := names.first.Load()
	if first != nil && job.Attempts == 1 && first.max == job.MaxAttempts {
		return first
	}
	name, attributes := t.operation(operationProcess, "process", names)
	attributes = append(attributes,
		attribute.String("soniq.job.name", names.job),
		attribute.String("soniq.queue", names.queue),
		attribute.Int("soniq.attempt", job.Attempts),
		attribute.Int("soniq.max_attempts", job.MaxAttempts))
	start := &attemptStart{job.MaxAttempts, name, []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(attributes...),
	}}
	if job.Attempts == 1 {
		names.first.Store(start)
	}
	return start
}

// TraceAttemptEnd implements [engine.Tracer].
func (t *Traces) TraceAttemptEnd(ctx context.Context, o engine.Outcome) { endAttempt(ctx, o) }

// TraceAttemptAbandon implements [engine.AbandonTracer]. The span ends here, and not when
// the handler does, which may be never.
func (t *Traces) TraceAttemptAbandon(ctx context.Context, o engine.Outcome) {
	endAttempt(ctx, o, attribute.Bool("soniq.abandoned", true))
}

// done is what most spans end with. It is never changed.
var done = []attribute.KeyValue{attribute.String("soniq.outcome", string(engine.OutcomeDone))}

func endAttempt(ctx context.Context, o engine.Outcome, more ...attribute.KeyValue) {
	span := trace.SpanFromContext(ctx)
	defer span.End()
	if !span.IsRecording() {
		return
	}
	if o.Kind == engine.OutcomeDone && o.Delay <= 0 && len(more) == 0 {
		span.SetAttributes(done...)
		return
	}
	attributes := append(more, attribute.String("soniq.outcome", string(o.Kind)))
	if o.Delay > 0 {
		attributes = append(attributes, attribute.Float64("soniq.delay_seconds", o.Delay.Seconds()))
	}
	if o.Kind == engine.OutcomeRetry || o.Kind == engine.OutcomeDeadLetter {
		attributes = append(attributes, failed(span, o)...)
	}
	span.SetAttributes(attributes...)
}

// failed records the failure of an attempt, and returns its attributes.
func failed(span trace.Span, o engine.Outcome) []attribute.KeyValue {
	message, errorType := text(o.Verdict.Message), text(o.Verdict.Type)
	if errorType == "" {
		errorType = string(o.Verdict.Kind)
	}
	span.SetStatus(codes.Error, message)
	span.AddEvent("exception", trace.WithAttributes(
		attribute.String("exception.type", errorType), attribute.String("exception.message", message)))
	attributes := []attribute.KeyValue{
		attribute.String("error.type", errorType), attribute.String("soniq.error.kind", string(o.Verdict.Kind)),
	}
	if o.Verdict.Code != "" {
		attributes = append(attributes, attribute.String("soniq.error.code", text(o.Verdict.Code)))
	}
	if o.Kind == engine.OutcomeDeadLetter {
		reason := attribute.String("soniq.reason", text(string(o.Verdict.Reason)))
		span.AddEvent("dead letter", trace.WithAttributes(reason))
		attributes = append(attributes, reason)
	}
	return attributes
}

// TraceRecovery implements [engine.RecoveryTracer]. The span of an attempt whose worker died
// was never ended, and nobody has seen it: this one stands for what became of the job.
func (t *Traces) TraceRecovery(ctx context.Context, r engine.RecoveryTrace) {
	names := t.names.get(r.Queue, r.JobName)
	outcome := recoveries[r.Outcome]
	_, span := t.begin(ctx, "recover "+names.job, r.TraceContext, []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindInternal), trace.WithAttributes(
			attribute.String("soniq.job.id", r.JobID.String()),
			attribute.String("soniq.job.name", names.job),
			attribute.String("soniq.queue", names.queue),
			attribute.String("soniq.recovery", outcome)),
	})
	if r.Outcome == engine.OutcomeDeadLetter {
		span.AddEvent("dead letter")
		span.SetStatus(codes.Error, "the worker died with the job, and no attempt remains")
	}
	span.End()
}

// TraceDeliveryStart implements [hooks.Tracer]. A digest of several dead letters begins a
// trace of its own, with a link to that of each.
func (t *Traces) TraceDeliveryStart(ctx context.Context, d *hooks.Delivery) context.Context {
	hook := label(d.Hook)
	attributes := []attribute.KeyValue{
		attribute.String("soniq.hook", hook),
		attribute.String("soniq.delivery.id", d.ID.String()),
		attribute.Int("soniq.attempt", d.Attempt),
	}
	if len(d.Groups) == 1 && d.Groups[0].Count == 1 {
		names := t.names.get(d.Event.Letter.Queue, d.Event.Letter.JobName)
		attributes = append(attributes,
			attribute.String("soniq.event", string(d.Event.Type)),
			attribute.String("soniq.dead_letter.id", d.Event.Letter.ID.String()),
			attribute.String("soniq.job.name", names.job))
		ctx, _ = t.begin(ctx, "hook "+hook, d.Event.Letter.TraceContext, []trace.SpanStartOption{
			trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attributes...),
		})
		return ctx
	}
	events := 0
	var links []trace.Link
	for _, g := range d.Groups {
		events += g.Count
		if _, origin := t.origin(context.Background(), g.Event.Letter.TraceContext); origin.IsValid() && len(links) < maxLinks {
			links = append(links, trace.Link{SpanContext: origin})
		}
	}
	ctx, _ = t.tracer.Start(ctx, "hook "+hook, trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindClient), trace.WithLinks(links...),
		trace.WithAttributes(append(attributes, attribute.Int("soniq.events", events))...))
	return ctx
}

// TraceDeliveryEnd implements [hooks.Tracer].
func (t *Traces) TraceDeliveryEnd(ctx context.Context, end hooks.DeliveryTrace) {
	span := trace.SpanFromContext(ctx)
	defer span.End()
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(attribute.String("soniq.outcome", string(end.Outcome)))
	if end.Err != nil && end.Outcome != hooks.DeliveryReleased {
		span.SetStatus(codes.Error, text(end.Err.Error()))
	}
}

// The interfaces that it follows.
var (
	_ engine.EnqueueTracer  = (*Traces)(nil)
	_ engine.Tracer         = (*Traces)(nil)
	_ engine.ContextTracer  = (*Traces)(nil)
	_ engine.AbandonTracer  = (*Traces)(nil)
	_ engine.RecoveryTracer = (*Traces)(nil)
	_ hooks.Tracer          = (*Traces)(nil)
	_ hooks.ContextTracer   = (*Traces)(nil)
)
