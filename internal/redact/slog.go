package redact

import (
	"context"
	"encoding"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
)

// Handler returns a handler that redacts messages and attributes before next gets them,
// also those in groups and of [slog.Handler.WithAttrs]. Texts, errors and Stringers are
// redacted by [Text], JSON by [JSON]. The value of an attribute or group whose key is that
// of a secret (see [Key]) becomes [Placeholder], unless it is a boolean, a time or a
// duration. An error becomes a text.
func Handler(next slog.Handler) slog.Handler {
	if _, ok := next.(*handler); ok {
		return next
	}
	return &handler{next: next}
}

// Logger returns a logger whose handler is [Handler].
func Logger(l *slog.Logger) *slog.Logger { return slog.New(Handler(l.Handler())) }

type handler struct {
	next slog.Handler
	// secrecy is that of the groups that are open.
	secrecy secrecy
}

// Enabled implements [slog.Handler].
func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// Handle implements [slog.Handler].
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	redacted := slog.NewRecord(r.Time, r.Level, Text(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		redacted.AddAttrs(attr(a, h.secrecy))
		return true
	})
	return h.next.Handle(ctx, redacted)
}

// WithAttrs implements [slog.Handler].
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.next.WithAttrs(redactAttrs(attrs, h.secrecy)), h.secrecy}
}

// WithGroup implements [slog.Handler].
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.next.WithGroup(Text(name)), max(h.secrecy, secrecyOf(name))}
}

func redactAttrs(attrs []slog.Attr, s secrecy) []slog.Attr {
	redacted := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		redacted[i] = attr(a, s)
	}
	return redacted
}

func attr(a slog.Attr, s secrecy) slog.Attr {
	s = max(s, secrecyOf(a.Key))
	return slog.Attr{Key: Text(a.Key), Value: logValue(a.Value.Resolve(), s)}
}

func logValue(v slog.Value, s secrecy) slog.Value {
	switch v.Kind() {
	case slog.KindGroup:
		return slog.GroupValue(redactAttrs(v.Group(), s)...)
	case slog.KindBool, slog.KindTime, slog.KindDuration:
		return v
	case slog.KindInt64, slog.KindUint64, slog.KindFloat64:
		if s == hideAll {
			return slog.StringValue(Placeholder)
		}
		return v
	case slog.KindString:
		if s != open && v.String() != "" {
			return slog.StringValue(Placeholder)
		}
		return slog.StringValue(Text(v.String()))
	default:
		if s != open && v.Any() != nil {
			return slog.StringValue(Placeholder)
		}
		return anyValue(v.Any())
	}
}

// anyValue redacts what has no kind of its own, in the forms that handlers have
// for it: text or JSON.
func anyValue(v any) (redacted slog.Value) {
	defer func() {
		if r := recover(); r != nil {
			// As slog has it: most likely a nil pointer in an interface.
			if p := reflect.ValueOf(v); p.Kind() == reflect.Pointer && p.IsNil() {
				redacted = slog.StringValue("<nil>")
				return
			}
			redacted = slog.StringValue(Text(fmt.Sprintf("!PANIC: %v", r)))
		}
	}()
	switch v := v.(type) {
	case nil, slog.Level, *slog.Source:
		return slog.AnyValue(v)
	case error:
		return slog.StringValue(Text(v.Error()))
	case json.RawMessage:
		return slog.AnyValue(JSON(v))
	case []byte:
		return slog.StringValue(Text(string(v)))
	case []string:
		texts := slices.Clone(v)
		for i, text := range texts {
			texts[i] = Text(text)
		}
		return slog.AnyValue(texts)
	case encoding.TextMarshaler:
		text, err := v.MarshalText()
		if err != nil {
			return slog.StringValue(Text("!ERROR: " + err.Error()))
		}
		return slog.StringValue(Text(string(text)))
	case fmt.Stringer:
		return slog.StringValue(Text(v.String()))
	}
	// A text handler prints fields that JSON leaves out.
	text := fmt.Sprintf("%+v", v)
	doc, err := json.Marshal(v)
	if err != nil {
		return slog.StringValue(Text(text))
	}
	if hidden := JSON(doc); string(hidden) != string(doc) || Text(text) != text {
		return slog.AnyValue(hidden)
	}
	return slog.AnyValue(v)
}
