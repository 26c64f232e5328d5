package engine_test

import (
	"context"
	"errors"
	"strings"
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

// A client with a registry refuses what the handler would make a dead letter of.
func TestClient_withARegistry_refusesWrongArguments(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.Handle(reg, "strict", func(context.Context, older) error { return nil })
	engine.Handle(reg, "lenient", func(context.Context, older) error { return nil }, engine.AllowUnknownFields())
	engine.Handle(reg, "panics", func(context.Context, panicking) error { return nil })
	engine.HandleRaw(reg, "raw", func(context.Context, *engine.Job) (any, error) { return nil, nil })
	client, err := engine.NewClient(pool, engine.ClientConfig{Registry: reg})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args any
		want string
	}{
		{"strict", older{N: 1}, ""},
		{"strict", nil, ""},
		{"strict", newer{N: 1}, `field "locale": not known`},
		{"strict", map[string]any{"n": "x"}, `field "n": want int`},
		{"strict", older{N: -1}, "must not be negative"},
		{"lenient", newer{N: 1}, ""},
		{"panics", nil, "Validate panicked"},
		{"raw", newer{N: -1}, ""},
		{"elsewhere", newer{N: -1}, ""},
	} {
		checked := client.CheckJob(c.name, c.args)
		_, err := client.Enqueue(t.Context(), c.name, c.args)
		for _, err := range []error{checked, err} {
			var wrong *engine.ArgumentError
			if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &wrong) || wrong.Field != "args" || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s with %+v: %v, want %q", c.name, c.args, err, c.want)
			}
		}
	}
}

type panicking struct{}

func (panicking) Validate() error { panic("no") }
