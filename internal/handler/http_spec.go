package handler

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"soniq/internal/webhook"
)

// HTTP is an endpoint that runs jobs.
type HTTP struct {
	// URL is http or https. A user name and a password in it become Basic
	// authorization. Required.
	URL string
	// Reference is where the URL came from, such as env:REPORTS_URL. It is shown in
	// place of the URL, whose path then counts as a secret too. Default none.
	Reference string
	// Headers are sent with each request, beside Soniq's own. Default none.
	Headers map[string]string
	// Secret signs each request, by Standard Webhooks and by RFC 9421: 'whsec_' and
	// 24 to 64 bytes in base64. Two secrets with a space between them both sign,
	// while one replaces the other. Default none, and no signature.
	Secret string
	// MaxResponseBytes is the longest body of a success. Default [MaxResult].
	MaxResponseBytes int64
}

// Target is the URL as it may be shown: without user name, password and query, or
// its reference.
func (e HTTP) Target() string {
	if e.Reference != "" {
		return e.Reference
	}
	u, err := url.Parse(e.URL)
	if err != nil {
		return "(not a URL)"
	}
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	if u.RawQuery != "" {
		return shown.String() + "?..."
	}
	return shown.String()
}

// Format prints the target alone, by every verb of package fmt: the other fields may
// be secret.
func (e HTTP) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "http "+e.Target()) }

// MarshalText returns what Format prints, for encoding/json and log/slog.
//
// Errors: none.
func (e HTTP) MarshalText() ([]byte, error) { return fmt.Append(nil, e), nil }

// Check judges an endpoint without a request to it.
//
// Errors: all mistakes, one a line. They show no value of a header, no secret, and
// of the URL neither user, password, path nor query.
func (e HTTP) Check() error { return e.resolve(&httpHandler{}) }

// resolve checks the endpoint and puts what it says into h. See [HTTP.Check] for
// its errors.
func (e HTTP) resolve(h *httpHandler) error {
	var mistakes []error
	target, err := parseEndpoint(e.URL)
	if err != nil {
		mistakes = append(mistakes, err)
	}
	h.header = http.Header{}
	for _, name := range slices.Sorted(maps.Keys(e.Headers)) {
		if err := e.checkHeader(name, h.header, target); err != nil {
			mistakes = append(mistakes, err)
		}
		h.header.Set(name, e.Headers[name])
	}
	if h.secrets, err = webhook.ParseSecrets(e.Secret); err != nil {
		mistakes = append(mistakes, err)
	} else {
		h.keys = signKeys(strings.Fields(e.Secret), h.secrets)
	}
	if h.maxResult = e.MaxResponseBytes; h.maxResult == 0 {
		h.maxResult = MaxResult
	}
	if h.maxResult < 0 {
		mistakes = append(mistakes, fmt.Errorf("max response bytes must not be negative: %d", h.maxResult))
	}
	if len(mistakes) > 0 {
		return errors.Join(mistakes...)
	}
	if target.User != nil {
		password, _ := target.User.Password()
		h.header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(target.User.Username()+":"+password)))
		h.user, target.User = target.User, nil
	}
	h.pathIsSecret = e.Reference != ""
	h.url, h.endpoint = target, target.Scheme+"://"+target.Host
	return nil
}

// checkHeader judges the header name. others are those before it, target is the
// URL, or nil.
func (e HTTP) checkHeader(name string, others http.Header, target *url.URL) error {
	canonical := http.CanonicalHeaderKey(name)
	switch {
	case !webhook.IsHeaderName(name):
		return fmt.Errorf("header %q: not a header name; use letters, digits and '-'", name)
	case reservedHeader(canonical), e.Secret != "" && signatureHeader(canonical):
		return fmt.Errorf("header %q: set by soniq, and can't be changed", name)
	case others.Values(canonical) != nil:
		return fmt.Errorf("header %q: given twice; upper and lower case are the same", name)
	case strings.ContainsFunc(e.Headers[name], func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
		return fmt.Errorf("header %q: the value has a line break or another control character", name)
	case canonical == "Authorization" && target != nil && target.User != nil:
		return fmt.Errorf("header %q: the URL has a user name, which becomes this header; remove one of the two", name)
	default:
		return nil
	}
}

// parseEndpoint parses the URL of an endpoint. Its errors don't wrap those of
// net/url, which quote the URL, or the part of a password that was read as a port.
func parseEndpoint(text string) (*url.URL, error) {
	if text == "" {
		return nil, errors.New("the URL is missing")
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("the URL is not valid: write it as https://host/path, and percent-encode special characters in a user name, password, path or query")
	}
	port, portErr := strconv.Atoi(u.Port())
	switch {
	case u.Scheme == "":
		return nil, errors.New("the URL must begin with http:// or https://")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("the URL must begin with http:// or https://, not %s://", u.Scheme)
	case u.Hostname() == "":
		return nil, errors.New("the URL has no host")
	case u.Port() != "" && (portErr != nil || port < 1 || port > 65535):
		return nil, errors.New("the URL's port must be from 1 to 65535")
	case u.Fragment != "" || strings.Contains(text, "#"):
		return nil, errors.New("the URL has a '#', and what follows it would never be sent; write %23 if it is part of the path or query")
	}
	return u, nil
}

// reservedHeader reports whether a header, by its canonical name, frames the message
// or is one of Soniq's own.
func reservedHeader(name string) bool {
	switch name {
	case "Accept-Encoding", // or net/http would not decompress the result
		"Connection", "Content-Encoding", "Content-Length", "Expect", "Host", "Http2-Settings", "Keep-Alive",
		"Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
		"Content-Type", "Idempotency-Key", "X-Idempotency-Key", "User-Agent":
		return true
	}
	return strings.HasPrefix(name, "Soniq-") || strings.HasPrefix(name, "Webhook-")
}
