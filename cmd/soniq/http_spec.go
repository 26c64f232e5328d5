package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"soniq/internal/webhook"
)

// httpSpec is an HTTP endpoint as a handler.
type httpSpec struct {
	// URL is http or https. A user name and a password in it become Basic
	// authorization.
	URL string
	// PathIsSecret says that the URL's path is a secret too: it was given by a
	// reference to the environment.
	PathIsSecret bool
	// Headers are sent with each request, beside Soniq's own.
	Headers map[string]string
	// Secret signs each request, by Standard Webhooks and by RFC 9421: 'whsec_'
	// and 24 to 64 bytes in base64. While a secret is being replaced it is both, with a
	// space between them. Default none, and no signature.
	Secret string
	// MaxResponseBytes is the longest body of a success. Default 1 MiB.
	MaxResponseBytes int64
}

// httpMaxResult is the longest result; it is kept in the job's row.
const httpMaxResult = 1 << 20

// resolve checks the spec and puts what it says into h. The error joins all
// mistakes. Values of headers, the secret and the parts of the URL that may
// be secret (user, password, path, query) are in none of them.
func (s httpSpec) resolve(h *httpHandler) error {
	var mistakes []error
	target, err := parseEndpoint(s.URL)
	if err != nil {
		mistakes = append(mistakes, err)
	}
	h.header = http.Header{}
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		value := s.Headers[name]
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case !webhook.IsHeaderName(name):
			err = fmt.Errorf("header %q: is not a header's name: letters, digits and - are", name)
		case reservedHeader(canonical), s.Secret != "" && signatureHeader(canonical):
			err = fmt.Errorf("header %q: is set by soniq and can't be changed", name)
		case h.header.Values(canonical) != nil:
			err = fmt.Errorf("header %q: is there twice; names of headers have no case", name)
		case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
			err = fmt.Errorf("header %q: has a line break or another control character in its value", name)
		case canonical == "Authorization" && target != nil && target.User != nil:
			err = fmt.Errorf("header %q: the URL has a user name, which becomes that header too; give one of them", name)
		default:
			err = nil
		}
		if err != nil {
			mistakes = append(mistakes, err)
		}
		h.header.Set(canonical, value)
	}
	if h.secrets, err = webhook.ParseSecrets(s.Secret); err != nil {
		mistakes = append(mistakes, err)
	} else {
		h.keys = signKeys(strings.Fields(s.Secret), h.secrets)
	}
	if h.maxResult = s.MaxResponseBytes; h.maxResult == 0 {
		h.maxResult = httpMaxResult
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
	h.pathIsSecret = s.PathIsSecret
	h.url, h.endpoint = target, target.Scheme+"://"+target.Host
	return nil
}

// parseEndpoint does not pass on what net/url says: it quotes the URL, or the
// part of a password that it took for a port.
func parseEndpoint(text string) (*url.URL, error) {
	if text == "" {
		return nil, errors.New("the URL is missing")
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("the URL is not valid: it must look like https://host/path, with what is special in a user name, password, path or query percent-encoded")
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
		return nil, errors.New("the URL has a '#', and what comes after it would never be sent; write %23 if it belongs to the URL")
	}
	return u, nil
}

// reservedHeader reports whether a header, by its canonical name, says how the
// message is framed or is Soniq's own.
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
