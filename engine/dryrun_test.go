package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"testing"
	"time"

	"soniq/deadletter/classify"
	"soniq/engine"
)

func TestRegistry_DryRun_judgesLikeAWorker(t *testing.T) {
	t.Parallel()
	reg := engine.NewRegistry()
	handle := func(name string, result any, err error, opts ...engine.HandleOption) {
		engine.HandleRaw(reg, name, func(context.Context, *engine.Job) (any, error) { return result, err }, opts...)
	}
	failed := errors.New("no")
	handle("done", json.RawMessage(`{"n":1}`), nil)
	handle("fails", nil, failed, engine.Retry(engine.Delays{time.Minute}), engine.AttemptLimit(2))
	handle("last", nil, failed, engine.AttemptLimit(1))
	handle("snoozes", nil, engine.Snooze(time.Hour))
	handle("permanent", nil, engine.Permanent(failed))
	engine.HandleRaw(reg, "goexit", func(context.Context, *engine.Job) (any, error) {
		runtime.Goexit()
		return nil, nil
	}, engine.Queue("q"))
	engine.HandleRaw(reg, "slow", func(ctx context.Context, _ *engine.Job) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}, engine.AttemptLimit(1))
	for _, test := range []struct {
		name   string
		kind   engine.OutcomeKind
		reason classify.Reason
		delay  time.Duration
		limit  int
	}{
		{name: "done", kind: engine.OutcomeDone, limit: 4},
		{name: "fails", kind: engine.OutcomeRetry, delay: time.Minute, limit: 2},
		{name: "last", kind: engine.OutcomeDeadLetter, reason: classify.MaxRetriesExceeded, limit: 1},
		{name: "snoozes", kind: engine.OutcomeSnooze, delay: time.Hour, limit: 4},
		{name: "permanent", kind: engine.OutcomeDeadLetter, reason: classify.PermanentFailure, limit: 4},
		{name: "slow", kind: engine.OutcomeDeadLetter, reason: classify.Timeout, limit: 1},
	} {
		o, err := reg.DryRun(t.Context(), test.name, map[string]int{"a": 1}, 1, 20*time.Millisecond)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		} else if o.Kind != test.kind || o.Verdict.Reason != test.reason || o.Delay != test.delay || o.Job.MaxAttempts != test.limit {
			t.Errorf("%s: %+v", test.name, o)
		}
	}
	if o, err := reg.DryRun(t.Context(), "done", nil, 1, 0); err != nil || string(o.Job.Result) != `{"n":1}` {
		t.Errorf("result %s, %v", o.Job.Result, err)
	}
	if o, err := reg.DryRun(t.Context(), "goexit", nil, 1, 0); err != nil || o.Verdict.Kind != classify.KindGoexit || o.Job.Queue != "q" {
		t.Errorf("%+v, %v", o, err)
	}
	var wrong *engine.ArgumentError
	if _, err := reg.DryRun(t.Context(), "done", json.RawMessage(`[1]`), 1, 0); !errors.As(err, &wrong) {
		t.Errorf("an array as arguments: %v", err)
	}
	if _, err := reg.DryRun(t.Context(), "unknown", nil, 1, 0); !errors.As(err, &wrong) {
		t.Errorf("an unknown name: %v", err)
	}
}
