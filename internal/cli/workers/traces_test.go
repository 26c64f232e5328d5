package workers_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// collector takes spans over http/protobuf.
type collector struct {
	mu      sync.Mutex
	spans   []*tracepb.Span
	service string
}

func (c *collector) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	var all tracepb.TracesData // as the collector's request on the wire
	if err := proto.Unmarshal(raw, &all); err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range all.ResourceSpans {
		for _, a := range of.Resource.Attributes {
			if a.Key == "service.name" {
				c.service = a.Value.GetStringValue()
			}
		}
		for _, scope := range of.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
}

// A worker sends its spans where the standard variables say, and its last ones when it stops.
// A command gets the span of its attempt.
func TestWorker_otlpEndpoint_sendsTraces(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	c := &collector{}
	server := httptest.NewServer(c)
	defer server.Close()
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.Env["OTEL_EXPORTER_OTLP_ENDPOINT"], s.Env["OTEL_SEMCONV_STABILITY_OPT_IN"] = server.URL, "http,messaging"
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	worker := s.Start("worker", "--log-format=json", "--handle", `says=exec:printf '"%s"' "$TRACEPARENT"`, "--handle", "dies=exec:exit 78")
	said := s.OK("enqueue", "says", "--traceparent", "00-"+trace+"-00f067aa0ba902b7-01", "--wait").Out
	if r := s.Run("enqueue", "dies", "--wait"); r.Code != 1 {
		t.Errorf("exit %d: %s", r.Code, r.Err)
	}
	s.Signals <- os.Interrupt
	clitest.WantCode(t, clitest.Result{Code: worker.Wait(t)}, 0)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.spans) != 2 || c.service != "soniq-worker" {
		t.Fatalf("%d spans of %q: %v\n%s", len(c.spans), c.service, c.spans, worker.Err.String())
	}
	first, second := c.spans[0], c.spans[1]
	if first.Name != "process default" || len(first.Links) != 1 || second.Status.Code != tracepb.Status_STATUS_CODE_ERROR || len(second.ParentSpanId) != 0 {
		t.Errorf("%v, %v", first, second)
	}
	if want := "00-" + trace + "-" + hexOf(first.SpanId) + "-01"; !strings.Contains(said, want) {
		t.Errorf("the command got %s, want %s", said, want)
	}
	clitest.WantIn(t, "the log", worker.Err.String(), `"trace_id":"`+hexOf(second.TraceId)+`"`, "sending traces")
}

// With the key of the file, or the flag, which wins, an attempt begins a trace of its own. A
// dispatcher says too where traces go.
func TestWorker_traceLinkOnly_attemptsBeginTraces(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	c := &collector{}
	server := httptest.NewServer(c)
	defer server.Close()
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.Env["OTEL_EXPORTER_OTLP_ENDPOINT"] = server.URL
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	config := testkit.ConfigFile(t, "trace_link_only: true\njobs: {j: {exec: \"true\"}}\n")
	for _, try := range []struct {
		line []string
		own  bool
	}{
		{[]string{"worker", "--config", config}, true},
		{[]string{"worker", "--config", config, "--no-trace-link-only"}, false},
		{[]string{"worker", "--handle", "j=exec:true"}, false},
		{[]string{"worker", "--handle", "j=exec:true", "--trace-link-only"}, true},
	} {
		worker := s.Start(try.line...)
		s.OK("enqueue", "j", "--traceparent", "00-"+trace+"-00f067aa0ba902b7-01", "--wait")
		s.Signals <- os.Interrupt
		clitest.WantCode(t, clitest.Result{Code: worker.Wait(t), Err: worker.Err.String()}, 0)
		c.mu.Lock()
		if len(c.spans) != 1 {
			t.Fatalf("%q: %d spans", try.line, len(c.spans))
		}
		span := c.spans[0]
		c.spans = nil
		c.mu.Unlock()
		if own := hexOf(span.TraceId) != trace && len(span.ParentSpanId) == 0; own != try.own || len(span.Links) != 1 || hexOf(span.Links[0].TraceId) != trace {
			t.Errorf("%q: a trace of its own: %t, %v", try.line, own, span)
		}
	}
	dispatcher := s.Start("hooks", "run", "--trace-link-only")
	eventually.True(t, "where traces go", func() bool { return strings.Contains(dispatcher.Err.String(), "sending traces") })
	s.Signals <- os.Interrupt
	dispatcher.Wait(t) // it may have been broken off in its start
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}

// A mistake in a variable is said before anything starts, and so is where traces go. A
// collector that is away stops neither a job nor the worker.
func TestWorker_otlpVariables_mistakesAndCollectorAway(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	for _, args := range [][]string{{"worker", "--handle", "j=exec:true", "--check-config"}, {"worker", "--handle", "j=exec:true"}, {"hooks", "run"}} {
		s.Env["OTEL_EXPORTER_OTLP_ENDPOINT"] = "ann:hunter2@localhost:4318"
		r := s.Run(args...)
		clitest.WantCode(t, r, 2)
		clitest.WantIn(t, strings.Join(args, " "), r.Err, "OTEL_EXPORTER_OTLP_ENDPOINT must be an http:// or https:// URL")
		if strings.Contains(r.Err+r.Out, "hunter2") {
			t.Errorf("shows a password: %s", r.Err)
		}
	}
	s.Env["OTEL_EXPORTER_OTLP_ENDPOINT"], s.Env["OTEL_EXPORTER_OTLP_HEADERS"] = "http://"+testkit.ClosedAddress(t), "x-api-key=hunter2"
	clitest.WantIn(t, "check-config", s.OK("worker", "--handle", "j=exec:true", "--check-config").Err, "traces go to http/protobuf http://127.0.0.1:")
	clitest.WantIn(t, "check-config --json", s.OK("worker", "--handle", "j=exec:true", "--check-config", "--json").Out, `"traces": "http/protobuf http://127.0.0.1:`)
	worker := s.Start("worker", "--handle", "j=exec:true")
	s.OK("enqueue", "j", "--wait")
	s.Signals <- os.Interrupt
	clitest.WantCode(t, clitest.Result{Code: worker.Wait(t)}, 0)
	clitest.WantIn(t, "the log", worker.Err.String(), "the last traces could not be sent", "connection refused")
	if strings.Contains(worker.Err.String(), "hunter2") {
		t.Errorf("shows a header: %s", worker.Err.String())
	}
}
