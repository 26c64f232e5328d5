package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"soniq/engine"
	"soniq/internal/testdb"
)

type contextKey struct{}

func TestMiddleware_wrapsInOrder_andHasTheLastWord(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	var mu sync.Mutex
	var told []string
	tell := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, what)
	}
	layer := func(name string) engine.Middleware {
		return func(next engine.HandlerFunc) engine.HandlerFunc {
			return func(ctx context.Context, job *engine.Job) (any, error) {
				tell(name + " before " + job.Name)
				result, err := next(context.WithValue(ctx, contextKey{}, fmt.Sprint(ctx.Value(contextKey{}), name)), job)
				tell(fmt.Sprint(name, " after: ", err))
				return result, err
			}
		}
	}
	reg := engine.NewRegistry()
	reg.Use(layer("outer"))
	engine.Handle(reg, "strict", func(ctx context.Context, _ struct{ N int }) error {
		tell(fmt.Sprint("handler with ", ctx.Value(contextKey{})))
		return errors.New("failed")
	})
	reg.Use(layer("inner"), func(next engine.HandlerFunc) engine.HandlerFunc {
		return func(ctx context.Context, job *engine.Job) (any, error) {
			if _, err := next(ctx, job); err != nil && err.Error() == "failed" {
				return "forgiven", nil
			} else {
				return nil, err
			}
		}
	})
	client := newClient(t, pool)
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 1})
	id := enqueue(t, client, "strict", map[string]int{"N": 1})
	w.waitForJob(t, id)
	want := "outer before strict|inner before strict|handler with <nil>outerinner|inner after: <nil>|outer after: <nil>"
	if got := strings.Join(told, "|"); got != want {
		t.Errorf("told\n%s, want\n%s", got, want)
	}
	if job := getJob(t, client, id); job.Status != engine.StatusDone || string(job.Result) != `"forgiven"` {
		t.Errorf("job is %s, result %s", job.Status, job.Result)
	}

	// Arguments that can't be decoded pass through it too, as what they are.
	told = nil
	bad := enqueue(t, client, "strict", map[string]string{"N": "x"})
	w.waitForJob(t, bad)
	if got := strings.Join(told, "|"); !strings.Contains(got, "outer after: ") || strings.Contains(got, "handler") {
		t.Errorf("told %s", got)
	}
	if job := getJob(t, client, bad); job.DeadLetterReason != "invalid_arguments" {
		t.Errorf("job is %s, %s", job.Status, job.DeadLetterReason)
	}
	// A dry run has it too.
	if o, err := reg.DryRun(t.Context(), "strict", map[string]int{"N": 1}, 1, 0); err != nil || o.Kind != engine.OutcomeDone {
		t.Errorf("the dry run: %s, %v", o.Kind, err)
	}
}

func TestMiddleware_panics_failsTheAttempt(t *testing.T) {
	t.Parallel()
	reg := engine.NewRegistry()
	noop(reg, "a")
	reg.Use(func(engine.HandlerFunc) engine.HandlerFunc {
		return func(context.Context, *engine.Job) (any, error) { panic("in the middle") }
	})
	o, err := reg.DryRun(t.Context(), "a", nil, 1, 0)
	if err != nil || o.Kind != engine.OutcomeRetry || !strings.Contains(o.Verdict.Message, "in the middle") {
		t.Errorf("%s, %+v, %v", o.Kind, o.Verdict, err)
	}
}

func TestMiddleware_mistakes_areNamed(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for want, m := range map[string]engine.Middleware{
		"middleware must not be nil":                  nil,
		`handler "a": middleware 1 returned nil`:      func(engine.HandlerFunc) engine.HandlerFunc { return nil },
		`handler "a": middleware 1 panicked: no such`: func(engine.HandlerFunc) engine.HandlerFunc { panic("no such") },
	} {
		reg := engine.NewRegistry()
		noop(reg, "a")
		reg.Use(m)
		if _, err := engine.NewWorker(pool, reg, engine.WorkerConfig{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}
