package otlp_test

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip" // the receiver takes what is compressed
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"soniq/internal/eventually"
	"soniq/internal/testkit"
	"soniq/telemetry/otlp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is a collector for both protocols: gRPC's own server, and an HTTP server.
type receiver struct {
	collector.UnimplementedTraceServiceServer

	mu    sync.Mutex
	spans []*tracepb.Span
	of    map[string]string
	heads []string
	// fail answers the first requests.
	fail []int
	// base is before the path.
	base string
	// partial is how many spans it says not to have taken.
	partial int64
}

// take stores spans, unless the request is to fail.
func (r *receiver) take(key string, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heads = append(r.heads, key)
	if len(r.fail) > 0 {
		code := r.fail[0]
		r.fail = r.fail[1:]
		return nil, code
	}
	for _, of := range request.ResourceSpans {
		r.of = map[string]string{}
		for _, a := range of.Resource.Attributes {
			r.of[a.Key] = a.Value.GetStringValue()
		}
		for _, scope := range of.ScopeSpans {
			r.spans = append(r.spans, scope.Spans...)
		}
	}
	response := &collector.ExportTraceServiceResponse{}
	if r.partial > 0 {
		response.PartialSuccess = &collector.ExportTracePartialSuccess{RejectedSpans: r.partial, ErrorMessage: "quota, password=hunter2"}
	}
	return response, 0
}

func (r *receiver) got() (spans []*tracepb.Span, requests int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.spans, len(r.heads)
}

// Export is gRPC's.
func (r *receiver) Export(ctx context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	response, code := r.take(strings.Join(md.Get("x-key"), ","), request)
	if code != 0 {
		return nil, status.Error(codes.Code(code), "no: 100 %, password=hunter2")
	}
	return response, nil
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body := io.Reader(q.Body)
	if q.Header.Get("Content-Encoding") == "gzip" {
		body, _ = gzip.NewReader(q.Body)
	}
	raw, err := io.ReadAll(body)
	var request collector.ExportTraceServiceRequest
	if err != nil || q.Method != http.MethodPost || q.URL.Path != r.base+"/v1/traces" || q.Header.Get("Content-Type") != "application/x-protobuf" || proto.Unmarshal(raw, &request) != nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	response, code := r.take(q.Header.Get("X-Key"), &request)
	if code != 0 {
		w.WriteHeader(code)
		return
	}
	raw, _ = proto.Marshal(response)
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(raw)
}

// serve starts the receiver, and returns the variables that lead to it.
func (r *receiver) serve(t *testing.T, protocol string, secure bool) map[string]string {
	t.Helper()
	server := httptest.NewUnstartedServer(r)
	if secure || protocol == "http/protobuf" {
		// For gRPC only its certificate is used.
		if secure {
			server.StartTLS()
		} else {
			server.Start()
		}
		t.Cleanup(server.Close)
	}
	env := map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_ENDPOINT": server.URL + r.base}
	if secure {
		env["OTEL_EXPORTER_OTLP_CERTIFICATE"] = filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(env["OTEL_EXPORTER_OTLP_CERTIFICATE"], pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if protocol != "grpc" {
		return env
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var options []grpc.ServerOption
	env["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://" + l.Addr().String()
	if secure {
		options = append(options, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: server.TLS.Certificates, MinVersion: tls.VersionTLS12})))
		env["OTEL_EXPORTER_OTLP_ENDPOINT"] = "https://" + l.Addr().String()
	}
	g := grpc.NewServer(options...)
	collector.RegisterTraceServiceServer(g, r)
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return env
}

func newSender(t *testing.T, env map[string]string, log *slog.Logger) *otlp.Sender {
	t.Helper()
	sender, err := otlp.New(otlp.Config{Getenv: func(name string) string { return env[name] }, Service: "soniq-worker", Version: "1.2.3", Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	return sender
}

// span makes one.
func span(t *testing.T, sender *otlp.Sender, name string) {
	_, s := sender.TracerProvider().Tracer("test").Start(t.Context(), name)
	s.End()
}

func shutdown(t *testing.T, sender *otlp.Sender) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := sender.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// Real receivers get the spans, by each protocol, with and without TLS and compression. What
// they can't take now is sent again.
func TestSender_eachProtocol_spansArrive(t *testing.T) {
	t.Parallel()
	for _, try := range []struct {
		protocol string
		secure   bool
		gzip     string
		fail     []int
	}{
		{"http/protobuf", false, "", []int{http.StatusServiceUnavailable}},
		{"http/protobuf", true, "gzip", nil},
		{"grpc", false, "gzip", []int{int(codes.Unavailable)}},
		{"grpc", true, "", nil},
	} {
		t.Run(try.protocol+" "+try.gzip, func(t *testing.T) {
			t.Parallel()
			r, log := &receiver{fail: try.fail}, &testkit.Log{}
			if try.secure {
				r.base = "/base"
			}
			env := r.serve(t, try.protocol, try.secure)
			env["OTEL_EXPORTER_OTLP_HEADERS"], env["OTEL_EXPORTER_OTLP_COMPRESSION"] = "x-key=hunter%202, other=1", try.gzip
			env["OTEL_RESOURCE_ATTRIBUTES"] = "deployment.environment=test,service.name=one"
			sender := newSender(t, env, log.Logger(slog.LevelInfo))
			if want := try.protocol + " " + strings.TrimSuffix(env["OTEL_EXPORTER_OTLP_ENDPOINT"], "/base"); sender.Target() != want {
				t.Errorf("it sends to %q, want %q", sender.Target(), want)
			}
			span(t, sender, "one")
			span(t, sender, "two")
			shutdown(t, sender)
			spans, requests := r.got()
			if len(spans) != 2 || spans[0].Name != "one" || requests != 1+len(try.fail) || r.heads[0] != "hunter 2" {
				t.Errorf("%d spans in %d requests with %q: %v", len(spans), requests, r.heads, spans)
			}
			if r.of["service.name"] != "one" || r.of["service.version"] != "1.2.3" || r.of["deployment.environment"] != "test" || r.of["host.name"] == "" {
				t.Errorf("the spans are of %v", r.of)
			}
			if log.String() != "" {
				t.Errorf("logged:\n%s", log)
			}
		})
	}
}

// A collector that is away, or refuses, costs spans and no more: it is said once, without
// secrets, and again when it is back.
func TestSender_collectorFails_isSaidOnce(t *testing.T) {
	t.Parallel()
	for name, try := range map[string]struct {
		protocol string
		r        *receiver
		want     string
	}{
		"refuses":              {"http/protobuf", &receiver{fail: []int{401}}, "HTTP 401"},
		"takes a part":         {"http/protobuf", &receiver{partial: 1}, "has not taken 1 spans: quota"},
		"refuses by grpc":      {"grpc", &receiver{fail: []int{int(codes.PermissionDenied)}}, "gRPC status 7: no: 100 %"},
		"takes a part by grpc": {"grpc", &receiver{partial: 2}, "has not taken 2 spans: quota"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &testkit.Log{}
			env := try.r.serve(t, try.protocol, false)
			env["OTEL_EXPORTER_OTLP_HEADERS"] = "x-key=hunter2"
			sender := newSender(t, env, log.Logger(slog.LevelInfo))
			flush := sender.TracerProvider().(interface{ ForceFlush(context.Context) error })
			span(t, sender, "one")
			if err := flush.ForceFlush(t.Context()); err != nil {
				t.Error(err)
			}
			if said := log.String(); !strings.Contains(said, "traces can't be sent") || !strings.Contains(said, try.want) || strings.Contains(said, "hunter2") || !strings.Contains(said, "spans_lost=1") {
				t.Errorf("logged:\n%s\nwant %s", said, try.want)
			}
			try.r.mu.Lock()
			try.r.fail, try.r.partial = nil, 0
			try.r.mu.Unlock()
			for range 2 {
				span(t, sender, "two")
				if err := flush.ForceFlush(t.Context()); err != nil {
					t.Error(err)
				}
			}
			shutdown(t, sender)
			if said := log.String(); strings.Count(said, "traces are sent again") != 1 || strings.Count(said, "can't be sent") != 1 {
				t.Errorf("logged:\n%s", said)
			}
		})
	}
}

// A collector that is away is said after some seconds, once, while nothing is lost yet, and
// so is its coming back.
func TestSender_collectorIsAway_isSaidBeforeSpansAreLost(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"http/protobuf", "grpc"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			away := http.StatusServiceUnavailable
			if protocol == "grpc" {
				away = int(codes.Unavailable)
			}
			r, log := &receiver{fail: []int{away, away}}, &testkit.Log{}
			sender := newSender(t, r.serve(t, protocol, false), log.Logger(slog.LevelInfo))
			span(t, sender, "one")
			shutdown(t, sender)
			if spans, requests := r.got(); len(spans) != 1 || requests != 3 {
				t.Errorf("%d spans in %d requests", len(spans), requests)
			}
			said := log.String()
			if strings.Count(said, "can't be sent yet") != 1 || strings.Count(said, "traces are sent again") != 1 || strings.Count(said, "\n") != 2 ||
				!strings.Contains(said, "spans_lost=0") || strings.Contains(said, "hunter2") {
				t.Errorf("logged:\n%s", said)
			}
		})
	}
}

// A collector that is slower than the jobs costs spans: how many is said, once while it lasts and at
// the end.
func TestSender_collectorIsSlow_lossIsSaid(t *testing.T) {
	t.Parallel()
	asked, goOn := make(chan struct{}, 100), make(chan struct{})
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		asked <- struct{}{}
		<-goOn
	}))
	defer collector.Close()
	log := &testkit.Log{}
	sender := newSender(t, map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL, "OTEL_BSP_MAX_QUEUE_SIZE": "100", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10",
	}, log.Logger(slog.LevelInfo))
	for range 10 {
		span(t, sender, "the first batch")
	}
	<-asked
	for range 100 + 33 {
		span(t, sender, "more than the queue holds")
	}
	if log.String() != "" {
		t.Errorf("logged:\n%s", log)
	}
	close(goOn)
	shutdown(t, sender)
	said := log.String()
	if strings.Count(said, "spans end faster than they can be sent") != 2 || !strings.Contains(said, "spans_lost=33") || !strings.Contains(said, "OTEL_BSP_MAX_QUEUE_SIZE") {
		t.Errorf("logged:\n%s", said)
	}
}

// Nobody listens, the wrong protocol is asked for, or a collector hangs: a shutdown ends in
// time, and the log says what may be wrong.
func TestSender_nobodyAnswers_shutdownEnds(t *testing.T) {
	t.Parallel()
	hung, err := net.Listen("tcp", "127.0.0.1:0") // never accepts
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	for _, try := range []struct{ protocol, endpoint string }{
		{"http/protobuf", "http://" + testkit.ClosedAddress(t)}, {"grpc", "http://" + hung.Addr().String()}, {"http/protobuf", "http://" + hung.Addr().String()},
	} {
		sender := newSender(t, map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": try.protocol, "OTEL_EXPORTER_OTLP_ENDPOINT": try.endpoint}, slog.New(slog.DiscardHandler))
		span(t, sender, "one")
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		began := time.Now()
		err := sender.Shutdown(ctx)
		cancel()
		if err == nil || time.Since(began) > 20*time.Second {
			t.Errorf("%s: %v after %s", try.endpoint, err, time.Since(began))
		}
	}
}

func TestNew_environment_isReadOrRefused(t *testing.T) {
	t.Parallel()
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT"
	on := func(more ...string) map[string]string {
		env := map[string]string{endpoint: "http://127.0.0.1:4318"}
		for i := 0; i < len(more); i += 2 {
			env[more[i]] = more[i+1]
		}
		return env
	}
	for name, try := range map[string]struct {
		env          map[string]string
		target, want string
	}{
		"nothing":             {nil, "", ""},
		"none":                {on("OTEL_TRACES_EXPORTER", "none"), "", ""},
		"disabled":            {on("OTEL_SDK_DISABLED", "TRUE"), "", ""},
		"no endpoint":         {map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}, "", ""},
		"on":                  {on(), "http/protobuf http://127.0.0.1:4318", ""},
		"traces of their own": {on("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://t.example.com/x?api_key=hunter2"), "http/protobuf https://t.example.com", ""},
		"grpc by host":        {map[string]string{endpoint: "c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc https://c:4317", ""},
		"grpc insecure":       {map[string]string{endpoint: "c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_INSECURE": "true"}, "grpc http://c:4317", ""},
		"sampler":             {on("OTEL_TRACES_SAMPLER", "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG", "0.25"), "http/protobuf http://127.0.0.1:4318", ""},

		"exporter":       {on("OTEL_TRACES_EXPORTER", "zipkin"), "", "OTEL_TRACES_EXPORTER must be otlp or none"},
		"no scheme":      {map[string]string{endpoint: "localhost:4318"}, "", endpoint + " must be an http:// or https:// URL, such as http://localhost:4318"},
		"no host":        {map[string]string{endpoint: "http:///x"}, "", endpoint + " must be"},
		"bad port":       {map[string]string{endpoint: "http://c:99999"}, "", endpoint + " must be"},
		"password":       {map[string]string{endpoint: "http://ann:hunter2@c"}, "", endpoint + " must not have a user name or password"},
		"protocol":       {on("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"), "", "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf or grpc"},
		"headers":        {on("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"), "", "OTEL_EXPORTER_OTLP_HEADERS must be KEY=VALUE"},
		"header's name":  {on("OTEL_EXPORTER_OTLP_HEADERS", "a=1,b c=hunter2"), "", "OTEL_EXPORTER_OTLP_HEADERS: number 2 is no header"},
		"header's value": {on("OTEL_EXPORTER_OTLP_HEADERS", "a=hunter2%0ax"), "", "OTEL_EXPORTER_OTLP_HEADERS: number 1 is no header"},
		"compression":    {on("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "zstd"), "", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION must be gzip or none"},
		"timeout":        {on("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"), "", "OTEL_EXPORTER_OTLP_TIMEOUT must be a whole number of milliseconds"},
		"certificate":    {on("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere"), "", "OTEL_EXPORTER_OTLP_CERTIFICATE: open /nowhere"},
		"no certificate": {on("OTEL_EXPORTER_OTLP_CERTIFICATE", "/dev/null"), "", "the file has no certificate"},
		"key alone":      {on("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/nowhere"), "", "set both"},
		"no key":         {on("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/nowhere"), "", "set both"},
		"no pair":        {on("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/nowhere", "OTEL_EXPORTER_OTLP_CLIENT_KEY", "/nowhere"), "", "no such file"},
		"queue":          {on("OTEL_BSP_MAX_QUEUE_SIZE", "-1"), "", "OTEL_BSP_MAX_QUEUE_SIZE must be a whole number from 1 to 1000000"},
		"batch":          {on("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "many"), "", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE must be a whole number from 1 to"},
		"delay":          {on("OTEL_BSP_SCHEDULE_DELAY", "0"), "", "OTEL_BSP_SCHEDULE_DELAY must be a whole number from 1 to"},
		"export timeout": {on("OTEL_BSP_EXPORT_TIMEOUT", "30s"), "", "OTEL_BSP_EXPORT_TIMEOUT must be a whole number from 1 to"},
		"no sampler":     {on("OTEL_TRACES_SAMPLER", "jaeger_remote"), "", "OTEL_TRACES_SAMPLER must be one of always_on, "},
		"ratio":          {on("OTEL_TRACES_SAMPLER", "traceidratio", "OTEL_TRACES_SAMPLER_ARG", "25"), "", "OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1"},
		"resource":       {on("OTEL_RESOURCE_ATTRIBUTES", "x"), "", "OTEL_RESOURCE_ATTRIBUTES must be KEY=VALUE"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &testkit.Log{}
			sender, err := otlp.New(otlp.Config{Getenv: func(name string) string { return try.env[name] }, Logger: log.Logger(slog.LevelInfo)})
			if try.want != "" {
				if err == nil || !strings.Contains(err.Error(), try.want) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("%v, want %s", err, try.want)
				}
				return
			}
			if err != nil || sender.Target() != try.target {
				t.Fatalf("%v, it sends to %q, want %q", err, sender.Target(), try.target)
			}
			_, s := sender.TracerProvider().Tracer("t").Start(t.Context(), "s")
			if s.SpanContext().IsValid() != (try.target != "") {
				t.Errorf("a span is valid: %t", s.SpanContext().IsValid())
			}
			if said := strings.Contains(log.String(), "no traces are sent"); said != (name == "no endpoint") {
				t.Errorf("logged:\n%s", log)
			}
			shutdown(t, sender)
		})
	}
}

// The wrong port is the most common mistake of all.
func TestSender_portOfTheOtherProtocol_isHinted(t *testing.T) {
	t.Parallel()
	for protocol, port := range map[string]string{"http/protobuf": "4317", "grpc": "4318"} {
		log := &testkit.Log{}
		sender := newSender(t, map[string]string{
			"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.77.66.55:" + port, "OTEL_EXPORTER_OTLP_TIMEOUT": "10",
		}, log.Logger(slog.LevelInfo))
		span(t, sender, "one")
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		_ = sender.Shutdown(ctx)
		cancel()
		eventually.True(t, "a hint", func() bool { return strings.Contains(log.String(), "port "+port+" is mostly for") })
	}
}
