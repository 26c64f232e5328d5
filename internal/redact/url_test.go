package redact

import "testing"

// The port of an endpoint, and what a sentence says behind it, is what an operator
// has to read: no password is without its host.
func TestText_portInASentence_isNoPassword(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"POST http://127.0.0.1:8080: dial tcp 127.0.0.1:8080: connect: connection refused",
		"POST http://api.example.com:8080: EOF", "see http://db:5432, and", "(http://db:80)", "at http://db:80.", "http://[::1]:80: EOF",
		"http://db:80, then mail ann@example.com", "[http://db:80]", "http://db:80; next",
	} {
		if got := Text(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	for text, want := range map[string]string{
		"postgres://ann:12345:/x@db": "postgres://ann:[redacted]@db",
		"postgres://ann:123,xy@db":   "postgres://ann:[redacted]@db",
		"postgres://ann:hunter2":     "postgres://ann:[redacted]",
		"postgres://ann:x y@db/app":  "postgres://ann:[redacted]@db/app",
		// A text that was cut there shows no more than the word.
		"postgres://ann:hunter2 and then": "postgres://ann:[redacted] and then",
	} {
		if got := Text(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}
