package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/hooks"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/telemetry"
)

// spans are those that have ended.
type spans struct {
	*tracetest.InMemoryExporter
	provider *sdktrace.TracerProvider
}

func newSpans(t testing.TB, options ...sdktrace.TracerProviderOption) *spans {
	s := &spans{InMemoryExporter: tracetest.NewInMemoryExporter()}
	s.provider = sdktrace.NewTracerProvider(append(options, sdktrace.WithSyncer(s))...)
	t.Cleanup(func() { _ = s.provider.Shutdown(context.Background()) })
	return s
}

// of are the spans with an attribute.
func (s *spans) of(key, value string) (found tracetest.SpanStubs) {
	for _, span := range s.GetSpans() {
		if attributeOf(span, key) == value {
			found = append(found, span)
		}
	}
	return found
}

// named are those with a name.
func (s *spans) named(name string) tracetest.SpanStubs {
	return slices.DeleteFunc(s.GetSpans(), func(span tracetest.SpanStub) bool { return span.Name != name })
}

func attributeOf(span tracetest.SpanStub, key string) string {
	for _, a := range span.Attributes {
		if string(a.Key) == key {
			return a.Value.String()
		}
	}
	return ""
}

// fates are how jobs end, and the outcomes of their attempts.
var fates = map[string][]string{
	"done": {"done"}, "retried": {"retry", "done"}, "snoozed": {"snooze", "done"}, "completed": {"done"},
	"dies": {"dead_letter"}, "panics": {"retry", "dead_letter"}, "cancelled": {"cancelled"},
}

type fateArgs struct {
	Fate string `json:"fate"`
}

// stage has what plays the jobs' fates.
type stage struct {
	*spans
	pool    *pgxpool.Pool
	client  *engine.Client
	letters *deadletter.Queue
	// waits are the jobs that wait to be cancelled.
	waits chan uuid.UUID
	seen  sync.Map
}

func newStage(t *testing.T, config telemetry.TracesConfig, worker engine.WorkerConfig) *stage {
	s := &stage{spans: newSpans(t), pool: testdb.New(t), waits: make(chan uuid.UUID, 100)}
	config.TracerProvider = s.provider
	traces := telemetry.NewTraces(config)
	reg := engine.NewRegistry()
	engine.Handle(reg, "play", s.play, engine.MaxAttempts(2))
	var err error
	if s.client, err = engine.NewClient(s.pool, engine.ClientConfig{Registry: reg, Tracers: []engine.EnqueueTracer{traces}}); err != nil {
		t.Fatal(err)
	}
	if s.letters, err = deadletter.NewQueue(s.pool, deadletter.QueueConfig{}); err != nil {
		t.Fatal(err)
	}
	worker.Tracers = append(worker.Tracers, traces)
	work(t, s.pool, reg, worker)
	return s
}

// play is the handler. Each attempt has a span of the program's own.
func (s *stage) play(ctx context.Context, args fateArgs) error {
	_, own := s.provider.Tracer("program").Start(ctx, "own")
	defer own.End()
	job := engine.JobFromContext(ctx)
	_, again := s.seen.LoadOrStore(job.ID, true)
	switch args.Fate {
	case "retried":
		if !again {
			return engine.RetryAfter(time.Millisecond, errors.New("not yet, password=hunter2"))
		}
	case "snoozed":
		if !again {
			return engine.Snooze(time.Millisecond)
		}
	case "completed":
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return engine.CompleteTx(ctx, tx, nil) })
	case "dies":
		return engine.Permanent(errors.New("never, password=hunter2"))
	case "panics":
		if !again {
			return engine.RetryAfter(time.Millisecond, errors.New("not yet"))
		}
		panic("never")
	case "cancelled":
		s.waits <- job.ID
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

// ways are how jobs come into the table: each returns the job, and the span that it is of,
// which is none if nobody said.
var ways = map[string]func(ctx context.Context, t *testing.T, s *stage, fate string) (uuid.UUID, trace.SpanContext){
	"enqueue": func(ctx context.Context, t *testing.T, s *stage, fate string) (uuid.UUID, trace.SpanContext) {
		e, err := s.client.Enqueue(ctx, "play", fateArgs{fate})
		return e.ID, s.producer(t, err, e.ID)
	},
	"enqueue in a transaction": func(ctx context.Context, t *testing.T, s *stage, fate string) (id uuid.UUID, _ trace.SpanContext) {
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			e, err := s.client.EnqueueTx(ctx, tx, "play", fateArgs{fate})
			id = e.ID
			return err
		})
		return id, s.producer(t, err, id)
	},
	"enqueue many": func(ctx context.Context, t *testing.T, s *stage, fate string) (uuid.UUID, trace.SpanContext) {
		before := len(s.of("soniq.jobs", "2"))
		many, err := s.client.EnqueueMany(ctx, []engine.Insert{{Name: "play", Args: fateArgs{"done"}}, {Name: "play", Args: fateArgs{fate}}})
		batches := s.of("soniq.jobs", "2")
		if err != nil || len(batches) != before+1 {
			t.Fatalf("a batch has %d spans, %v", len(batches)-before, err)
		}
		return many[1].ID, batches[before].SpanContext
	},
	// What another program has set.
	"in a trace of elsewhere": func(ctx context.Context, t *testing.T, s *stage, fate string) (uuid.UUID, trace.SpanContext) {
		parent, want := elsewhere(t)
		e, err := s.client.Enqueue(ctx, "play", fateArgs{fate}, engine.InTrace(engine.NewTraceContext(parent, "vendor=1")))
		sent := s.of("soniq.job.id", e.ID.String())[0]
		if err != nil || sent.SpanKind != trace.SpanKindClient || len(sent.Links) != 1 || sent.Links[0].SpanContext.SpanID() != want.SpanID() {
			t.Errorf("%v, the span of an enqueue in a trace of elsewhere: %+v", err, sent)
		}
		return e.ID, want
	},
	"SQL with the column": func(_ context.Context, t *testing.T, s *stage, fate string) (uuid.UUID, trace.SpanContext) {
		parent, want := elsewhere(t)
		id := uuid.New()
		exec(t, s.pool, `insert into soniq_jobs (id, job_name, args, max_attempts, trace_context) values ($1, 'play', jsonb_build_object('fate', $2::text), 2, $3)`, id, fate, parent+" vendor=1")
		return id, want
	},
	// As Python Soniq does.
	"SQL without": func(_ context.Context, t *testing.T, s *stage, fate string) (uuid.UUID, trace.SpanContext) {
		id := uuid.New()
		exec(t, s.pool, `insert into soniq_jobs (id, job_name, args, max_attempts) values ($1, 'play', jsonb_build_object('fate', $2::text), 2)`, id, fate)
		return id, trace.SpanContext{}
	},
	"SQL with nonsense": func(_ context.Context, t *testing.T, s *stage, fate string) (uuid.UUID, trace.SpanContext) {
		id := uuid.New()
		exec(t, s.pool, `insert into soniq_jobs (id, job_name, args, max_attempts, trace_context) values ($1, 'play', jsonb_build_object('fate', $2::text), 2, repeat('nonsense', $3))`,
			id, fate, 1+len(fate)%2*5000)
		return id, trace.SpanContext{}
	},
}

// producer is the span of an enqueue.
func (s *stage) producer(t *testing.T, err error, id uuid.UUID) trace.SpanContext {
	t.Helper()
	all := s.of("soniq.job.id", id.String())
	i := slices.IndexFunc(all, func(span tracetest.SpanStub) bool { return span.Name == "enqueue play" })
	if err != nil || i < 0 || all[i].SpanKind != trace.SpanKindProducer {
		t.Fatalf("%v, the spans of an enqueued job: %+v", err, all)
	}
	return all[i].SpanContext
}

// elsewhere is a traceparent of another program.
func elsewhere(t *testing.T) (string, trace.SpanContext) {
	traceID, spanID := uuid.New(), uuid.New()
	c := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID(traceID), SpanID: trace.SpanID(spanID[:8]), TraceFlags: trace.FlagsSampled})
	if !c.IsValid() {
		t.Fatal(c)
	}
	return fmt.Sprintf("00-%s-%s-01", c.TraceID(), c.SpanID()), c
}

// attempts are the spans of a job's attempts once it has ended, in their order.
func (s *stage) attempts(t *testing.T, id uuid.UUID, outcomes []string) (found tracetest.SpanStubs) {
	t.Helper()
	eventually.True(t, fmt.Sprintf("attempts that end with %q", outcomes), func() bool {
		found = slices.DeleteFunc(s.of("soniq.job.id", id.String()), func(span tracetest.SpanStub) bool { return span.SpanKind != trace.SpanKindConsumer })
		return len(found) >= len(outcomes)
	})
	var got []string
	for _, span := range found {
		got = append(got, attributeOf(span, "soniq.outcome"))
	}
	if !slices.Equal(got, outcomes) {
		t.Errorf("the attempts ended with %q, want %q", got, outcomes)
	}
	return found
}

// follow checks that attempts are children of the producer's span, with a link to it, and
// that what the handler began is a child of them.
func (s *stage) follow(t *testing.T, what string, attempts tracetest.SpanStubs, producer trace.SpanContext) {
	t.Helper()
	traces := map[trace.TraceID]bool{}
	for _, span := range attempts {
		traces[span.SpanContext.TraceID()] = true
		switch {
		case !producer.IsValid():
			if span.Parent.IsValid() || len(span.Links) > 0 {
				t.Errorf("%s: an attempt has the parent %v and %d links, and the job is in no trace", what, span.Parent, len(span.Links))
			}
		case span.SpanContext.TraceID() != producer.TraceID() || span.Parent.SpanID() != producer.SpanID() || !span.Parent.IsRemote():
			t.Errorf("%s: an attempt is in the trace %s under %s, want %s under %s", what,
				span.SpanContext.TraceID(), span.Parent.SpanID(), producer.TraceID(), producer.SpanID())
		case len(span.Links) != 1 || span.Links[0].SpanContext.SpanID() != producer.SpanID():
			t.Errorf("%s: an attempt has the links %+v", what, span.Links)
		}
		owns := slices.DeleteFunc(s.named("own"), func(own tracetest.SpanStub) bool { return own.Parent.SpanID() != span.SpanContext.SpanID() })
		if len(owns) != 1 {
			t.Errorf("%s: %d spans of the handler are children of an attempt", what, len(owns))
		}
		if failed := span.Status.Code == codes.Error; failed != slices.Contains([]string{"retry", "dead_letter"}, attributeOf(span, "soniq.outcome")) {
			t.Errorf("%s: %s has the status %v", what, attributeOf(span, "soniq.outcome"), span.Status)
		}
		if span.EndTime.IsZero() || span.EndTime.Before(span.StartTime) {
			t.Errorf("%s: a span has no end", what)
		}
	}
	if producer.IsValid() && len(traces) != 1 || !producer.IsValid() && len(traces) != len(attempts) {
		t.Errorf("%s: %d traces of %d attempts", what, len(traces), len(attempts))
	}
}

// Whatever way a job comes and however it ends: its attempts, its replays, with other
// arguments too, and its copy by a file are one trace.
func TestTraces_anyWayAndFate_areOneStory(t *testing.T) {
	t.Parallel()
	s := newStage(t, telemetry.TracesConfig{}, engine.WorkerConfig{Concurrency: 20})
	ctx, request := s.provider.Tracer("program").Start(t.Context(), "request")
	type part struct {
		what     string
		id       uuid.UUID
		producer trace.SpanContext
		fate     string
	}
	var parts []part
	for way, insert := range ways {
		for fate := range fates {
			id, producer := insert(ctx, t, s, fate)
			if strings.HasPrefix(way, "enqueue") && producer.TraceID() != request.SpanContext().TraceID() {
				t.Errorf("%s: the producer is not in the trace of who enqueues", way)
			}
			parts = append(parts, part{way + ", " + fate, id, producer, fate})
		}
	}
	request.End()
	go func() {
		for range len(ways) {
			_, _ = s.client.CancelJob(ctx, <-s.waits)
		}
	}()
	var letters []part
	for _, p := range parts {
		s.follow(t, p.what, s.attempts(t, p.id, fates[p.fate]), p.producer)
		if p.fate == "dies" || p.fate == "panics" {
			letters = append(letters, p)
		}
	}
	for i, p := range letters {
		eventually.True(t, p.what+": the dead letter", func() bool { _, err := s.letters.Get(ctx, p.id); return err == nil })
		options := deadletter.ReplayOptions{}
		outcomes := fates[p.fate]
		if i%2 == 0 {
			options.Edits, outcomes = []deadletter.ArgsEdit{{Path: "fate", Value: json.RawMessage(`"done"`)}}, fates["done"]
		}
		if i%3 == 0 {
			s.moveByFile(t, p.id)
		}
		again, err := s.letters.Replay(ctx, p.id, options)
		if err != nil {
			t.Fatalf("%s: %v", p.what, err)
		}
		attempts := s.attempts(t, again, outcomes)
		s.follow(t, p.what+", replayed", attempts, p.producer)
		if attributeOf(attempts[0], "soniq.replay_of") != p.id.String() {
			t.Errorf("%s: the replay does not say of what", p.what)
		}
	}
	for _, span := range s.GetSpans() {
		if all := fmt.Sprintf("%+v", span); strings.Contains(all, "hunter2") || strings.Contains(all, "nonsense") {
			t.Errorf("a secret, or what a stranger wrote, is in a span: %s", all)
		}
	}
}

// moveByFile exports a dead letter, deletes it, and imports it.
func (s *stage) moveByFile(t *testing.T, id uuid.UUID) {
	t.Helper()
	for _, format := range []deadletter.Format{deadletter.FormatJSONL, deadletter.FormatCSV, deadletter.FormatJSON} {
		var file bytes.Buffer
		n, err := s.letters.Export(t.Context(), &file, deadletter.Filter{}, format)
		if err == nil {
			err = s.letters.Delete(t.Context(), id)
		}
		var imported deadletter.ImportResult
		if err == nil {
			imported, err = s.letters.Import(t.Context(), bytes.NewReader(file.Bytes()), format, deadletter.ImportOptions{})
		}
		if err != nil || n == 0 || imported.Imported != 1 || strings.Contains(file.String(), "nonsense") {
			t.Fatalf("%s: %d exported, %d imported, %v:\n%s", format, n, imported.Imported, err, file.String())
		}
	}
}

// The worker of a job dies: the span of that attempt is never seen, and a span says what
// became of the job.
func TestTraces_workerDies_recoveryIsInTheStory(t *testing.T) {
	t.Parallel()
	s := newStage(t, telemetry.TracesConfig{}, engine.WorkerConfig{})
	parent, producer := elsewhere(t)
	ids := []uuid.UUID{uuid.New(), uuid.New()}
	exec(t, s.pool, `insert into soniq_jobs (id, job_name, args, status, worker_id, attempts, max_attempts, claim_token, updated_at, trace_context)
		select ($1::uuid[])[n], 'play', '{"fate": "done"}', 'processing', gen_random_uuid(), n, 2, 7, now() - interval '1 hour', $2 from generate_series(1, 2) n`, ids, parent)
	for i, want := range []string{"queued", "dead_letter"} {
		var recovered tracetest.SpanStubs
		eventually.True(t, want, func() bool {
			recovered = slices.DeleteFunc(s.of("soniq.job.id", ids[i].String()), func(span tracetest.SpanStub) bool { return span.Name != "recover play" })
			return len(recovered) == 1
		})
		span := recovered[0]
		if attributeOf(span, "soniq.recovery") != want || span.Parent.SpanID() != producer.SpanID() || len(span.Links) != 1 || (span.Status.Code == codes.Error) != (want == "dead_letter") {
			t.Errorf("%s: %+v", want, span)
		}
	}
	s.follow(t, "queued again", s.attempts(t, ids[0], []string{"done"}), producer)
	letter, err := s.letters.Get(t.Context(), ids[1])
	if err != nil || letter.TraceContext.Parent() != parent {
		t.Errorf("%v, the dead letter is of %q", err, letter.TraceContext)
	}
}

// A hook is a part of the story: a span of its own, whose context the receiver gets.
func TestTraces_hook_deliveryIsInTheStory(t *testing.T) {
	t.Parallel()
	s := newSpans(t)
	traces := telemetry.NewTraces(telemetry.TracesConfig{TracerProvider: s.provider})
	pool := testdb.New(t)
	got := make(chan http.Header, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header
		if r.URL.Path == "/bad" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer receiver.Close()
	d, err := hooks.NewDispatcher(pool, hooks.Config{Tracers: []hooks.Tracer{traces}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	var specs []hooks.Spec
	for _, name := range []string{"good", "bad"} {
		specs = append(specs, hooks.Spec{Name: name, Kind: hooks.Webhook, URL: receiver.URL + "/" + name, Allow: []string{"127.0.0.0/8"}})
	}
	if err := d.Declare(t.Context(), specs...); err != nil {
		t.Fatal(err)
	}
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "dies", func(context.Context, *engine.Job) (any, error) { return nil, engine.Permanent(errors.New("no")) })
	work(t, pool, reg, engine.WorkerConfig{Tracers: []engine.Tracer{traces}, Services: []engine.BackgroundService{d}})
	client, err := engine.NewClient(pool, engine.ClientConfig{Tracers: []engine.EnqueueTracer{traces}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Enqueue(t.Context(), "dies", nil); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "both deliveries", func() bool { return len(s.named("hook good")) == 1 && len(s.named("hook bad")) >= 1 })
	producer := s.named("enqueue dies")[0].SpanContext
	want := map[string]bool{}
	for _, name := range []string{"good", "bad"} {
		span := s.named("hook " + name)[0]
		outcome, code := "delivered", codes.Unset
		if name == "bad" {
			outcome, code = "retried", codes.Error
		}
		if span.Parent.SpanID() != producer.SpanID() || len(span.Links) != 1 || span.SpanKind != trace.SpanKindClient ||
			attributeOf(span, "soniq.outcome") != outcome || span.Status.Code != code {
			t.Errorf("%s: %+v", name, span)
		}
		want[fmt.Sprintf("00-%s-%s-01", producer.TraceID(), span.SpanContext.SpanID())] = true
	}
	for range 2 {
		delete(want, (<-got).Get("Traceparent"))
	}
	if len(want) > 0 {
		t.Errorf("no receiver got %v", slices.Collect(maps.Keys(want)))
	}
	if len(s.named("process dies")) != 1 || len(s.named("process dies")[0].Events) != 2 {
		t.Errorf("%+v", s.named("process dies"))
	}
}

// What can't be brought about quickly: an abandoned handler, digests, other options.
func TestTraces_conventions_areAnOption(t *testing.T) {
	t.Parallel()
	parent, producer := elsewhere(t)
	job := &engine.Job{ID: uuid.New(), Queue: "q", Name: "n", Attempts: 1, MaxAttempts: 3, TraceContext: engine.NewTraceContext(parent[:53]+"ff", "vendor=1")}
	for _, try := range []struct {
		config     telemetry.TracesConfig
		name, sent string
		attributes []string
	}{
		{telemetry.TracesConfig{}, "process n", "enqueue n", []string{"soniq.job.id", "soniq.queue", "soniq.attempt", "soniq.max_attempts"}},
		{telemetry.TracesConfig{Messaging: true}, "process q", "send q", []string{"soniq.job.id", "messaging.system", "messaging.operation.name", "messaging.operation.type", "messaging.destination.name", "messaging.message.id"}},
		{telemetry.TracesConfig{LinkOnly: true}, "process n", "enqueue n", nil},
	} {
		s := newSpans(t)
		try.config.TracerProvider = s.provider
		traces := telemetry.NewTraces(try.config)
		traces.TraceEnqueueEnd(traces.TraceEnqueueStart(t.Context(), &engine.EnqueueTrace{Jobs: []engine.EnqueuedJob{{Name: "n", Queue: "q"}}}),
			&engine.EnqueueTrace{Jobs: []engine.EnqueuedJob{{Duplicate: true}}, Err: errors.New("token=hunter2")})
		ctx := traces.TraceAttemptStart(t.Context(), job)
		traces.TraceAttemptAbandon(ctx, engine.Outcome{Job: job, Kind: engine.OutcomeDeadLetter, Delay: time.Second, Verdict: classify.Verdict{Reason: classify.Timeout, Code: "7"}})
		traces.TraceAttemptEnd(ctx, engine.Outcome{Job: job, Kind: engine.OutcomeDone})
		sent, ran := s.named(try.sent), s.named(try.name)
		if len(sent) != 1 || len(ran) != 1 {
			t.Fatalf("%+v: %+v", try.config, s.GetSpans())
		}
		if sent[0].Status.Code != codes.Error || strings.Contains(sent[0].Status.Description, "hunter2") || attributeOf(sent[0], "soniq.duplicates") != "1" {
			t.Errorf("%+v", sent[0])
		}
		for _, key := range try.attributes {
			if attributeOf(ran[0], key) == "" {
				t.Errorf("%s has no %s", try.name, key)
			}
		}
		if messaging := strings.Contains(fmt.Sprint(ran[0].Attributes, sent[0].Attributes), "messaging."); messaging != try.config.Messaging {
			t.Errorf("has attributes of the conventions: %t", messaging)
		}
		span := ran[0]
		if attributeOf(span, "soniq.outcome") != "dead_letter" || attributeOf(span, "soniq.abandoned") != "true" || attributeOf(span, "soniq.reason") != "timeout" {
			t.Errorf("an abandoned handler's span: %+v", span)
		}
		child := span.SpanContext.TraceID() == producer.TraceID() && span.Parent.SpanID() == producer.SpanID()
		if child == try.config.LinkOnly || len(span.Links) != 1 || span.Links[0].SpanContext.SpanID() != producer.SpanID() || span.Links[0].SpanContext.TraceState().Get("vendor") != "1" {
			t.Errorf("%+v: %+v", try.config, span)
		}
	}
}

func TestTraces_digest_isLinkedToEach(t *testing.T) {
	t.Parallel()
	s := newSpans(t)
	traces := telemetry.NewTraces(telemetry.TracesConfig{TracerProvider: s.provider})
	d := &hooks.Delivery{ID: uuid.New(), Hook: "h", Groups: []hooks.Group{{Count: 3}}}
	want := map[trace.TraceID]bool{}
	for range 200 {
		parent, c := elsewhere(t)
		want[c.TraceID()] = true
		d.Groups = append(d.Groups, hooks.Group{Count: 1, Event: hooks.Event{Letter: deadletter.Job{TraceContext: engine.NewTraceContext(parent, "")}}})
	}
	ctx := traces.TraceDeliveryStart(t.Context(), d)
	if traces.TraceContext(ctx).IsZero() {
		t.Error("a digest has no trace context to pass on")
	}
	traces.TraceDeliveryEnd(ctx, hooks.DeliveryTrace{Delivery: d, Outcome: hooks.DeliveryReleased, Err: errors.New("broken off")})
	span := s.named("hook h")[0]
	for _, link := range span.Links {
		delete(want, link.SpanContext.TraceID())
	}
	if len(span.Links) != 128 || len(want) != 72 || attributeOf(span, "soniq.events") != "203" || span.Parent.IsValid() || span.Status.Code != codes.Unset {
		t.Errorf("%d links, %d left, %+v", len(span.Links), len(want), span)
	}
}

// Whoever began the trace has decided whether it is recorded. The context goes on all the
// same.
func TestTraces_notSampled_nothingIsRecorded(t *testing.T) {
	t.Parallel()
	s := newStage(t, telemetry.TracesConfig{}, engine.WorkerConfig{})
	parent, _ := elsewhere(t)
	id := uuid.New()
	exec(t, s.pool, `insert into soniq_jobs (id, job_name, args, trace_context) values ($1, 'play', '{"fate": "dies"}', $2)`, id, parent[:53]+"00")
	var letter deadletter.Job
	eventually.True(t, "the dead letter", func() (there bool) {
		var err error
		letter, err = s.letters.Get(t.Context(), id)
		return err == nil
	})
	if n := len(s.GetSpans()); n != 0 {
		t.Errorf("%d spans of a trace that is not sampled: %+v", n, s.GetSpans())
	}
	if letter.TraceContext.Parent() != parent[:53]+"00" {
		t.Errorf("the dead letter is of %q", letter.TraceContext)
	}
	never := newSpans(t, sdktrace.WithSampler(sdktrace.NeverSample()))
	traces := telemetry.NewTraces(telemetry.TracesConfig{TracerProvider: never.provider})
	e := &engine.EnqueueTrace{Jobs: []engine.EnqueuedJob{{Name: "n", Queue: "q"}}}
	traces.TraceEnqueueEnd(traces.TraceEnqueueStart(t.Context(), e), e)
	if c := e.Jobs[0].TraceContext; c.IsZero() || c.Sampled() || len(never.GetSpans()) != 0 {
		t.Errorf("%q and %d spans", c, len(never.GetSpans()))
	}
}

// noShortcut is the standard propagator, which Traces does not recognize.
type noShortcut struct{ propagation.TraceContext }

// Trace contexts are read and written without the propagator where it is the standard one:
// what comes of it is the same, whatever programs of other kinds have written.
func TestTraces_standardPropagator_isMatchedToTheLetter(t *testing.T) {
	t.Parallel()
	states := []string{"", "vendor=1", "a=1, b=2 ,c@d=e", " , ", "bad", strings.Repeat("k=v,", 40), "k=" + strings.Repeat("v", 256)}
	s := newSpans(t, sdktrace.WithSampler(sdktrace.AlwaysSample()))
	shortcut := telemetry.NewTraces(telemetry.TracesConfig{TracerProvider: s.provider})
	plain := telemetry.NewTraces(telemetry.TracesConfig{TracerProvider: s.provider, Propagator: noShortcut{}})
	for flags := range 256 {
		for _, version := range []string{"00", "01", "cc", "fe", "ff"} {
			parent, _ := elsewhere(t)
			from := engine.NewTraceContext(fmt.Sprintf("%s%s%02x", version, parent[2:53], flags), states[flags%len(states)])
			if version == "ff" && !from.IsZero() {
				t.Fatal(from)
			}
			job := &engine.Job{ID: uuid.New(), Queue: "q", Name: "n", Attempts: 1, MaxAttempts: 3, TraceContext: from}
			var stubs [2]tracetest.SpanStub
			for i, traces := range []*telemetry.Traces{shortcut, plain} {
				s.Reset()
				// What a worker runs in is of nobody's job.
				ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}}))
				ctx = traces.TraceAttemptStart(ctx, job)
				if a, b := shortcut.TraceContext(ctx), plain.TraceContext(ctx); a != b || a.IsZero() {
					t.Fatalf("%s is passed on as %q, want %q", from, a, b)
				}
				traces.TraceAttemptEnd(ctx, engine.Outcome{Job: job, Kind: engine.OutcomeDone})
				stubs[i] = s.GetSpans()[0]
			}
			a, b := stubs[0], stubs[1]
			if !a.Parent.Equal(b.Parent) || len(a.Links) != len(b.Links) || a.SpanContext.TraceFlags() != b.SpanContext.TraceFlags() ||
				a.SpanContext.TraceState().String() != b.SpanContext.TraceState().String() || !slices.Equal(a.Attributes, b.Attributes) {
				t.Errorf("%s: %+v, want %+v", from, a, b)
			}
			if a.Parent.IsValid() == from.IsZero() || !from.IsZero() && (a.SpanContext.TraceID() != b.SpanContext.TraceID() || !a.Links[0].SpanContext.Equal(b.Links[0].SpanContext)) {
				t.Errorf("%s: %+v, want %+v", from, a, b)
			}
		}
	}
	if c := shortcut.TraceContext(t.Context()); !c.IsZero() {
		t.Errorf("no span is passed on as %q", c)
	}
}

// What is remembered of the first attempts of a job's name is not taken for another attempt, nor for
// another limit or another job.
func TestTraces_attemptsOfOneName_haveTheirOwnAttributes(t *testing.T) {
	t.Parallel()
	s := newSpans(t)
	for _, messaging := range []bool{false, true} {
		traces := telemetry.NewTraces(telemetry.TracesConfig{TracerProvider: s.provider, Messaging: messaging})
		for range 2 {
			for _, number := range [][2]int{{2, 3}, {1, 3}, {1, 3}, {1, 4}, {2, 4}, {1, 3}} {
				for _, replayOf := range []*uuid.UUID{nil, new(uuid.New())} {
					s.Reset()
					job := &engine.Job{ID: uuid.New(), Queue: "q", Name: "n", Attempts: number[0], MaxAttempts: number[1], ReplayOf: replayOf}
					attempt(t.Context(), traces, job)
					span := s.GetSpans()[0]
					want := map[string]string{
						"soniq.job.id": job.ID.String(), "soniq.job.name": "n", "soniq.queue": "q", "soniq.outcome": "done",
						"soniq.attempt": fmt.Sprint(number[0]), "soniq.max_attempts": fmt.Sprint(number[1]), "soniq.replay_of": "",
					}
					count := 6
					if replayOf != nil {
						want["soniq.replay_of"] = replayOf.String()
						count++
					}
					if messaging {
						want["messaging.message.id"], want["messaging.destination.name"] = job.ID.String(), "q"
						count += 5
					}
					for key, value := range want {
						if got := attributeOf(span, key); got != value {
							t.Errorf("attempt %v: %s is %q, want %q", number, key, got, value)
						}
					}
					if len(span.Attributes) != count || span.SpanKind != trace.SpanKindConsumer {
						t.Errorf("attempt %v: a %s with %d attributes, want %d: %v", number, span.SpanKind, len(span.Attributes), count, span.Attributes)
					}
				}
			}
		}
	}
}

// An attempt that is not sampled costs what it takes to say so, and to pass its context on.
func TestTraces_notSampled_attemptsCostLittle(t *testing.T) {
	parent, _ := elsewhere(t)
	allocations := func(sampler sdktrace.Sampler, flags string) float64 {
		traces := tracesOf(t, sampler)
		job := &engine.Job{ID: uuid.New(), Queue: "q", Name: "n", Attempts: 1, MaxAttempts: 3, TraceContext: engine.NewTraceContext(parent[:53]+flags, "")}
		return testing.AllocsPerRun(1000, func() { attempt(t.Context(), traces, job) })
	}
	never, byParent, recorded := allocations(sdktrace.NeverSample(), "01"), allocations(sdktrace.ParentBased(sdktrace.AlwaysSample()), "00"), allocations(sdktrace.AlwaysSample(), "01")
	t.Logf("allocations: %v never sampled, %v as the producer wants it, %v recorded", never, byParent, recorded)
	if never > 8 || byParent > 8 || recorded > 30 {
		t.Errorf("allocations: %v never sampled, %v as the producer wants it, want at most 8; %v recorded, want at most 30", never, byParent, recorded)
	}
}
