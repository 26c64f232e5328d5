package otlp

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"soniq/internal/redact"
)

const (
	// firstReminder is the time until a failure that goes on is logged again. It doubles, up
	// to lastReminder.
	firstReminder = time.Minute
	lastReminder  = time.Hour
	// A batch may fail less than quietTries times within quietTime before that is logged.
	quietTries = 2
	quietTime  = 2 * time.Second
	// maxSaid limits what a collector says, in the log, in bytes.
	maxSaid = 500
)

// exporter logs what the SDK would hand to a handler that the whole process shares.
type exporter struct {
	sdktrace.SpanExporter
	log    *slog.Logger
	target string
	// hint is what may be wrong, or empty.
	hint string
	// queue is how many spans may wait to be sent, and ended how many have ended.
	queue int
	ended atomic.Int64

	mu sync.Mutex
	// trying is true once it was said that spans are sent again and again, and failing once
	// it was said that some are lost.
	trying   bool
	failing  bool
	dropped  int
	reminder reminder
	// taken is how many spans have come out of the queue, and missed how many did not fit in, at
	// least. slow is how many of these did not while the collector answered, and slowSaid how
	// many of them were logged.
	taken, missed  int
	slow, slowSaid int
	slowReminder   reminder
}

// reminder says when something that goes on is logged again: at growing distance.
type reminder struct {
	after time.Duration
	next  time.Time
}

// first begins anew, with what is logged now.
func (r *reminder) first() { r.after, r.next = firstReminder, time.Now().Add(firstReminder) }

// due reports whether to log it again.
func (r *reminder) due() bool {
	now := time.Now()
	if now.Before(r.next) {
		return false
	}
	r.after = min(2*r.after, lastReminder)
	r.next = now.Add(r.after)
	return true
}

// counted counts the spans that end: the SDK drops those that don't fit in its queue, and
// tells nobody.
type counted struct {
	sdktrace.SpanProcessor
	exporter *exporter
}

// OnEnd implements [sdktrace.SpanProcessor].
func (c counted) OnEnd(s sdktrace.ReadOnlySpan) {
	c.SpanProcessor.OnEnd(s)
	if s.SpanContext().IsSampled() {
		c.exporter.ended.Add(1)
	}
}

// ExportSpans implements [sdktrace.SpanExporter]. It returns no error: the spans are lost,
// and that is logged.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	e.mu.Lock()
	defer e.mu.Unlock()
	missed := e.took(len(spans))
	switch {
	case err == nil && (e.trying || e.failing):
		e.log.Info("traces are sent again", "to", e.target, "spans_lost", e.dropped+missed)
		e.trying, e.failing, e.dropped = false, false, 0
		return nil
	case err == nil:
		e.fellBehind(missed)
		return nil
	}
	e.dropped += len(spans) + missed
	switch {
	case !e.failing:
		e.failing = true
		e.reminder.first()
	case !e.reminder.due():
		return nil
	}
	e.log.Warn("traces can't be sent, and are lost; jobs go on", e.attributes(err, "spans_lost", e.dropped)...)
	return nil
}

// took counts spans that came out of the queue, and returns how many more did not fit in
// meanwhile: those that have ended, have not come out, and are more than the queue holds, and
// one that may be on its way from there.
func (e *exporter) took(spans int) (missed int) {
	e.taken += spans
	missed = max(0, int(e.ended.Load())-e.taken-e.missed-e.queue-1)
	e.missed += missed
	return missed
}

// fellBehind says that spans did not fit in the queue, though the collector answers.
func (e *exporter) fellBehind(missed int) {
	e.slow += missed
	switch {
	case missed == 0:
		return
	case e.slowSaid == 0:
		e.slowReminder.first()
	case !e.slowReminder.due():
		return
	}
	e.saySlow()
}

func (e *exporter) saySlow() {
	e.slowSaid = e.slow
	e.log.Warn("spans end faster than they can be sent, and are lost; jobs go on", "to", e.target, "spans_lost", e.slow,
		"remedy", "record fewer with OTEL_TRACES_SAMPLER=parentbased_traceidratio, or let more wait with OTEL_BSP_MAX_QUEUE_SIZE")
}

// Shutdown implements [sdktrace.SpanExporter]. The queue is empty, and what has not come out of
// it is lost.
func (e *exporter) Shutdown(ctx context.Context) error {
	e.mu.Lock()
	if e.slow > 0 {
		e.slow += max(0, int(e.ended.Load())-e.taken-e.missed)
	}
	if e.slow > e.slowSaid {
		e.saySlow()
	}
	e.mu.Unlock()
	return e.SpanExporter.Shutdown(ctx)
}

// retried says once that nothing has arrived, long before anything is lost. One failure that
// passes is not worth a word.
func (e *exporter) retried(tries int, since time.Duration, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.trying || e.failing || tries < quietTries && since < quietTime {
		return
	}
	e.trying = true
	e.log.Warn("traces can't be sent yet, and are tried again; jobs go on", e.attributes(err)...)
}

func (e *exporter) attributes(err error, more ...any) []any {
	attributes := append([]any{"to", e.target, "error", said(err.Error())}, more...)
	if e.hint != "" {
		attributes = append(attributes, "remedy", e.hint)
	}
	return attributes
}

// said is a text from elsewhere, cut.
func said(text string) string {
	if len(text) > maxSaid {
		text = redact.Head(text, maxSaid) + "..."
	}
	return redact.Text(text)
}
