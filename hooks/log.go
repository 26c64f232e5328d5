package hooks

import (
	"context"
	"log/slog"

	"soniq/deadletter"
	"soniq/internal/redact"
	"soniq/internal/tracecontext"
)

var logKind = kind{
	open: func(d *Dispatcher, _ prepared) (Hook, *redact.Set, error) { return logHook{d.log}, nil, nil },
}

// logHook writes one record for each event.
type logHook struct{ log *slog.Logger }

// Deliver implements Hook.
func (h logHook) Deliver(ctx context.Context, d *Delivery) error {
	e, level := d.Event, slog.LevelInfo
	if e.Type == Dead {
		level = slog.LevelWarn
	}
	attrs := []any{
		"event", string(e.Type), "hook", d.Hook, "delivery", d.ID, "job", e.Letter.ID, "job_name", e.Letter.JobName,
		"queue", e.Letter.Queue, "reason", string(e.Letter.Reason), "attempts", e.Letter.Attempts, "max_attempts", e.Letter.MaxAttempts,
		"kind", string(e.Letter.ErrorKind), "code", e.Letter.ErrorCode, "decided_by", e.Letter.DecidedBy, "fingerprint", e.Letter.Fingerprint,
		"error", cut(deadletter.RedactText(e.Letter.LastError), maxErrorText), "at", e.At,
	}
	attrs = tracecontext.Attrs(e.Letter.TraceContext.TraceID(), attrs...)
	if e.Sample {
		attrs = append(attrs, "sample", true)
	}
	h.log.Log(ctx, level, "dead letter", attrs...)
	return nil
}
