package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/engine"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

const (
	traceID     = "4bf92f3577b34da6a3ce929d0e0e4736"
	traceparent = "00-" + traceID + "-00f067aa0ba902b7-01"
)

// Without any tracer a trace context goes through: to the handler, to what the handler
// enqueues, into the log, and into the dead letter.
func TestTraceContext_noTracer_isPassedOn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg, client := engine.NewRegistry(), newClient(t, pool)
	want := engine.NewTraceContext(traceparent, "vendor=1")
	var mu sync.Mutex
	seen := map[string]engine.TraceContext{}
	see := func(ctx context.Context, job *engine.Job) {
		mu.Lock()
		defer mu.Unlock()
		if job.TraceContext != engine.TraceContextFrom(ctx) {
			t.Errorf("%s: the job is of %q, its context of %q", job.Name, job.TraceContext, engine.TraceContextFrom(ctx))
		}
		seen[job.Name] = job.TraceContext
	}
	var children []uuid.UUID
	engine.HandleRaw(reg, "parent", func(ctx context.Context, job *engine.Job) (any, error) {
		see(ctx, job)
		one, err := client.Enqueue(ctx, "child", nil)
		if err != nil {
			return nil, err
		}
		many, err := client.EnqueueMany(ctx, []engine.Insert{{Name: "child"}, {Name: "child", Options: []engine.EnqueueOption{engine.InTrace(engine.NewTraceContext(traceparent, ""))}}})
		if err != nil {
			return nil, err
		}
		children = []uuid.UUID{one.ID, many[0].ID, many[1].ID}
		return nil, engine.Permanent(errors.New("no"))
	})
	noop(reg, "child")
	engine.HandleRaw(reg, "alone", func(ctx context.Context, job *engine.Job) (any, error) {
		see(ctx, job)
		return nil, engine.Permanent(errors.New("no"))
	})
	log := &testkit.Log{}
	w := start(t, pool, reg, engine.WorkerConfig{Logger: log.Logger(slog.LevelInfo)})
	id := enqueue(t, client, "parent", nil, engine.InTrace(want))
	w.waitForJob(t, id)
	for i, child := range children {
		job, err := client.Job(t.Context(), child)
		state := "vendor=1"
		if i == 2 {
			state = ""
		}
		if err != nil || job.TraceContext != engine.NewTraceContext(traceparent, state) {
			t.Errorf("%v, a job that a handler has enqueued is of %q", err, job.TraceContext)
		}
	}
	alone := enqueue(t, client, "alone", nil)
	w.waitForJob(t, alone)
	mu.Lock()
	defer mu.Unlock()
	if seen["parent"] != want || !seen["alone"].IsZero() {
		t.Errorf("handlers have seen %q", seen)
	}
	if job, err := client.Job(t.Context(), id); err != nil || job.TraceContext != want || job.Status != engine.StatusDeadLetter {
		t.Errorf("%v, the dead letter is of %q", err, job.TraceContext)
	}
	var told, others int
	for line := range strings.Lines(log.String()) {
		if !strings.Contains(line, "job is a dead letter") {
			continue
		}
		if strings.Contains(line, id.String()) && strings.Contains(line, traceID) {
			told++
		} else if strings.Contains(line, "trace_id") {
			others++
		}
	}
	if told != 1 || others != 0 {
		t.Errorf("%d lines of the job name the trace, and %d of others:\n%s", told, others, log)
	}
	if n := testkit.Count(t, pool, "select count(*) from soniq_jobs where trace_context is null"); n != 0 {
		t.Errorf("%d jobs are in no trace", n)
	}
}

// enqueueFollower is a tracer of enqueues.
type enqueueFollower struct {
	follower
	give engine.TraceContext
}

func (f *enqueueFollower) TraceEnqueueStart(ctx context.Context, e *engine.EnqueueTrace) context.Context {
	for i := range e.Jobs {
		f.say("start %s of %s, own: %t", e.Jobs[i].Name, e.Jobs[i].Queue, !e.Jobs[i].TraceContext.IsZero())
		if e.Jobs[i].TraceContext.IsZero() {
			e.Jobs[i].TraceContext = f.give
		}
	}
	outer, _ := ctx.Value(followedKey{}).(string)
	return context.WithValue(ctx, followedKey{}, outer+f.name)
}

func (f *enqueueFollower) TraceEnqueueEnd(ctx context.Context, e *engine.EnqueueTrace) {
	for _, job := range e.Jobs {
		f.say("end %s, duplicate: %t, failed: %t, in %v", job.Name, job.Duplicate, e.Err != nil, ctx.Value(followedKey{}))
	}
}

func (brokenTracer) TraceEnqueueStart(context.Context, *engine.EnqueueTrace) context.Context {
	panic("tracer")
}
func (brokenTracer) TraceEnqueueEnd(context.Context, *engine.EnqueueTrace) { panic("tracer") }

// Each enqueue begins and ends once in each tracer, whatever comes of it. What a tracer says
// is stored, unless the caller has said it.
func TestEnqueueTracer_eachEnqueue_isFollowed(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	mine, yours := engine.NewTraceContext(traceparent, ""), engine.NewTraceContext("00-"+traceID+"-1111111111111111-00", "a=1")
	a, b := &enqueueFollower{follower: follower{name: "a"}, give: mine}, &enqueueFollower{follower: follower{name: "b"}, give: yours}
	client, err := engine.NewClient(pool, engine.ClientConfig{Tracers: []engine.EnqueueTracer{a, brokenTracer{}, b}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	one, err := client.Enqueue(ctx, "one", nil, engine.DedupKey("k"), engine.Queue("q"))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := client.Enqueue(ctx, "again", nil, engine.DedupKey("k"), engine.InTrace(yours)); err != nil || again.ID != one.ID {
		t.Fatal(again, err)
	}
	many, err := client.EnqueueMany(ctx, []engine.Insert{{Name: "first", Options: []engine.EnqueueOption{engine.InTrace(yours)}}, {Name: "second"}})
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[uuid.UUID]engine.TraceContext{one.ID: mine, many[0].ID: yours, many[1].ID: mine} {
		if job, err := client.Job(ctx, id); err != nil || job.TraceContext != want {
			t.Errorf("%v, %s is of %q, want %q", err, job.Name, job.TraceContext, want)
		}
	}
	if _, err := client.EnqueueMany(ctx, nil); err != nil {
		t.Error(err)
	}
	if _, err := client.Enqueue(ctx, "", nil); err == nil {
		t.Error("no name is taken")
	}
	exec(t, pool, "alter table soniq_jobs add check (job_name <> 'refused')")
	if _, err := client.Enqueue(ctx, "refused", nil); err == nil {
		t.Error("what the database refuses is taken")
	}
	for _, f := range []*enqueueFollower{a, b} {
		own := f == b // a has said it
		want := []string{
			fmt.Sprintf("start one of q, own: %t", own), "end one, duplicate: false, failed: false, in ab",
			"start again of default, own: true", "end again, duplicate: true, failed: false, in ab",
			"start first of default, own: true", fmt.Sprintf("start second of default, own: %t", own),
			"end first, duplicate: false, failed: false, in ab", "end second, duplicate: false, failed: false, in ab",
			fmt.Sprintf("start refused of default, own: %t", own), "end refused, duplicate: false, failed: true, in ab",
		}
		if got := f.lines(); !slices.Equal(got, want) {
			t.Errorf("%s was told\n%s\nwant\n%s", f.name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	if _, err := engine.NewClient(pool, engine.ClientConfig{Tracers: []engine.EnqueueTracer{a, nil}}); err == nil || !strings.Contains(err.Error(), "Tracers: number 2 is nil") {
		t.Error(err)
	}
}

// abandonFollower knows a trace context, and follows abandoned handlers.
type abandonFollower struct {
	follower
	trace engine.TraceContext
}

func (f *abandonFollower) TraceContext(ctx context.Context) engine.TraceContext {
	if ctx.Value(followedKey{}) == nil {
		return engine.TraceContext{}
	}
	return f.trace
}

func (f *abandonFollower) TraceAttemptAbandon(ctx context.Context, o engine.Outcome) {
	f.say("abandon %s %s in %v", o.Job.Name, o.Kind, ctx.Value(followedKey{}))
}

// A handler that does not return ends for the tracers when its job is settled: at its
// timeout, or at shutdown.
func TestTracer_handlerIsAbandoned_isTold(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	goOn := make(chan struct{})
	t.Cleanup(func() { close(goOn) })
	inside := make(chan engine.TraceContext, 2)
	stuck := func(ctx context.Context, _ *engine.Job) (any, error) {
		inside <- engine.TraceContextFrom(ctx)
		<-goOn
		return nil, nil
	}
	engine.HandleRaw(reg, "overdue", stuck, engine.Timeout(10*time.Millisecond))
	engine.HandleRaw(reg, "at shutdown", stuck, engine.Timeout(-1))
	f := &abandonFollower{follower: follower{name: "f"}, trace: engine.NewTraceContext(traceparent, "")}
	log := &testkit.Log{}
	w := start(t, pool, reg, engine.WorkerConfig{
		Tracers: []engine.Tracer{f}, CancelGrace: 50 * time.Millisecond, ShutdownTimeout: time.Millisecond, Logger: log.Logger(slog.LevelInfo),
	})
	client := newClient(t, pool)
	w.waitForJob(t, enqueue(t, client, "overdue", nil, engine.MaxAttempts(1)))
	enqueue(t, client, "at shutdown", nil)
	for range 2 {
		if got := <-inside; got != f.trace {
			t.Errorf("a handler is in the trace %q", got)
		}
	}
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	for _, line := range []string{"abandon overdue dead_letter in f", "abandon at shutdown released in f"} {
		eventually.True(t, line, func() bool { return f.has(line) })
	}
	for _, line := range []string{"is abandoned", "job is a dead letter", "job given back"} {
		found := false
		for said := range strings.Lines(log.String()) {
			found = found || strings.Contains(said, line) && strings.Contains(said, traceID)
		}
		if line != "job given back" && !found {
			t.Errorf("no line that says %q names the trace:\n%s", line, log)
		}
	}
}

// A producer of any kind may write anything: it is no trace context, and no error.
func TestTraceContext_columnHoldsAnything_isIgnored(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	seen := make(chan engine.TraceContext, 100)
	engine.HandleRaw(reg, "j", func(_ context.Context, job *engine.Job) (any, error) {
		seen <- job.TraceContext
		return nil, engine.Permanent(errors.New("no"))
	})
	texts := []string{"", " ", "null", "{}", strings.ToUpper(traceparent), traceparent + "x", strings.Repeat("9", 10<<20), traceparent + " " + strings.Repeat("a=1,", 1000), "\x1b[31m" + traceparent, "é"}
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	for _, text := range texts {
		id := uuid.New()
		exec(t, pool, "insert into soniq_jobs (id, job_name, args, trace_context) values ($1, 'j', '{}', $2)", id, text)
		w.waitForJob(t, id)
		if got := <-seen; !got.IsZero() {
			t.Errorf("%.80q is the trace context %q", text, got)
		}
		if job, err := client.Job(t.Context(), id); err != nil || !job.TraceContext.IsZero() {
			t.Errorf("%.80q: %v, %q", text, err, job.TraceContext)
		}
	}
	if n := testkit.Count(t, pool, "select coalesce(max(octet_length(trace_context)), 0) from soniq_dead_letter_jobs"); n > 568 {
		t.Errorf("a dead letter has kept %d bytes", n)
	}
}
