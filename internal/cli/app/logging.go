package app

import (
	"log/slog"
	"strings"

	"github.com/lmittmann/tint"

	"soniq/internal/cli/terminal"
	"soniq/internal/redact"
)

// NewLogger returns a logger to standard error: coloured text on a terminal, JSON
// elsewhere, or as the flags say. No record has a secret in it.
func (a *App) NewLogger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.LogLevel)); err != nil {
		return nil, Usagef("--log-level: %s", err)
	}
	if a.LogsJSON() {
		return slog.New(redact.Handler(slog.NewJSONHandler(terminal.NewSafeJSONWriter(a.Stderr), &slog.HandlerOptions{Level: level, ReplaceAttr: inUTC}))), nil
	}
	return slog.New(redact.Handler(tint.NewTextHandler(a.Stderr, &tint.Options{
		Level:      level,
		TimeFormat: "2006-01-02 15:04:05.000Z",
		NoColor:    !a.StderrIsTTY || a.plain(),
		// tint colours with the very escapes that a terminal.SafeWriter would take
		// out, so what is logged is made safe before.
		ReplaceAttr: func(groups []string, attr slog.Attr) slog.Attr {
			attr = inUTC(groups, attr)
			return slog.Attr{Key: tintSafe(attr.Key), Value: safeValue(attr.Value)}
		},
	}))), nil
}

// inUTC puts times into UTC, as every command prints them.
func inUTC(_ []string, attr slog.Attr) slog.Attr {
	if attr.Value.Kind() == slog.KindTime {
		attr.Value = slog.TimeValue(attr.Value.Time().UTC())
	}
	return attr
}

// LogsJSON reports whether the log is JSON.
func (a *App) LogsJSON() bool {
	return a.LogFormat == "json" || a.LogFormat != "text" && !a.StderrIsTTY
}

// plain reports whether the person, or their terminal, wants no colours.
func (a *App) plain() bool {
	return a.NoColor || a.Getenv("NO_COLOR") != "" || a.Getenv("TERM") == "dumb"
}

// tintSafe is terminal.OneLine for tint, which turns the four characters \x1b in a
// quoted value back into an escape.
func tintSafe(s string) string {
	return strings.ReplaceAll(terminal.OneLine(s), `\x1b`, `\u001b`)
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
