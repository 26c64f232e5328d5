package handler

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"soniq"
	"soniq/engine"
	"soniq/internal/redact"
	"soniq/internal/webhook"
)

const (
	// httpConnectTimeout bounds a TCP connect, and a TLS handshake. It is less than
	// the shortest timeout that people give a job, and more than two lost SYN packets
	// take (1 s and 3 s). Everything later is bounded by the job's timeout alone.
	httpConnectTimeout = 10 * time.Second
	// httpIdleTimeout is less than the 5 s after which Node's and uvicorn's servers
	// close an idle connection. A request that is sent at that moment is lost.
	httpIdleTimeout = 4 * time.Second
	// httpPingAfter is how long an HTTP/2 connection may be silent before it is
	// pinged, and then how long the ping may take before the connection is closed.
	httpPingAfter = 15 * time.Second
	// httpMaxIdle is how many idle connections are kept: as many as one worker runs
	// jobs at once.
	httpMaxIdle = 10_000
	// httpMaxHeader bounds a response's header, in bytes.
	httpMaxHeader = 64 << 10
	// httpBodyGrace is how long a failure's body may take. The verdict is known by
	// then; the body is only its text.
	httpBodyGrace = 5 * time.Second
	// httpDrain is how much of a failure's body is read and dropped, in bytes, so
	// that the connection can be used again. A new connection is cheaper than more.
	httpDrain = 64 << 10
)

// httpHandler runs a job by a request to an HTTP endpoint.
//
// Connections go through the proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name:
// the operator chooses the endpoint, and the environment too. Redirects are not
// followed, and no cookies are kept.
type httpHandler struct {
	url      *url.URL // without user name and password
	endpoint string   // scheme and host, for errors and the log
	user     *url.Userinfo
	// pathIsSecret says that the URL's path must not be shown either.
	pathIsSecret bool
	header       http.Header // the operator's
	secrets      [][]byte    // of Standard Webhooks
	keys         []signKey   // the same, with their names
	maxResult    int64
	bodyGrace    time.Duration
	now          func() time.Time
	nonce        func() string
	transport    *http.Transport
	log          *slog.Logger
}

// newHTTPHandler checks the whole spec. See [HTTP.Check] for its errors.
func newHTTPHandler(spec HTTP, log *slog.Logger) (*httpHandler, error) {
	h := &httpHandler{
		bodyGrace: httpBodyGrace,
		now:       time.Now,
		nonce:     rand.Text,
		log:       log,
		transport: &http.Transport{
			Proxy:                  httpProxy,
			DialContext:            (&net.Dialer{Timeout: httpConnectTimeout}).DialContext,
			TLSHandshakeTimeout:    httpConnectTimeout,
			IdleConnTimeout:        httpIdleTimeout,
			MaxIdleConnsPerHost:    httpMaxIdle,
			MaxResponseHeaderBytes: httpMaxHeader,
			ForceAttemptHTTP2:      true,
			HTTP2:                  &http.HTTP2Config{SendPingTimeout: httpPingAfter, PingTimeout: httpPingAfter},
		},
	}
	if err := spec.resolve(h); err != nil {
		return nil, err
	}
	return h, nil
}

// httpProxy is [http.ProxyFromEnvironment] with an error that does not show the
// variable: it may hold a password.
func httpProxy(r *http.Request) (*url.URL, error) {
	proxy, err := http.ProxyFromEnvironment(r)
	if err != nil {
		return nil, errors.New("the proxy that HTTP_PROXY or HTTPS_PROXY names is not a valid URL")
	}
	return proxy, nil
}

// close closes the connections that no request uses.
func (h *httpHandler) close() { h.transport.CloseIdleConnections() }

// run is an [engine.HandlerFunc]. It posts the arguments. The status is the verdict;
// the response's body is the result if it is JSON, or the error. One attempt sends
// one request.
func (h *httpHandler) run(ctx context.Context, job *engine.Job) (any, error) {
	started := h.now()
	request, stop := context.WithCancel(ctx)
	defer stop()
	req, err := h.request(request, job)
	if err != nil {
		return nil, err
	}
	// Not by an http.Client: that follows redirects, and puts the URL with its
	// query into each error.
	resp, err := h.transport.RoundTrip(req)
	if err != nil {
		return nil, h.failed(ctx, req, started, "", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, h.verdict(ctx, job, req, resp, stop)
	}
	body, err := readAtMost(resp.Body, h.maxResult)
	if err != nil {
		return nil, h.failed(ctx, req, started, "read response: ", err)
	}
	return h.result(ctx, job, resp, body)
}

// request makes the request of a job. docs/worker.md has its headers.
func (h *httpHandler) request(ctx context.Context, job *engine.Job) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "", bytes.NewReader(job.Args))
	if err != nil {
		return nil, err
	}
	req.URL, req.Host = h.url, h.url.Host
	req.Header = h.header.Clone()
	id := job.ID.String()
	for name, value := range map[string]string{
		"Content-Type":       "application/json",
		"User-Agent":         "Soniq/" + soniq.Version,
		"Soniq-Job-Id":       id,
		"Soniq-Job-Name":     headerText(job.Name),
		"Soniq-Queue":        headerText(job.Queue),
		"Soniq-Attempt":      strconv.Itoa(job.Attempts),
		"Soniq-Max-Attempts": strconv.Itoa(job.MaxAttempts),
	} {
		req.Header.Set(name, value)
	}
	// In lower case on purpose. When a connection is lost, net/http sends a request
	// again that has an Idempotency-Key in the usual spelling: an endpoint that
	// crashes by a job would get it twice in one attempt. Servers don't tell the two
	// spellings apart.
	req.Header["idempotency-key"] = []string{id}
	engine.TraceContextFrom(ctx).Into(req.Header)
	if len(h.secrets) > 0 {
		timestamp := h.now().Unix()
		req.Header.Set("Webhook-Id", id)
		req.Header.Set("Webhook-Timestamp", strconv.FormatInt(timestamp, 10))
		req.Header.Set("Webhook-Signature", webhook.Sign(h.secrets, id, timestamp, job.Args))
		signMessage(req.Header, h.header, h.keys, job.Args, timestamp, h.nonce())
	}
	return req, nil
}

// headerText is a name as a header's value. What is not visible ASCII, and the
// percent sign, is percent-encoded: a queue's name is whatever the job's producer
// wrote.
func headerText(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7f && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// failed is the error of a request without a whole response. It wraps the cause of
// ctx, such as the job's timeout, if that ended the request, else the network's
// error. The latter may quote what the other side sent in place of a response.
func (h *httpHandler) failed(ctx context.Context, req *http.Request, started time.Time, during string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		what := "no response"
		if during != "" {
			what = "no whole response"
		}
		return fmt.Errorf("%s from %s within %s: %w", what, h.endpoint, h.now().Sub(started).Round(time.Millisecond), cause)
	}
	text := validText([]byte(h.secretsOf(req).Text(err.Error())))
	if len(text) > httpMaxError {
		text = redact.Head(text, httpMaxError) + "..."
	}
	return &requestError{text: fmt.Sprintf("POST %s: %s%s", h.endpoint, during, text), err: err}
}

// requestError says why a request has no response, without secrets.
type requestError struct {
	text string
	err  error
}

func (e *requestError) Error() string { return e.text }

// Unwrap returns the network's error, for those who decide by it.
func (e *requestError) Unwrap() error { return e.err }
