package engine_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/testdb"
)

// newer is what a producer sends that was deployed before the workers.
type newer struct {
	N      int    `json:"n"`
	Locale string `json:"locale"`
}

// older is what the workers know.
type older struct {
	N int `json:"n"`
}

func (o older) Validate() error {
	if o.N < 0 {
		return errors.New("field \"n\": must not be negative")
	}
	return nil
}

func TestHandle_unknownField_waitsForANewerWorker(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	reg := engine.NewRegistry()
	handler := func(context.Context, older) error { return nil }
	engine.Handle(reg, "strict", handler, engine.PermanentIf(func(error) bool { return true }))
	engine.Handle(reg, "lenient", handler, engine.AllowUnknownFields())
	w := start(t, pool, reg, engine.WorkerConfig{})

	id := enqueue(t, client, "strict", newer{N: 1, Locale: "de"})
	first := w.waitFor(t, "the first attempt", func(all []engine.Outcome) bool { return len(all) == 1 })[0]
	if first.Kind != engine.OutcomeRetry || first.Delay != time.Minute || first.Verdict.Message != `field "locale": not known to this job` {
		t.Errorf("a field that is new: %s in %s: %s", first.Kind, first.Delay, first.Verdict.Message)
	}
	for what, c := range map[string]struct {
		name    string
		args    any
		options []engine.EnqueueOption
		kind    engine.OutcomeKind
	}{
		"a new field on the last attempt": {"strict", newer{N: 1}, []engine.EnqueueOption{engine.MaxAttempts(1)}, engine.OutcomeDeadLetter},
		"a new field and a wrong type":    {"strict", map[string]any{"n": "x", "locale": ""}, nil, engine.OutcomeDeadLetter},
		"a wrong type after a new field":  {"strict", map[string]any{"a": 1, "n": "x"}, nil, engine.OutcomeDeadLetter},
		"a new field and a wrong value":   {"strict", newer{N: -1}, nil, engine.OutcomeDeadLetter},
		"a new field that may be":         {"lenient", newer{N: 1}, nil, engine.OutcomeDone},
		"a wrong value beside one":        {"lenient", newer{N: -1}, nil, engine.OutcomeDeadLetter},
	} {
		o := w.waitForJob(t, enqueue(t, client, c.name, c.args, c.options...))
		if last := o[len(o)-1]; len(o) != 1 || last.Kind != c.kind ||
			last.Kind == engine.OutcomeDeadLetter && last.Verdict.Reason != classify.InvalidArguments {
			t.Errorf("%s: %d outcomes, %s %s: %s", what, len(o), last.Kind, last.Verdict.Reason, last.Verdict.Message)
		}
	}
	// A worker of the next release takes it.
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	got := make(chan newer, 1)
	next := engine.NewRegistry()
	engine.Handle(next, "strict", func(_ context.Context, args newer) error { got <- args; return nil })
	exec(t, pool, `update soniq_jobs set scheduled_at = now() where id = $1`, id)
	start(t, pool, next, engine.WorkerConfig{}).waitForJob(t, id)
	if args := <-got; args.Locale != "de" {
		t.Errorf("the newer worker got %+v", args)
	}
}
