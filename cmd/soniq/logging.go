package main

import (
	"log/slog"
	"strings"

	"github.com/lmittmann/tint"

	"soniq/internal/redact"
)

// newLogger logs to standard error: tinted text for a person, JSON for a
// program, or as the flags say. No record has a secret in it.
func (a *app) newLogger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.LogLevel)); err != nil {
		return nil, usagef("--log-level: %s", err)
	}
	asText := a.LogFormat == "text" || a.LogFormat == "auto" && a.stderrIsTTY
	if !asText {
		return slog.New(redact.Handler(slog.NewJSONHandler(newSafeJSONWriter(a.stderr), &slog.HandlerOptions{Level: level}))), nil
	}
	return slog.New(redact.Handler(tint.NewTextHandler(a.stderr, &tint.Options{
		Level:   level,
		NoColor: !a.stderrIsTTY || a.plain(),
		// tint colours with the very escapes that a safeWriter would take
		// out, so what is logged is made safe before.
		ReplaceAttr: func(_ []string, attr slog.Attr) slog.Attr {
			return slog.Attr{Key: tintSafe(attr.Key), Value: safeValue(attr.Value)}
		},
	}))), nil
}

// plain reports whether the person, or their terminal, wants no colours.
func (a *app) plain() bool {
	return a.NoColor || a.getenv("NO_COLOR") != "" || a.getenv("TERM") == "dumb"
}

// tintSafe is oneLine for tint, which turns the four characters \x1b in a
// quoted value back into an escape.
func tintSafe(s string) string {
	return strings.ReplaceAll(oneLine(s), `\x1b`, `\u001b`)
}

// safeValue makes the text in v safe for a terminal. Errors lose their type,
// which tint only needs for its colour.
func safeValue(v slog.Value) slog.Value {
	switch v.Kind() {
	case slog.KindString:
		return slog.StringValue(tintSafe(v.String()))
	case slog.KindAny:
		switch x := v.Any().(type) {
		case error:
			return slog.StringValue(tintSafe(x.Error()))
		case *slog.Source, slog.Level:
			return v
		}
		return slog.StringValue(tintSafe(v.String()))
	default:
		return v
	}
}
