package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/testdb"
)

// hostile is an error whose methods all panic on its nil pointer.
type hostile struct{ err error }

func (e *hostile) Error() string             { return e.err.Error() }
func (e *hostile) Unwrap() error             { return e.err }
func (e *hostile) Is(error) bool             { return e.err != nil }
func (e *hostile) As(any) bool               { return e.err != nil }
func (e *hostile) RetryAfter() time.Duration { return time.Duration(len(e.err.Error())) }

type unmarshalable struct{}

func (unmarshalable) MarshalJSON() ([]byte, error) { panic("no JSON of me") }

// Code of the job that panics after its handler has returned must fail that
// attempt, and not the process.
func TestWorker_methodsThatPanic_failTheAttempt(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	fail := func(name string, result any, err error, opts ...engine.HandleOption) {
		engine.HandleRaw(reg, name, func(context.Context, *engine.Job) (any, error) { return result, err }, append(opts, soon)...)
	}
	fail("error", nil, (*hostile)(nil))
	fail("joined", nil, errors.Join((*hostile)(nil), errors.New("beside it")))
	fail("permanent", nil, engine.Permanent((*hostile)(nil)))
	fail("invalid", nil, engine.InvalidArguments((*hostile)(nil)))
	fail("rule", nil, errors.New("fine"), engine.PermanentIf(func(error) bool { panic("rule") }))
	fail("result", unmarshalable{}, nil)
	engine.HandleRaw(reg, "panics", func(context.Context, *engine.Job) (any, error) { panic((*hostile)(nil)) }, soon)
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	for name, want := range map[string]struct {
		reason classify.Reason
		kind   classify.Kind
	}{
		"error":     {classify.MaxRetriesExceeded, classify.KindError},
		"joined":    {classify.MaxRetriesExceeded, classify.KindError},
		"permanent": {classify.PermanentFailure, classify.KindError},
		"invalid":   {classify.InvalidArguments, classify.KindDecode},
		"rule":      {classify.MaxRetriesExceeded, classify.KindError},
		"result":    {classify.MaxRetriesExceeded, classify.KindPanic},
		"panics":    {classify.MaxRetriesExceeded, classify.KindPanic},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outcomes := w.waitForJob(t, enqueue(t, client, name, nil, engine.MaxAttempts(2)))
			if v := outcomes[len(outcomes)-1].Verdict; v.Reason != want.reason || v.Kind != want.kind {
				t.Errorf("%s, %s: %q; want %s, %s", v.Reason, v.Kind, v.Message, want.reason, want.kind)
			}
		})
	}
}

type panickingObserver struct{ *observed }

func (o panickingObserver) Settled(ctx context.Context, outcome engine.Outcome) {
	o.observed.Settled(ctx, outcome)
	panic("observer")
}

func TestWorker_observerPanics_workGoesOn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "a")
	seen := newObserved()
	start(t, pool, reg, engine.WorkerConfig{Observer: panickingObserver{seen}})
	client := newClient(t, pool)
	for range 2 {
		seen.waitForJob(t, enqueue(t, client, "a", nil))
	}
}

func TestWorker_argumentsThatAreNoObject_areInvalid(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.Handle(reg, "value", func(context.Context, greeting) error { return nil })
	engine.Handle(reg, "pointer", func(context.Context, *greeting) error { return nil })
	engine.Handle(reg, "map", func(context.Context, map[string]any) error { return nil })
	w := start(t, pool, reg, engine.WorkerConfig{})
	for _, c := range []struct{ name, args, message string }{
		{"value", `null`, "want a JSON object, got null"},
		{"pointer", `null`, "want a JSON object, got null"},
		{"map", `null`, "want a JSON object, got null"},
		{"value", `[1]`, "got a JSON array"},
		{"pointer", `{"name": ""}`, "must not be empty"},
		{"pointer", `{"nmae": ""}`, "not known"},
	} {
		t.Run(c.name+c.args, func(t *testing.T) {
			t.Parallel()
			id := uuid.New()
			exec(t, pool, `insert into soniq_jobs (id, job_name, args) values ($1, $2, $3)`, id, c.name, c.args)
			outcomes := w.waitForJob(t, id)
			if v := outcomes[0].Verdict; v.Reason != classify.InvalidArguments || !strings.Contains(v.Message, c.message) {
				t.Errorf("%s, %s, %q; want %q", outcomes[0].Kind, v.Reason, v.Message, c.message)
			}
		})
	}
}

func TestWorker_result_nilAndTooLarge(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleResult(reg, "none", func(context.Context, map[string]any) (json.RawMessage, error) { return nil, nil })
	engine.HandleResult(reg, "large", func(context.Context, map[string]any) (string, error) {
		return strings.Repeat("x", 1<<20), nil
	}, soon)
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	none, large := enqueue(t, client, "none", nil), enqueue(t, client, "large", nil, engine.MaxAttempts(1))
	w.waitForJob(t, none)
	if job := getJob(t, client, none); job.Status != engine.StatusDone || job.Result != nil {
		t.Errorf("%s with result %s", job.Status, job.Result)
	}
	w.waitForJob(t, large)
	if job := getJob(t, client, large); job.Status != engine.StatusDone || !strings.Contains(string(job.Result), "1048578 bytes, over the limit of 1048576") {
		t.Errorf("%s with result %s", job.Status, job.Result)
	}
}

// One row that someone wrote by hand must not hold up the others.
func TestWorker_rowsAtTheLimits_holdUpNobody(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	jobs := make(chan engine.Job, 10)
	engine.HandleRaw(reg, "a", func(_ context.Context, job *engine.Job) (any, error) {
		jobs <- *job
		return nil, nil
	})
	client := newClient(t, pool)
	insert := func(columns, values string) uuid.UUID {
		id := uuid.New()
		exec(t, pool, `insert into soniq_jobs (id, job_name, args, `+columns+`) values ($1, 'a', '{}', `+values+`)`, id)
		return id
	}
	parked := insert("scheduled_at", "'infinity'")
	due := []uuid.UUID{
		insert("scheduled_at", "'-infinity'"),
		insert("created_at, updated_at", "'-infinity', 'infinity'"),
		insert("scheduled_at", "'4713-01-01 BC'"),
		insert("priority", "-2147483648"),
	}
	overflow := insert("attempts, max_attempts", "2147483647, 2147483646")
	if s, err := client.Status(t.Context()); err != nil || s.Queues[0].Due != 5 || s.Queues[0].Scheduled != 1 {
		t.Errorf("status %+v, %v", s.Queues, err)
	}
	w := start(t, pool, reg, engine.WorkerConfig{})
	for _, id := range due {
		w.waitForJob(t, id)
	}
	if outcomes := w.waitForJob(t, overflow); outcomes[0].Verdict.Kind != classify.KindCrash {
		t.Errorf("attempts at the limit: %+v", outcomes[0])
	}
	for range due {
		job := <-jobs
		for what, at := range map[string]time.Time{"created": job.CreatedAt, "updated": job.UpdatedAt} {
			if time.Since(at).Abs() > time.Minute || at.Location() != time.UTC {
				t.Errorf("%s at %s", what, at)
			}
		}
	}
	// A job that is never due doesn't keep the worker from sleeping and waking.
	last := enqueue(t, client, "a", nil)
	w.waitForJob(t, last)
	for _, id := range append(due, parked, overflow, last) {
		getJob(t, client, id)
	}
}

func TestNewWorker_queueNamedTwice_isServedOnce(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "a")
	w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{Queues: []string{"b", "a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(w.Queues(), ","); got != "a,b" {
		t.Errorf("queues %s", got)
	}
}

// refuse makes the database raise an error for rows named so.
const refuse = `
create function refuse() returns trigger language plpgsql as $$
begin
  raise exception 'refused by a trigger';
end
$$`
