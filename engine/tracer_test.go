package engine_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"soniq/engine"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// follower implements each interface of a tracer, and writes down what it is told.
type follower struct {
	name string
	mu   sync.Mutex
	said []string
}

func (f *follower) say(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said = append(f.said, fmt.Sprintf(format, args...))
}

func (f *follower) lines() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.said)
}

func (f *follower) has(prefix string) bool {
	return slices.ContainsFunc(f.lines(), func(line string) bool { return strings.HasPrefix(line, prefix) })
}

type followedKey struct{}

func (f *follower) TraceAttemptStart(ctx context.Context, job *engine.Job) context.Context {
	f.say("start %s %d", job.Name, job.Attempts)
	outer, _ := ctx.Value(followedKey{}).(string)
	return context.WithValue(ctx, followedKey{}, outer+f.name)
}

func (f *follower) TraceAttemptEnd(ctx context.Context, o engine.Outcome) {
	f.say("end %s %d %s in %v (alive: %t)", o.Job.Name, o.Job.Attempts, o.Kind, ctx.Value(followedKey{}), ctx.Err() == nil)
}

func (f *follower) Settled(_ context.Context, o engine.Outcome) {
	f.say("settled %s %d %s", o.Job.Name, o.Job.Attempts, o.Kind)
}

func (f *follower) TraceClaim(_ context.Context, c engine.ClaimTrace) {
	f.say("claim %d of %t, %v", c.Jobs, c.Asked >= c.Jobs, c.Err)
}

func (f *follower) TraceWrite(_ context.Context, w engine.WriteTrace) {
	f.say("write %t, %v", w.Outcomes > 0, w.Err)
}

func (f *follower) TraceRecovery(_ context.Context, r engine.RecoveryTrace) {
	f.say("recovered %s of %s: %q", r.JobName, r.Queue, r.Outcome)
}

func (f *follower) TraceWake(_ context.Context, jobs int) { f.say("wake %d", jobs) }
func (f *follower) TraceListening(healthy bool)           { f.say("listening %t", healthy) }

// bare is a tracer of attempts alone.
type bare struct{ *follower }

func (b bare) TraceAttemptStart(ctx context.Context, job *engine.Job) context.Context {
	return b.follower.TraceAttemptStart(ctx, job)
}

// Each attempt begins and ends once in each tracer, however it ends; the contexts are
// nested, reach the handler, and the end is told before what was written.
func TestTracer_eachEndOfAnAttempt_isFollowed(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	seen := make(chan any, 10)
	handle := func(name string, do func(context.Context) error) {
		engine.HandleRaw(reg, name, func(ctx context.Context, _ *engine.Job) (any, error) {
			seen <- ctx.Value(followedKey{})
			return nil, do(ctx)
		})
	}
	handle("done", func(context.Context) error { return nil })
	handle("dies", func(context.Context) error { return engine.Permanent(errors.New("no")) })
	handle("panics", func(context.Context) error { panic("no") })
	handle("exits", func(context.Context) error { runtime.Goexit(); return nil })
	handle("late", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	a, b := &follower{name: "a"}, &follower{name: "b"}
	w := start(t, pool, reg, engine.WorkerConfig{Tracers: []engine.Tracer{a, b}, JobTimeout: 300 * time.Millisecond})
	eventually.True(t, "the listener", func() bool { return a.has("listening true") })
	client := newClient(t, pool)
	want := map[string]string{"done": "done", "dies": "dead_letter", "panics": "dead_letter", "exits": "dead_letter", "late": "dead_letter"}
	for name, kind := range want {
		w.waitForJob(t, enqueue(t, client, name, nil, engine.MaxAttempts(1)))
		if got := <-seen; got != "ab" {
			t.Errorf("%s: the handler's context has %v", name, got)
		}
		for _, f := range []*follower{a, b} {
			lines := f.lines()
			start, end, settled := "start "+name+" 1", fmt.Sprintf("end %s 1 %s in ab (alive: true)", name, kind), fmt.Sprintf("settled %s 1 %s", name, kind)
			// The test's observer may be told first.
			eventually.True(t, settled, func() bool { lines = f.lines(); return slices.Contains(lines, settled) })
			i, j, k := slices.Index(lines, start), slices.Index(lines, end), slices.Index(lines, settled)
			if i < 0 || j <= i || k <= j {
				t.Errorf("%s: %d, %d, %d in %q", name, i, j, k, lines)
			}
		}
	}
	for _, line := range []string{"claim 1 of true, <nil>", "claim 0 of true, <nil>", "write true, <nil>", "wake 1"} {
		if !a.has(line) {
			t.Errorf("%q is not in %q", line, a.lines())
		}
	}
}

func TestTracer_jobIsRecovered_isTold(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "j")
	f := &follower{}
	exec(t, pool, `insert into soniq_jobs (id, job_name, args, queue, status, worker_id, attempts, max_attempts, claim_token, updated_at)
		select gen_random_uuid(), 'j', '{}', 'q' || n, 'processing', gen_random_uuid(), n, 2, 7, now() - interval '1 hour' from generate_series(1, 2) n`)
	start(t, pool, reg, engine.WorkerConfig{Tracers: []engine.Tracer{f}})
	for _, line := range []string{`recovered j of q1: "retry"`, `recovered j of q2: "dead_letter"`} {
		eventually.True(t, line, func() bool { return f.has(line) })
	}
}

// brokenTracer panics in all that it is told.
type brokenTracer struct{}

func (brokenTracer) TraceAttemptStart(context.Context, *engine.Job) context.Context { panic("tracer") }

func (brokenTracer) TraceAttemptEnd(context.Context, engine.Outcome) { panic("tracer") }

func (brokenTracer) TraceClaim(context.Context, engine.ClaimTrace) { panic("tracer") }

func (brokenTracer) TraceWrite(context.Context, engine.WriteTrace) { panic("tracer") }

func (brokenTracer) TraceWake(context.Context, int) { panic("tracer") }

func (brokenTracer) TraceListening(bool) { panic("tracer") }

func (brokenTracer) Settled(context.Context, engine.Outcome) { panic("tracer") }

// lazyTracer returns no context.
type lazyTracer struct{}

func (lazyTracer) TraceAttemptStart(context.Context, *engine.Job) context.Context { return nil }
func (lazyTracer) TraceAttemptEnd(context.Context, engine.Outcome)                {}

func TestTracer_panics_workGoesOn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "a")
	f := bare{&follower{name: "f"}}
	w := start(t, pool, reg, engine.WorkerConfig{Tracers: []engine.Tracer{brokenTracer{}, lazyTracer{}, f}})
	client := newClient(t, pool)
	for range 2 {
		if o := w.waitForJob(t, enqueue(t, client, "a", nil)); len(o) != 1 || o[0].Kind != engine.OutcomeDone {
			t.Errorf("%v", o)
		}
	}
	if !f.has("end a 1 done in f") {
		t.Errorf("%q", f.lines())
	}
}

func TestNewWorker_nilTracer_isRefused(t *testing.T) {
	t.Parallel()
	reg := engine.NewRegistry()
	noop(reg, "a")
	_, err := engine.NewWorker(testdb.New(t), reg, engine.WorkerConfig{Tracers: []engine.Tracer{&follower{}, nil}})
	if err == nil || !strings.Contains(err.Error(), "Tracers: number 2 is nil") {
		t.Error(err)
	}
}
