package handler

import (
	"net/http"
	"strings"

	"soniq/internal/redact"
)

// secretsOf returns the parts of a request that only its endpoint may see, so that
// they can be hidden where a response repeats them: the values of the operator's
// headers, the signatures, the URL's user and query, and its path if that is secret.
func (h *httpHandler) secretsOf(req *http.Request) *redact.Set {
	var values []string
	for name, all := range req.Header {
		if !publicHeader(http.CanonicalHeaderKey(name)) {
			for _, value := range all {
				values = append(values, redact.HeaderParts(value)...)
			}
		}
	}
	if h.user != nil {
		password, _ := h.user.Password()
		values = append(values, h.user.Username(), password)
	}
	values = append(values, req.URL.RawQuery)
	for _, all := range req.URL.Query() {
		values = append(values, all...)
	}
	if h.pathIsSecret {
		path := req.URL.Path
		values = append(values, path, req.URL.EscapedPath(), strings.Trim(path, "/"))
		values = append(values, strings.Split(path, "/")...)
	}
	return redact.NewSet(values...).Keep(req.URL.Host)
}

// publicHeader reports whether whoever may read the job may read the header too.
func publicHeader(name string) bool {
	switch name {
	case "Content-Type", "User-Agent", "Idempotency-Key", "Webhook-Id", "Webhook-Timestamp", "Content-Digest", "Signature-Input":
		return true
	}
	return strings.HasPrefix(name, "Soniq-")
}
