package handler

import (
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"soniq"
	"soniq/engine"
	"soniq/internal/testkit"
)

// The secret of the published test vector.
const vectorSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// endpoint is a server of the test's own. A handler that hangs waits for the
// end of the request, which comes with the test's at the latest.
func endpoint(t *testing.T, handle http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := unstartedEndpoint(t, handle)
	s.Start()
	return s
}

func unstartedEndpoint(t *testing.T, handle http.HandlerFunc) *httptest.Server {
	t.Helper()
	over, end := context.WithCancel(context.Background())
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(over, cancel)()
		handle(w, r.WithContext(ctx))
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(func() {
		end()
		s.Close()
	})
	return s
}

func endpointHandler(t *testing.T, spec HTTP) *httpHandler {
	t.Helper()
	h, err := newHTTPHandler(spec, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	return h
}

func endpointJob() *engine.Job {
	return &engine.Job{
		ID: uuid.Must(uuid.NewV7()), Name: "emails.send", Queue: "emails",
		Args: json.RawMessage(`{"test": 2432232314}`), Attempts: 2, MaxAttempts: 5,
	}
}

// answer is a response with a status, a body and pairs of headers.
func answer(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// raw writes bytes in place of a response and cuts the connection, or holds
// it open until the request is over.
func raw(response string, hold bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(conn, response)
		if hold {
			// Until the other side closes it.
			_, _ = io.Copy(io.Discard, conn)
		}
		_ = conn.Close()
	}
}

// hang answers with what it is given, if anything, and then nothing.
func hang(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if status != 0 {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
	}
}

func TestHTTP_request_isTheJob(t *testing.T) {
	t.Parallel()
	type request struct {
		http.Header
		method, path, body, host string
		length                   int64
	}
	requests := make(chan request, 3)
	server := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		requests <- request{r.Header, r.Method, r.RequestURI, string(body), r.Host, r.ContentLength}
		answer(200, "", "Set-Cookie", "a=b")(w, r)
	})
	at := strings.TrimPrefix(server.URL, "http://")
	h := endpointHandler(t, HTTP{
		URL:     "http://us%40er:p%3Aw@" + at + "/hook%2Fs?token=1&x",
		Headers: map[string]string{"x-tenant": "acme", "X-Empty": "", "cookie": "mine=1"},
		Secret:  vectorSecret,
	})
	job := endpointJob()
	job.Queue = "bulk mail\r\nX-Evil: 100% é"
	for attempt := 1; attempt <= 2; attempt++ {
		job.Attempts = attempt
		if _, err := h.run(t.Context(), job); err != nil {
			t.Fatal(err)
		}
		r := <-requests
		if r.method != "POST" || r.path != "/hook%2Fs?token=1&x" || r.body != string(job.Args) || r.length != int64(len(job.Args)) || r.host != at {
			t.Errorf("%+v", r)
		}
		stamp, err := strconv.ParseInt(r.Get("webhook-timestamp"), 10, 64)
		if age := time.Since(time.Unix(stamp, 0)); err != nil || age < 0 || age > testkit.Deadline {
			t.Errorf("timestamp %q", r.Get("webhook-timestamp"))
		}
		id := job.ID.String()
		want := map[string]string{
			// Judged by the tests of the signature.
			"Content-Digest":  r.Get("Content-Digest"),
			"Signature-Input": r.Get("Signature-Input"),
			"Signature":       r.Get("Signature"),

			"Content-Type":       "application/json",
			"User-Agent":         "Soniq/" + soniq.Version,
			"Soniq-Job-Id":       id,
			"Soniq-Job-Name":     "emails.send",
			"Soniq-Queue":        "bulk%20mail%0D%0AX-Evil:%20100%25%20%C3%A9",
			"Soniq-Attempt":      strconv.Itoa(attempt),
			"Soniq-Max-Attempts": "5",
			"Idempotency-Key":    id,
			"X-Tenant":           "acme",
			"X-Empty":            "",
			"Cookie":             "mine=1",
			"Authorization":      "Basic " + base64.StdEncoding.EncodeToString([]byte("us@er:p:w")),
			"Webhook-Id":         id,
			"Webhook-Timestamp":  r.Get("webhook-timestamp"),
			"Webhook-Signature":  "v1," + independentSignature(t, vectorSecret, id+"."+r.Get("webhook-timestamp")+"."+r.body),
			"Accept-Encoding":    "gzip",
			"Content-Length":     strconv.Itoa(len(job.Args)),
		}
		got := map[string]string{}
		for name, values := range r.Header {
			got[name] = strings.Join(values, " AND ")
		}
		if !maps.Equal(got, want) {
			t.Errorf("headers\n%v, want\n%v", got, want)
		}
	}
}

// independentSignature is the spec in the fewest words.
func independentSignature(t *testing.T, secret, signed string) string {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(signed))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func TestHTTP_redirect_isNeverFollowed(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	other := endpoint(t, func(http.ResponseWriter, *http.Request) { calls.Add(1) })
	server := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.URL.Path[1:])
		answer(status, "", "Location", strings.Replace(other.URL, "://", "://user:word@", 1)+"/path?token=secret")(w, r)
	})
	for _, status := range []int{301, 302, 303, 307, 308} {
		h := endpointHandler(t, HTTP{URL: fmt.Sprintf("%s/%d", server.URL, status)})
		_, err := h.run(t.Context(), endpointJob())
		want := fmt.Sprintf("HTTP %d: %s; redirects are not followed, this one leads to %s", status, http.StatusText(status), other.URL)
		if err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if calls.Load() != 0 {
		t.Errorf("the other server got %d requests", calls.Load())
	}
}

func TestHTTP_connection_isUsedAgain(t *testing.T) {
	t.Parallel()
	answers := []http.HandlerFunc{
		answer(200, `{}`), answer(204, ""), answer(500, strings.Repeat("x", 50_000)), answer(400, "no"),
		answer(429, "later", "Retry-After", "1"), answer(200, "not json"), answer(404, ""),
	}
	var calls, opened atomic.Int32
	server := unstartedEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
		answers[int(calls.Add(1)-1)%len(answers)](w, r)
	})
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	server.Start()
	h := endpointHandler(t, HTTP{URL: server.URL})
	for range 3 * len(answers) {
		_, _ = h.run(t.Context(), endpointJob())
	}
	if calls.Load() != int32(3*len(answers)) || opened.Load() != 1 {
		t.Errorf("%d requests by %d connections", calls.Load(), opened.Load())
	}
}

// net/http would send a request with an Idempotency-Key again by itself when
// a connection that it used before is lost.
func TestHTTP_lostConnection_oneAttemptIsOneRequest(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	server := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			answer(200, "")(w, r)
			return
		}
		raw("", false)(w, r)
	})
	h := endpointHandler(t, HTTP{URL: server.URL})
	if _, err := h.run(t.Context(), endpointJob()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.run(t.Context(), endpointJob()); err == nil || !strings.HasPrefix(err.Error(), "POST "+server.URL+": ") {
		t.Errorf("error %v", err)
	}
	if calls.Load() != 2 {
		t.Errorf("%d requests, want 2", calls.Load())
	}
}

func TestHTTP_tls(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		server := unstartedEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
			answer(200, strconv.Quote(r.Proto+" "+r.Header.Get("Idempotency-Key")))(w, r)
		})
		server.EnableHTTP2 = proto == "HTTP/2.0"
		server.StartTLS()
		h := endpointHandler(t, HTTP{URL: server.URL})
		roots := x509.NewCertPool()
		roots.AddCert(server.Certificate())
		h.transport.TLSClientConfig = &tls.Config{RootCAs: roots}
		job := endpointJob()
		result, err := h.run(t.Context(), job)
		if want := strconv.Quote(proto + " " + job.ID.String()); err != nil || fmt.Sprintf("%s", result) != want {
			t.Errorf("%s, %v, want %s", result, err, want)
		}
	}
}

func TestHTTP_error_isTheBeginningOfTheBody(t *testing.T) {
	t.Parallel()
	zipped := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(500)
		z := gzip.NewWriter(w)
		_, _ = z.Write(make([]byte, 8<<20)) // a bomb
		_ = z.Close()
	}
	for name, test := range map[string]struct {
		handle http.HandlerFunc
		want   string
	}{
		"space":        {answer(500, "\n out of memory \n"), "HTTP 500: out of memory"},
		"empty":        {answer(502, ""), "HTTP 502: Bad Gateway"},
		"unknown":      {answer(599, ""), "HTTP 599"},
		"invalid":      {answer(500, "caf\xe9\xe9 closed"), "HTTP 500: caf\ufffd closed"},
		"long":         {answer(500, strings.Repeat("é", 2000)), "HTTP 500: " + strings.Repeat("é", 1024) + "..."},
		"cut midway":   {answer(500, "x"+strings.Repeat("é", 2000)), "HTTP 500: x" + strings.Repeat("é", 1023) + "..."},
		"long garbage": {answer(500, strings.Repeat("\xff", 5000)), "HTTP 500: \ufffd..."},
		"bomb":         {zipped, "HTTP 500: " + strings.Repeat("\x00", 2048) + "..."},
		// Its text is not worth more than the grace.
		"slow": {hang(500, "the beginning"), "HTTP 500: the beginning"},
	} {
		h := endpointHandler(t, HTTP{URL: endpoint(t, test.handle).URL})
		if name == "slow" {
			h.bodyGrace = 100 * time.Millisecond
		}
		_, err := h.run(t.Context(), endpointJob())
		if err == nil || err.Error() != test.want || !utf8.ValidString(err.Error()) {
			t.Errorf("%s: %q, want %q", name, err, test.want)
		}
	}
}

func TestHTTP_result_slowOrLongAsAllowed(t *testing.T) {
	t.Parallel()
	slow := func(w http.ResponseWriter, _ *http.Request) {
		for _, c := range []byte(`"slow"`) {
			_, _ = w.Write([]byte{c})
			_ = http.NewResponseController(w).Flush()
		}
	}
	for name, test := range map[string]struct {
		handle http.HandlerFunc
		result string
		error  string
	}{
		"pieces":   {handle: slow, result: `"slow"`},
		"allowed":  {handle: answer(200, `"12345678"`), result: `"12345678"`},
		"too long": {handle: answer(200, `"123456789"`), error: "HTTP 200: the work was done, but the response is longer than 10 bytes, the most that is kept as a result"},
		// However long: not read to the end.
		"endless": {handle: func(w http.ResponseWriter, _ *http.Request) {
			for err := error(nil); err == nil; {
				_, err = w.Write(make([]byte, 1<<16))
			}
		}, error: "HTTP 200: the work was done"},
	} {
		h := endpointHandler(t, HTTP{URL: endpoint(t, test.handle).URL, MaxResponseBytes: 10})
		result, err := h.run(t.Context(), endpointJob())
		if raw, _ := result.(json.RawMessage); string(raw) != test.result {
			t.Errorf("%s: result %v", name, result)
		}
		if test.error == "" && err != nil || test.error != "" && (err == nil || !strings.HasPrefix(err.Error(), test.error)) {
			t.Errorf("%s: error %v, want %q", name, err, test.error)
		}
	}
}

func TestHTTP_shutdown_endsTheRequest(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan struct{})
	server := endpoint(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		cancel(engine.ErrShutdown)
		<-r.Context().Done()
		close(ended)
	})
	_, err := endpointHandler(t, HTTP{URL: server.URL}).run(ctx, endpointJob())
	if !errors.Is(err, engine.ErrShutdown) {
		t.Errorf("error %v", err)
	}
	<-ended
}

func TestHTTP_errors_keepTheURLsSecrets(t *testing.T) {
	t.Parallel()
	late, cancel := context.WithTimeoutCause(t.Context(), time.Nanosecond, engine.ErrJobTimeout)
	defer cancel()
	for ctx, host := range map[context.Context]string{t.Context(): testkit.ClosedAddress(t), late: endpoint(t, hang(0, "")).Listener.Addr().String()} {
		h := endpointHandler(t, HTTP{URL: "http://user:pass-word@" + host + "/hidden-path?hidden=query"})
		_, err := h.run(ctx, endpointJob())
		if err == nil || !strings.Contains(err.Error(), "http://"+host) {
			t.Errorf("error %v does not say where", err)
		}
		for _, secret := range []string{"user", "pass-word", "hidden"} {
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("error %v shows %q", err, secret)
			}
		}
	}
}
