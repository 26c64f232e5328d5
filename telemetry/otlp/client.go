package otlp

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"soniq/internal/webhook"
)

const (
	// maxResponse limits a response, in bytes. A collector says little.
	maxResponse = 64 << 10
	// maxPause limits the pause that a collector may ask for.
	maxPause = 30 * time.Second
)

// client sends batches of spans. It implements otlptrace.Client.
type client struct {
	settings  *settings
	agent     string
	transport *http.Transport
	// stopped is closed by Stop: requests under way end.
	stopped context.Context
	stop    context.CancelFunc
	// retried is called before spans are sent once more. Nil calls nobody.
	retried func(tries int, since time.Duration, err error)
	// last is why the latest request failed; nil if it did not.
	last atomic.Pointer[string]
}

func newClient(s *settings, version string) *client {
	transport := &http.Transport{
		Proxy: proxy, DialContext: dialer.DialContext, TLSClientConfig: s.tls, TLSHandshakeTimeout: 5 * time.Second,
		IdleConnTimeout: 90 * time.Second, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: maxResponse,
	}
	if s.protocol == protocolGRPC {
		// gRPC is HTTP/2, also without TLS.
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetHTTP2(true)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	c := &client{settings: s, agent: "Soniq/" + version, transport: transport}
	c.stopped, c.stop = context.WithCancel(context.Background())
	return c
}

// proxy is [http.ProxyFromEnvironment] with an error that shows nothing of the variable.
func proxy(r *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(r)
	if err != nil {
		return nil, errors.New("the proxy that HTTP_PROXY or HTTPS_PROXY names is not a valid URL")
	}
	return u, nil
}

// Start does nothing: a collector may come later.
func (c *client) Start(context.Context) error { return nil }

// Stop ends requests under way.
func (c *client) Stop(context.Context) error {
	c.stop()
	c.transport.CloseIdleConnections()
	return nil
}

// UploadTraces sends spans, and tries again what another try may mend, until ctx ends.
func (c *client) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	// It is the same on the wire as the collector's request, whose package links gRPC.
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return err
	}
	if body, err = c.pack(body); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.stopped, cancel)()
	var last error
	tries, began := 0, time.Now()
	c.last.Store(nil)
	_, err = backoff.Retry(ctx, func() (struct{}, error) {
		ctx, cancel := context.WithTimeout(ctx, c.settings.timeout)
		defer cancel()
		if err := c.send(ctx, body); err != nil {
			if !errors.Is(err, context.Canceled) {
				last = err
				c.last.Store(new(said(err.Error())))
			}
			return struct{}{}, err
		}
		c.last.Store(nil)
		return struct{}{}, nil
	}, backoff.WithBackOff(&backoff.ExponentialBackOff{InitialInterval: time.Second, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 10 * time.Second}),
		backoff.WithNotify(func(err error, _ time.Duration) {
			if tries++; c.retried != nil {
				c.retried(tries, time.Since(began), err)
			}
		}))
	if err != nil && ctx.Err() != nil && last != nil {
		// That its time was up says less than why it took so long.
		return last
	}
	return err
}

// pack compresses a message, and puts gRPC's length before it.
func (c *client) pack(message []byte) ([]byte, error) {
	if c.settings.gzip {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := w.Write(message); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
		message = b.Bytes()
	}
	if c.settings.protocol != protocolGRPC {
		return message, nil
	}
	prefix := []byte{0, 0, 0, 0, 0}
	if c.settings.gzip {
		prefix[0] = 1
	}
	binary.BigEndian.PutUint32(prefix[1:], uint32(len(message))) //nolint:gosec // a batch has some hundred spans
	return append(prefix, message...), nil
}

// send sends one request. An error that another try can't mend is a permanent one.
func (c *client) send(ctx context.Context, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "", bytes.NewReader(body))
	if err != nil {
		return backoff.Permanent(err)
	}
	req.URL, req.Host, req.Header = c.settings.url, c.settings.url.Host, c.settings.header.Clone()
	req.Header.Set("User-Agent", c.agent)
	encoding := "Content-Encoding"
	if c.settings.protocol == protocolGRPC {
		encoding = "Grpc-Encoding"
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
	} else {
		req.Header.Set("Content-Type", "application/x-protobuf")
	}
	if c.settings.gzip {
		req.Header.Set(encoding, "gzip")
	}
	// Not by an http.Client: that follows redirects, with all headers.
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse))
	if err != nil {
		return err
	}
	if c.settings.protocol == protocolGRPC {
		return grpcError(resp, answer)
	}
	return httpError(resp, answer)
}

// httpError is what a response over http/protobuf says.
func httpError(resp *http.Response, answer []byte) error {
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		failed := fmt.Errorf("HTTP %d", resp.StatusCode)
		if pause, ok := webhook.RetryAfter(resp.Header, time.Now()); ok && pause <= maxPause {
			return errors.Join(backoff.RetryAfter(int(pause/time.Second)), failed)
		}
		return failed
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return backoff.Permanent(fmt.Errorf("HTTP %d", resp.StatusCode))
	}
	return rejected(answer)
}

// The statuses of gRPC after which OTLP tries again.
var grpcRetried = map[int]bool{1: true, 4: true, 10: true, 11: true, 14: true, 15: true}

// grpcError is what a response over grpc says.
func grpcError(resp *http.Response, answer []byte) error {
	if resp.StatusCode != http.StatusOK {
		return httpError(resp, nil)
	}
	status, message := resp.Trailer.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Message")
	if status == "" {
		// A response without a body has them in its header.
		status, message = resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")
	}
	code, err := strconv.Atoi(status)
	switch {
	case err != nil:
		return backoff.Permanent(errors.New("the answer is not one of gRPC"))
	case code == 0 && len(answer) > 5 && answer[0] == 0:
		return rejected(answer[5:])
	case code == 0:
		return nil
	}
	if decoded, err := url.PathUnescape(message); err == nil {
		message = decoded
	}
	failed := fmt.Errorf("gRPC status %d: %s", code, said(message))
	if grpcRetried[code] {
		return failed
	}
	return backoff.Permanent(failed)
}

// rejected is an error if the answer of a collector says that it has not taken all spans:
// field 1 is a message whose field 1 is how many, and field 2 why.
func rejected(answer []byte) error {
	partial := field(answer, 1, protowire.BytesType)
	if partial == nil {
		return nil
	}
	spans := uint64(0)
	if n := field(partial, 1, protowire.VarintType); n != nil {
		spans, _ = protowire.ConsumeVarint(n)
	}
	if spans == 0 {
		return nil
	}
	return backoff.Permanent(fmt.Errorf("the collector has not taken %d spans: %s", spans, said(string(field(partial, 2, protowire.BytesType)))))
}

// field is the value of a field of a message, or nil.
func field(message []byte, number protowire.Number, kind protowire.Type) []byte {
	for len(message) > 0 {
		is, of, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil
		}
		message = message[n:]
		size := protowire.ConsumeFieldValue(is, of, message)
		if size < 0 {
			return nil
		}
		if is == number && of == kind {
			if kind == protowire.BytesType {
				value, _ := protowire.ConsumeBytes(message)
				return value
			}
			return message[:size]
		}
		message = message[size:]
	}
	return nil
}
