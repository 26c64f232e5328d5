package tracecontext

import (
	"errors"
	"net/url"
	"strings"
	"unicode"

	"soniq/internal/redact"
)

// The places of a [URLPattern].
const (
	traceIDPlace = "{trace_id}"
	spanIDPlace  = "{span_id}"
)

// URLPattern is where a tracing UI shows a trace: a URL with {trace_id} in the place of the
// trace's id, and perhaps {span_id}.
type URLPattern string

// maxPattern limits a pattern, in bytes.
const maxPattern = 2000

// ParseURLPattern checks a pattern.
//
// Errors: for a person to read; each completes a sentence that begins with the name of the
// setting. They show nothing of the pattern.
func ParseURLPattern(text string) (URLPattern, error) {
	const example = ", such as https://traces.example.com/trace/" + traceIDPlace
	filled := URLPattern(text).URL(New("00-"+strings.Repeat("1", 32)+"-"+strings.Repeat("1", 16)+"-00", ""))
	u, err := url.Parse(filled)
	switch {
	case !strings.Contains(text, traceIDPlace):
		return "", errors.New("must have " + traceIDPlace + " where the id of the trace belongs" + example)
	case len(text) > maxPattern:
		return "", errors.New("must be at most 2000 bytes long")
	case strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) || r > unicode.MaxASCII }):
		return "", errors.New("must be one URL in ASCII, without spaces" + example)
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return "", errors.New("must be an http:// or https:// URL" + example)
	case u.User != nil, redact.Text(text) != text:
		return "", errors.New("must hold no password or token: it is shown with each trace")
	}
	return URLPattern(text), nil
}

// URL is that of a trace. It is empty for none, or without a pattern.
func (p URLPattern) URL(c Context) string {
	if p == "" || c.IsZero() {
		return ""
	}
	return strings.NewReplacer(traceIDPlace, c.TraceID(), spanIDPlace, c.SpanID()).Replace(string(p))
}
