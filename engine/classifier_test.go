package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/testdb"
)

// answer is an error with the status of an HTTP response.
type answer int

func (a answer) Error() string   { return fmt.Sprintf("the server answered %d", int(a)) }
func (a answer) StatusCode() int { return int(a) }

func TestWorker_classifiers_decideAndAreKept(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	handle := func(name string, err error, opts ...engine.HandleOption) {
		engine.HandleRaw(reg, name, func(context.Context, *engine.Job) (any, error) { return nil, err }, append(opts, soon)...)
	}
	fit := classify.Classifier{Name: "fit", Judge: func(error) classify.Opinion {
		return classify.Opinion{Advice: classify.AdvisePermanent}
	}}
	handle("gone", fmt.Errorf("fetch: %w", answer(404)))
	handle("busy", answer(503))
	handle("own", errors.New("no"), engine.ClassifyBy(fit))
	handle("off", answer(404), engine.ClassifyBy())
	engine.HandleRaw(reg, "check", func(ctx context.Context, _ *engine.Job) (any, error) {
		_, err := pool.Exec(ctx, `select 'abc'::integer`)
		return nil, err
	}, soon)
	w := start(t, pool, reg, engine.WorkerConfig{
		Classifiers: []classify.Classifier{classify.HTTP(), classify.Postgres()},
	})
	client := newClient(t, pool)
	for _, c := range []struct {
		name          string
		attempts      int
		reason        classify.Reason
		decided, code string
		first         string // who decided on the first attempt
	}{
		{"gone", 1, classify.PermanentFailure, "classifier:http", "404", "classifier:http"},
		{"busy", 2, classify.MaxRetriesExceeded, "budget", "503", "classifier:http"},
		{"own", 1, classify.PermanentFailure, "classifier:fit", "", "classifier:fit"},
		{"off", 2, classify.MaxRetriesExceeded, "budget", "", "budget"},
		{"check", 1, classify.PermanentFailure, "classifier:postgres", "22P02", "classifier:postgres"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			id := enqueue(t, client, c.name, json.RawMessage(`{}`), engine.MaxAttempts(2))
			w.waitForJob(t, id)
			dead, err := newQueue(t, pool).Get(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if dead.Attempts != c.attempts || dead.Reason != c.reason || dead.DecidedBy != c.decided || dead.ErrorCode != c.code {
				t.Errorf("%s after %d attempts, decided by %s, code %q; want %s, %d, %s, %q",
					dead.Reason, dead.Attempts, dead.DecidedBy, dead.ErrorCode, c.reason, c.attempts, c.decided, c.code)
			}
			if len(dead.Errors) != c.attempts || dead.Errors[0].DecidedBy != c.first || dead.Errors[0].Code != c.code {
				t.Errorf("its history is %+v", dead.Errors)
			}
		})
	}
}

func TestClassifiers_badOne_isNamed(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	noop := func(context.Context, *engine.Job) (any, error) { return nil, nil }
	good, bad := engine.NewRegistry(), engine.NewRegistry()
	engine.HandleRaw(good, "x", noop)
	engine.HandleRaw(bad, "x", noop, engine.ClassifyBy(classify.HTTP(), classify.Classifier{Name: "mine"}))
	for want, c := range map[string]struct {
		reg    *engine.Registry
		config engine.WorkerConfig
	}{
		"config: Classifiers: number 1: it has no Name":     {good, engine.WorkerConfig{Classifiers: []classify.Classifier{{}}}},
		`handler "x": classifier 2: mine: its Judge is nil`: {bad, engine.WorkerConfig{}},
	} {
		if _, err := engine.NewWorker(pool, c.reg, c.config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// unwrapping counts how often an error is unwrapped.
type unwrapping struct {
	error
	times *int
}

func (u unwrapping) Unwrap() error {
	*u.times++
	return u.error
}

// The errors of an attempt are unwrapped once, whatever becomes of it: their methods
// are the job's code, and may be slow.
func TestWorker_errorsOfAnAttempt_areReadOnce(t *testing.T) {
	t.Parallel()
	failed := errors.New("failed")
	for _, test := range []struct {
		err  error
		kind engine.OutcomeKind
		late bool // returned after the timeout
	}{
		{err: failed, kind: engine.OutcomeRetry},
		{err: engine.RetryAfter(time.Minute, failed), kind: engine.OutcomeRetry},
		{err: engine.Snooze(time.Minute), kind: engine.OutcomeSnooze},
		{err: engine.Permanent(failed), kind: engine.OutcomeDeadLetter},
		{err: engine.InvalidArguments(failed), kind: engine.OutcomeDeadLetter},
		{err: answer(404), kind: engine.OutcomeDeadLetter},
		{err: failed, kind: engine.OutcomeRetry, late: true},
	} {
		times := 0
		reg := engine.NewRegistry()
		engine.HandleRaw(reg, "n", func(ctx context.Context, _ *engine.Job) (any, error) {
			if test.late {
				<-ctx.Done()
			}
			return nil, fmt.Errorf("run: %w", unwrapping{test.err, &times})
		}, engine.ClassifyBy(classify.HTTP(), classify.GRPC(), classify.Postgres()))
		timeout := time.Duration(0)
		if test.late {
			timeout = time.Millisecond
		}
		o, err := reg.DryRun(t.Context(), "n", nil, 1, timeout)
		if err != nil || o.Kind != test.kind {
			t.Errorf("%v: %v, %v", test.err, o, err)
		}
		if times != 1 {
			t.Errorf("%v: unwrapped %d times", test.err, times)
		}
	}
}
