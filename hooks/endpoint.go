package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"soniq"
	"soniq/internal/egress"
	"soniq/internal/redact"
	"soniq/internal/webhook"
)

const (
	// sendTimeout bounds a whole request. Standard Webhooks asks for 15 to 30 s.
	sendTimeout = 20 * time.Second
	// answerTimeout bounds the reading of the body after the status has come. The
	// status is the result; a body that drips must not hold up a slot.
	answerTimeout = 2 * time.Second
	// maxAnswer is how much of an answer is kept, in bytes.
	maxAnswer = 2 << 10
)

// endpoint is where webhooks or Slack messages are posted.
type endpoint struct {
	url       *url.URL
	transport *http.Transport
	known     *redact.Set // what must not be kept of an answer
	timeout   time.Duration
}

func newEndpoint(address string, allow []string, known *redact.Set) (*endpoint, error) {
	u, err := ParseURL(address)
	if err != nil {
		return nil, err
	}
	networks, err := egress.ParseNetworks(allow)
	if err != nil {
		return nil, err
	}
	return &endpoint{url: u, transport: egress.NewTransport(networks, nil), known: known, timeout: sendTimeout}, nil
}

// post sends one request and sets the answer in d. Only 2xx is success. Errors name
// the host only: the rest of a URL is often a secret.
func (e *endpoint) post(ctx context.Context, d *Delivery, header http.Header, body []byte) error {
	ctx, cancel := context.WithTimeoutCause(ctx, e.timeout, fmt.Errorf("no answer within %s", e.timeout))
	defer cancel()
	ctx, hangUp := context.WithCancel(ctx)
	defer hangUp()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "", bytes.NewReader(body))
	if err != nil {
		return err
	}
	// An http.Client would follow redirects and put the URL into its errors.
	req.URL, req.Host, req.Header = e.url, e.url.Host, header
	header.Set("Content-Type", "application/json")
	header.Set("User-Agent", "Soniq/"+soniq.Version)
	resp, err := e.transport.RoundTrip(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("POST to %s: %w", e.url.Host, err)
	}
	defer func() { _ = resp.Body.Close() }()
	defer time.AfterFunc(answerTimeout, hangUp).Stop()
	d.Status, d.Answer = resp.StatusCode, e.answer(resp)
	if resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		return nil
	}
	refused := &AnswerError{Status: d.Status, Answer: d.Answer, Gone: d.Status == http.StatusGone}
	if d.Status >= 300 && d.Status <= 399 {
		refused.Answer = "redirects are not followed"
	}
	refused.RetryAfter, _ = webhook.RetryAfter(resp.Header, time.Now())
	return refused
}

// answer returns the beginning of the body, without the secrets that it echoes. If the
// body can't be read, that changes nothing: the status has come.
func (e *endpoint) answer(resp *http.Response) string {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		// The body is the connection itself, and no context ends a read of that.
		return ""
	}
	switch encoding := resp.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	default:
		return "(the answer is compressed)"
	}
	// A secret that is cut off at maxAnswer is read to its end, or it would not be
	// recognised.
	limit := maxAnswer + e.known.Longest()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, int64(limit)))
	text := e.known.Cut(string(said), false, len(said) == limit)
	return cut(strings.TrimSpace(strings.ToValidUTF8(text, "�")), maxAnswer)
}

// ParseURL reads the URL of a hook.
//
// Errors: for a person to read. They show nothing of the URL.
func ParseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("the URL can't be read")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("the URL must begin with https:// or http://")
	case u.Hostname() == "":
		return nil, errors.New("the URL has no host")
	case !validPort(u.Port()):
		return nil, errors.New("the URL's port must be from 1 to 65535")
	case u.User != nil:
		return nil, errors.New("the URL must not hold a user name or password; use a header")
	}
	return u, nil
}

// validPort reports whether text is a port, or empty.
func validPort(text string) bool {
	port, err := strconv.ParseUint(text, 10, 16)
	return text == "" || err == nil && port > 0
}
