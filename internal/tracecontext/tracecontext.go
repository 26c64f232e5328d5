// Package tracecontext has the trace context of W3C: to which trace something belongs, and
// which span of it came before. It knows nothing of OpenTelemetry.
//
// The column trace_context holds it as one text: the header traceparent and, where there is
// one, a space and the header tracestate. Programs of any kind write that column, so a text
// that is none is read as no trace context, and is never an error.
package tracecontext

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"

	"soniq/internal/redact"
)

const (
	// parentBytes is the length of a traceparent.
	parentBytes = 55
	// maxState limits a tracestate, in bytes: W3C asks that at least so much is passed on.
	maxState = 512
	// maxMembers limits the members of a tracestate.
	maxMembers = 32
	// MaxBytes is the length of the longest text of the column.
	MaxBytes = parentBytes + 1 + maxState
)

// The headers, and the variables that stand for them in the environment of a command.
const (
	ParentHeader   = "Traceparent"
	StateHeader    = "Tracestate"
	ParentVariable = "TRACEPARENT"
	StateVariable  = "TRACESTATE"
)

// Column is the SQL of a column trace_context: NULL if it is too long to be one. A text of any
// size may stand there; this looks at its length alone.
func Column(name string) string {
	return fmt.Sprintf("case when octet_length(%[1]s) <= %[2]d then %[1]s end", name, MaxBytes)
}

// Context is a valid trace context, or none: its zero value.
type Context struct{ parent, state string }

// New returns the trace context of the two headers. An invalid traceparent is none, and an
// invalid tracestate is left out.
func New(traceparent, tracestate string) Context {
	if !validParent(traceparent) {
		return Context{}
	}
	if !validState(tracestate) {
		tracestate = ""
	}
	return Context{traceparent, tracestate}
}

// Of returns the trace context of a span. It is none if an id is zero. An invalid tracestate is
// left out.
func Of(trace [16]byte, span [8]byte, flags byte, tracestate string) Context {
	if trace == [16]byte{} || span == [8]byte{} {
		return Context{}
	}
	var text [parentBytes]byte
	copy(text[:], "00-")
	hex.Encode(text[3:35], trace[:])
	text[35] = '-'
	hex.Encode(text[36:52], span[:])
	text[52] = '-'
	hex.Encode(text[53:], []byte{flags})
	if !validState(tracestate) {
		tracestate = ""
	}
	return Context{string(text[:]), tracestate}
}

// Parse reads the text of the column. An invalid text is no trace context.
func Parse(text string) Context {
	if len(text) < parentBytes || len(text) > MaxBytes {
		return Context{}
	}
	parent, rest := text[:parentBytes], text[parentBytes:]
	if rest != "" && rest[0] != ' ' {
		return Context{}
	}
	return New(parent, strings.TrimPrefix(rest, " "))
}

// IsZero reports whether it is none.
func (c Context) IsZero() bool { return c.parent == "" }

// String is the text of the column. It is empty for none.
func (c Context) String() string {
	if c.state == "" {
		return c.parent
	}
	return c.parent + " " + c.state
}

// Parent is the header traceparent, such as
// 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01. It is empty for none.
func (c Context) Parent() string { return c.parent }

// State is the header tracestate. It is empty if there is none.
func (c Context) State() string { return c.state }

// TraceID is the id of the trace, 32 hexadecimal digits. It is empty for none.
func (c Context) TraceID() string { return c.part(3, 35) }

// SpanID is the id of the span, 16 hexadecimal digits. It is empty for none.
func (c Context) SpanID() string { return c.part(36, 52) }

// Sampled reports whether the span is recorded.
func (c Context) Sampled() bool {
	return !c.IsZero() && strings.IndexByte("13579bdf", c.parent[parentBytes-1]) >= 0
}

func (c Context) part(from, to int) string {
	if c.IsZero() {
		return ""
	}
	return c.parent[from:to]
}

// Environ is the environment that it adds to a command, as NAME=value.
func (c Context) Environ() (environ []string) {
	if c.parent != "" {
		environ = append(environ, ParentVariable+"="+c.parent)
	}
	if c.state != "" {
		environ = append(environ, StateVariable+"="+c.state)
	}
	return environ
}

// Into sets the headers of a request, unless it has a traceparent: its owner knows better.
func (c Context) Into(header http.Header) {
	if c.parent == "" || header.Get(ParentHeader) != "" {
		return
	}
	header.Set(ParentHeader, c.parent)
	if c.state != "" {
		header.Set(StateHeader, c.state)
	}
}

// Redacted is the trace context for people to read: a tracestate that looks like a secret is
// left out.
func (c Context) Redacted() Context {
	if redact.Text(c.state) != c.state {
		c.state = ""
	}
	return c
}

// Attrs adds the trace with this id to the attributes of a log record, unless it is empty.
func Attrs(traceID string, attrs ...any) []any {
	if traceID == "" {
		return attrs
	}
	return append(attrs, "trace_id", traceID)
}

// MarshalText returns the text of the column, for encoding/json and log/slog.
//
// Errors: none.
func (c Context) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads it.
//
// Errors: none. An invalid text is no trace context.
func (c *Context) UnmarshalText(text []byte) error {
	*c = Parse(string(text))
	return nil
}

// Scan reads the column, for database/sql and pgx. NULL is no trace context.
//
// Errors: none. An invalid text is no trace context.
func (c *Context) Scan(src any) error {
	text, _ := src.(string)
	*c = Parse(text)
	return nil
}

// OrNull is the text of the column, or nil for none.
func (c Context) OrNull() *string {
	if c.IsZero() {
		return nil
	}
	return new(c.String())
}

// validParent reports whether s is a traceparent: version, trace, span and flags in lower
// case, of which the ids are not zero. A later version than 00 may add fields, which nobody
// knows yet.
func validParent(s string) bool {
	if len(s) != parentBytes || s[2] != '-' || s[35] != '-' || s[52] != '-' || s[:2] == "ff" {
		return false
	}
	return isHex(s[:2]) && isHex(s[3:35]) && isHex(s[36:52]) && isHex(s[53:]) &&
		!isZero(s[3:35]) && !isZero(s[36:52])
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func isZero(s string) bool { return strings.Trim(s, "0") == "" }

// validState reports whether s is a tracestate: members key=value with commas between, each
// key once.
func validState(s string) bool {
	if s == "" || len(s) > maxState {
		return false
	}
	seen := make([]string, 0, maxMembers)
	for member := range strings.SplitSeq(s, ",") {
		member = strings.Trim(member, " \t")
		if member == "" {
			continue
		}
		key, value, found := strings.Cut(member, "=")
		if !found || !validKey(key) || !validValue(value) || len(seen) == maxMembers {
			return false
		}
		for _, other := range seen {
			if other == key {
				return false
			}
		}
		seen = append(seen, key)
	}
	return len(seen) > 0
}

// validKey reports whether a key is a name, or tenant@system.
func validKey(key string) bool {
	tenant, system, of := strings.Cut(key, "@")
	if of {
		return validName(tenant, 241, true) && validName(system, 14, false)
	}
	return validName(key, 256, false)
}

func validName(s string, most int, digitFirst bool) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z':
		case c >= '0' && c <= '9':
			if i == 0 && !digitFirst {
				return false
			}
		case strings.IndexByte("_-*/", c) >= 0 && i > 0:
		default:
			return false
		}
	}
	return s != "" && len(s) <= most
}

// validValue reports whether a value is visible ASCII, and spaces within it.
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '=' {
			return false
		}
	}
	return s != "" && len(s) <= 256
}
