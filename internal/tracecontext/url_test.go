package tracecontext

import (
	"strings"
	"testing"
)

func TestParseURLPattern_pattern_isCheckedAndFilled(t *testing.T) {
	t.Parallel()
	c := New(parent, "")
	for text, want := range map[string]string{
		"https://t.example.com/trace/{trace_id}":         "https://t.example.com/trace/4bf92f3577b34da6a3ce929d0e0e4736",
		"http://[::1]:16686/t/{trace_id}?span={span_id}": "http://[::1]:16686/t/4bf92f3577b34da6a3ce929d0e0e4736?span=00f067aa0ba902b7",
	} {
		p, err := ParseURLPattern(text)
		if err != nil || p.URL(c) != want || p.URL(Context{}) != "" {
			t.Errorf("%s: %v, %q, %q", text, err, p.URL(c), p.URL(Context{}))
		}
	}
	for text, want := range map[string]string{
		"":                                             "must have {trace_id}",
		"https://t.example.com/trace/":                 "must have {trace_id}",
		"{trace_id}":                                   "http:// or https://",
		"ftp://t.example.com/{trace_id}":               "http:// or https://",
		"https:///{trace_id}":                          "http:// or https://",
		"javascript:alert(1)//{trace_id}":              "http:// or https://",
		"https://t.example.com/a b/{trace_id}":         "without spaces",
		"https://t.example.com/\x1b/{trace_id}":        "without spaces",
		"https://ann:hunter2@t.example.com/{trace_id}": "no password",
		"https://t.example.com/{trace_id}?api_key=hunter2hunter2":      "no password",
		"https://t.example.com/{trace_id}" + strings.Repeat("x", 2000): "2000 bytes",
	} {
		_, err := ParseURLPattern(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%.60q: %v, want %s", text, err, want)
		}
	}
}
