package otlp

import (
	"context"
	"log/slog"
	"sync"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"soniq/internal/redact"
)

const (
	// firstReminder is the time until a failure that goes on is logged again. It doubles, up
	// to lastReminder.
	firstReminder = time.Minute
	lastReminder  = time.Hour
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

	mu       sync.Mutex
	failing  bool
	dropped  int
	reminder time.Duration
	next     time.Time
}

// ExportSpans implements [sdktrace.SpanExporter]. It returns no error: the spans are lost,
// and that is logged.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil {
		if e.failing {
			e.log.Info("traces are sent again", "to", e.target, "spans_lost", e.dropped)
		}
		e.failing, e.dropped = false, 0
		return nil
	}
	e.dropped += len(spans)
	switch now := time.Now(); {
	case !e.failing:
		e.failing, e.reminder = true, firstReminder
		e.next = now.Add(e.reminder)
	case now.Before(e.next):
		return nil
	default:
		e.reminder = min(2*e.reminder, lastReminder)
		e.next = now.Add(e.reminder)
	}
	attributes := []any{"to", e.target, "error", said(err.Error()), "spans_lost", e.dropped}
	if e.hint != "" {
		attributes = append(attributes, "remedy", e.hint)
	}
	e.log.Warn("traces can't be sent, and are lost; jobs go on", attributes...)
	return nil
}

// said is a text from elsewhere, cut.
func said(text string) string {
	if len(text) > maxSaid {
		text = redact.Head(text, maxSaid) + "..."
	}
	return redact.Text(text)
}
