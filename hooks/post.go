package hooks

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"soniq"
)

// maxRetryAfter bounds what another side can ask for.
const maxRetryAfter = 24 * time.Hour

// endpoint is where a webhook or Slack message is posted to.
type endpoint struct {
	url       *url.URL
	transport *http.Transport
	timeout   time.Duration
}

func newEndpoint(address string, allow []string) (*endpoint, error) {
	address, err := Resolve(address)
	if err != nil {
		return nil, err
	}
	u, err := ParseURL(address)
	if err != nil {
		return nil, err
	}
	g, err := newGuard(allow)
	if err != nil {
		return nil, err
	}
	return &endpoint{url: u, transport: newTransport(g, nil), timeout: sendTimeout}, nil
}

// post sends one request and notes the answer in d. 2xx is success, nothing
// else. Errors name the host only: the rest of a URL is often its secret.
func (e *endpoint) post(ctx context.Context, d *Delivery, header http.Header, body []byte) error {
	ctx, cancel := context.WithTimeoutCause(ctx, e.timeout, fmt.Errorf("no answer within %s", e.timeout))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "", bytes.NewReader(body))
	if err != nil {
		return err
	}
	// Not by an http.Client: it would follow redirects, and put the URL into
	// each error.
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
	// What can't be read of the answer changes nothing: the status came.
	said, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	d.Status, d.Answer = resp.StatusCode, strings.TrimSpace(strings.ToValidUTF8(string(said), "�"))
	if resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		return nil
	}
	refused := &AnswerError{Status: d.Status, Answer: d.Answer, Gone: d.Status == http.StatusGone}
	if d.Status >= 300 && d.Status <= 399 {
		refused.Answer = "redirects are not followed"
	}
	refused.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), time.Now())
	return refused
}

// retryAfter reads the header: seconds or a date.
func retryAfter(text string, now time.Time) time.Duration {
	wait := time.Duration(0)
	if seconds, err := strconv.ParseUint(strings.TrimSpace(text), 10, 31); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}
