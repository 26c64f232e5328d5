package main

import (
	"encoding/json"
	"html"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// hiddenMark stands where a secret was.
const hiddenMark = "[redacted]"

// minHidden is the shortest value that is hidden, in bytes: shorter ones stand
// in any text.
const minHidden = 4

// secretSet hides the values of a request where its endpoint says them back.
type secretSet struct {
	forms []string // the longest first
}

// secretsOf are the parts of a request that are for its endpoint alone: the
// values of the operator's headers, the signatures, the URL's query, and its
// path if that was given as a secret.
func (h *httpHandler) secretsOf(req *http.Request) *secretSet {
	s := &secretSet{}
	for name, values := range req.Header {
		if !publicHeader(http.CanonicalHeaderKey(name)) {
			for _, value := range values {
				s.addHeader(value)
			}
		}
	}
	if h.user != nil {
		password, _ := h.user.Password()
		s.add(h.user.Username(), password)
	}
	s.add(req.URL.RawQuery)
	for _, values := range req.URL.Query() {
		s.add(values...)
	}
	if h.pathIsSecret {
		s.add(req.URL.Path, req.URL.EscapedPath(), strings.Trim(req.URL.Path, "/"))
		for segment := range strings.SplitSeq(req.URL.Path, "/") {
			s.add(segment)
		}
	}
	slices.SortFunc(s.forms, func(a, b string) int { return len(b) - len(a) })
	return s
}

// publicHeader reports whether a header says only what anybody may read who can
// read the job.
func publicHeader(name string) bool {
	switch name {
	case "Content-Type", "User-Agent", "Idempotency-Key", "Webhook-Id", "Webhook-Timestamp", "Content-Digest", "Signature-Input":
		return true
	}
	return strings.HasPrefix(name, "Soniq-")
}

// addHeader adds a header's value, and what stands in it after a scheme such as
// Bearer, or after a name as in a cookie.
func (s *secretSet) addHeader(value string) {
	s.add(value)
	for _, item := range strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(" ;,", r) }) {
		_, after, found := strings.Cut(item, "=")
		if found && after != "" {
			s.add(after)
		}
	}
	if scheme, rest, found := strings.Cut(value, " "); found && scheme != "" {
		s.add(rest)
	}
}

// add adds values, also as they are written in a URL, in JSON and in HTML.
func (s *secretSet) add(values ...string) {
	for _, value := range values {
		value = strings.TrimSpace(value)
		goQuoted := strconv.Quote(value) // net/http quotes a response that is none
		forms := []string{value, url.QueryEscape(value), url.PathEscape(value), html.EscapeString(value), goQuoted[1 : len(goQuoted)-1]}
		if quoted, err := json.Marshal(value); err == nil {
			forms = append(forms, string(quoted[1:len(quoted)-1]))
		}
		for _, form := range forms {
			if len(form) >= minHidden && !slices.Contains(s.forms, form) {
				s.forms = append(s.forms, form)
			}
		}
	}
}

// longest is the length of the longest form, which is what must be read beyond
// a limit to know a value that begins before it.
func (s *secretSet) longest() int {
	if len(s.forms) == 0 {
		return 0
	}
	return len(s.forms[0])
}

// hide returns text without the values. Of a text that was cut off, the end may
// be the beginning of one: that goes too.
func (s *secretSet) hide(text string, cutOff bool) string {
	for _, form := range s.forms {
		text = strings.ReplaceAll(text, form, hiddenMark)
	}
	if !cutOff {
		return text
	}
	for _, form := range s.forms {
		for n := min(len(form)-1, len(text)); n >= minHidden; n-- {
			if strings.HasSuffix(text, form[:n]) {
				return text[:len(text)-n] + hiddenMark
			}
		}
	}
	return text
}
