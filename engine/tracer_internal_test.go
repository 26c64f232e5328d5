package engine

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// A worker without tracers allocates nothing for them: not for an attempt, and not for
// what else a tracer could follow.
func TestTracers_none_allocateNothing(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	job := &Job{Name: "n", Queue: "q", Attempts: 1, MaxAttempts: 1, Args: []byte("{}")}
	h := &handler{name: "n"}
	attempt := func(ts *tracers) float64 {
		return testing.AllocsPerRun(1000, func() {
			e := &execution{
				job: job, handler: h, log: logger, tracers: ts,
				handle: func(context.Context, *Job) (any, error) { return nil, nil },
			}
			e.run(context.Background(), func(Outcome) {})
		})
	}
	none := newTracers(WorkerConfig{}, logger)
	if without, with := attempt(nil), attempt(none); with > without {
		t.Errorf("an attempt allocates %v times, %v with the tracers of a worker that has none", without, with)
	}
	if none.claimed() != nil || none.wrote() != nil {
		t.Error("claims and writes are timed for nobody")
	}
	ctx, o := context.Background(), Outcome{Job: job}
	if n := testing.AllocsPerRun(1000, func() {
		traced, _ := none.start(ctx, job)
		none.end(traced, o)
		none.abandoned(ctx, o)
		none.woken(ctx, 1)
		none.listening(true)
	}); n != 0 {
		t.Errorf("%v allocations for nobody", n)
	}
	rows := []*insert{{name: "n"}}
	if n := testing.AllocsPerRun(1000, func() { inherit(ctx, rows) }); n != 0 {
		t.Errorf("%v allocations for jobs in no trace", n)
	}
	c := &completer{tracers: none, settled: func(Outcome) {}}
	c.Logger = logger
	written := Outcome{Job: job, Kind: OutcomeDone, Duration: time.Second}.toSettle()
	if n := testing.AllocsPerRun(1000, func() { c.report(ctx, written) }); n != 0 {
		t.Errorf("%v allocations for an outcome that nobody observes", n)
	}
}

// Jobs in no trace are inserted as ever: a role may have the right to insert the other
// columns alone, and the server reads no more.
func TestEnqueue_noTrace_columnIsNotNamed(t *testing.T) {
	for _, sql := range []string{enqueueSQL, enqueueOneSQL} {
		if strings.Contains(sql, "trace_context") || strings.Contains(sql, "$13") {
			t.Errorf("names the column:\n%s", sql)
		}
	}
	for _, sql := range []string{enqueueTracedSQL, enqueueOneTracedSQL} {
		if !strings.Contains(sql, "trace_context") || !strings.Contains(sql, "$13") {
			t.Errorf("does not name the column:\n%s", sql)
		}
	}
}
