package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/testdb"
)

type greeting struct {
	Name string `json:"name"`
}

func (g *greeting) Validate() error {
	if g.Name == "" {
		return errors.New(`field "name": must not be empty`)
	}
	return nil
}

func TestWorker_enqueuedJob_runsWithItsArguments(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleResult(reg, "greet", func(ctx context.Context, g greeting) (map[string]any, error) {
		job := engine.JobFromContext(ctx)
		return map[string]any{"hello": g.Name, "attempt": job.Attempts, "queue": job.Queue}, nil
	}, engine.Queue("greetings"))
	w := start(t, pool, reg, engine.WorkerConfig{})
	client, err := engine.NewClient(pool, engine.ClientConfig{Registry: reg})
	if err != nil {
		t.Fatal(err)
	}
	id := enqueue(t, client, "greet", greeting{"Ada"})
	w.waitForJob(t, id)
	job := getJob(t, client, id)
	if job.Status != engine.StatusDone || job.Attempts != 1 {
		t.Errorf("job is %s after %d attempts", job.Status, job.Attempts)
	}
	if got, want := string(job.Result), `{"hello": "Ada", "queue": "greetings", "attempt": 1}`; got != want {
		t.Errorf("result %s, want %s", got, want)
	}
	if left := time.Until(*job.ExpiresAt); left < 4*time.Minute || left > 6*time.Minute {
		t.Errorf("the result expires in %s, want about 5 min", left)
	}
}

func TestWorker_plainInsert_startsWithoutAPoll(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	ran := make(chan json.RawMessage, 1)
	engine.HandleRaw(reg, "by.hand", func(_ context.Context, job *engine.Job) (any, error) {
		ran <- job.Args
		return nil, nil
	})
	w := start(t, pool, reg, engine.WorkerConfig{})
	// The first job proves that the worker is up, the second that it wakes.
	for range 2 {
		id := uuid.New()
		exec(t, pool, `insert into soniq_jobs (id, job_name, args) values ($1, 'by.hand', '{"n": 1}')`, id)
		if got := receive(t, "handler", ran); string(got) != `{"n": 1}` {
			t.Errorf("args %s", got)
		}
		w.waitForJob(t, id)
	}
}

// Every column that Python's schema leaves nullable may be NULL.
func TestWorker_rowOfNulls_runsAndDies(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "bare", func(context.Context, *engine.Job) (any, error) {
		return nil, errors.New("no")
	}, soon)
	w := start(t, pool, reg, engine.WorkerConfig{})
	id := uuid.New()
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, attempts, max_attempts, queue, priority, unique_job, created_at, updated_at)
		values ($1, 'bare', '{}', null, null, null, null, null, null, null)`, id)
	outcomes := w.waitForJob(t, id)
	if len(outcomes) != 4 || outcomes[3].Verdict.Reason != classify.MaxRetriesExceeded {
		t.Errorf("outcomes %v, want three retries and a dead letter", outcomes)
	}
	if q := queryValue[string](t, pool, `select queue from soniq_dead_letter_jobs where id = $1`, id); q != "default" {
		t.Errorf("dead letter's queue is %q", q)
	}
}

func TestWorker_failures_landUnderTheRightReason(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	fail := func(name string, fn func(context.Context, *engine.Job) (any, error), opts ...engine.HandleOption) {
		engine.HandleRaw(reg, name, fn, append(opts, soon)...)
	}
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(slow.Close)
	errTyped := (*typedNil)(nil)
	fail("error", func(context.Context, *engine.Job) (any, error) { return nil, errors.New("card refused") })
	fail("panic", func(context.Context, *engine.Job) (any, error) { panic("index out of range") })
	fail("panic.nil", func(context.Context, *engine.Job) (any, error) { panic(nil) })
	fail("goexit", func(context.Context, *engine.Job) (any, error) { runtime.Goexit(); return nil, nil })
	fail("typed.nil", func(context.Context, *engine.Job) (any, error) { return nil, errTyped })
	fail("permanent", func(context.Context, *engine.Job) (any, error) {
		return nil, fmt.Errorf("charge: %w", engine.Permanent(errors.New("no such customer")))
	})
	fail("rule", func(context.Context, *engine.Job) (any, error) { return nil, http.ErrNotSupported },
		engine.PermanentIf(func(err error) bool { return errors.Is(err, http.ErrNotSupported) }))
	fail("timeout", func(ctx context.Context, _ *engine.Job) (any, error) { <-ctx.Done(); return nil, ctx.Err() },
		engine.Timeout(20*time.Millisecond))
	fail("timeout.wrapped", func(ctx context.Context, _ *engine.Job) (any, error) {
		<-ctx.Done()
		return nil, errors.New("sent 3 of 5 parts")
	}, engine.Timeout(20*time.Millisecond))
	fail("own.deadline", func(ctx context.Context, _ *engine.Job) (any, error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, slow.URL, nil)
		_, err := http.DefaultClient.Do(req) //nolint:bodyclose // there is none: it fails
		return nil, err
	})
	fail("invalid.marker", func(context.Context, *engine.Job) (any, error) {
		return nil, engine.InvalidArguments(errors.New("unknown currency"))
	})
	engine.Handle(reg, "typed", func(context.Context, greeting) error { return nil })
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)

	for _, c := range []struct {
		name     string
		args     string
		attempts int
		reason   classify.Reason
		kind     classify.Kind
		message  string
	}{
		{"error", `{}`, 2, classify.MaxRetriesExceeded, classify.KindError, "card refused"},
		{"panic", `{}`, 2, classify.MaxRetriesExceeded, classify.KindPanic, "index out of range"},
		{"panic.nil", `{}`, 2, classify.MaxRetriesExceeded, classify.KindPanic, "nil"},
		{"goexit", `{}`, 2, classify.MaxRetriesExceeded, classify.KindGoexit, "Goexit"},
		{"typed.nil", `{}`, 2, classify.MaxRetriesExceeded, classify.KindError, "typedNil"},
		{"permanent", `{}`, 1, classify.PermanentFailure, classify.KindError, "charge: no such customer"},
		{"rule", `{}`, 1, classify.PermanentFailure, classify.KindError, "not supported"},
		{"timeout", `{}`, 2, classify.Timeout, classify.KindTimeout, "timed out after 20ms"},
		{"timeout.wrapped", `{}`, 2, classify.Timeout, classify.KindTimeout, "sent 3 of 5 parts"},
		{"own.deadline", `{}`, 2, classify.MaxRetriesExceeded, classify.KindError, "deadline exceeded"},
		{"invalid.marker", `{}`, 1, classify.InvalidArguments, classify.KindDecode, "unknown currency"},
		{"typed", `{"name": 7}`, 1, classify.InvalidArguments, classify.KindDecode, `field "name": want string`},
		{"typed", `{"nmae": "x"}`, 1, classify.InvalidArguments, classify.KindDecode, `field "nmae": not known`},
		{"typed", `{"name": ""}`, 1, classify.InvalidArguments, classify.KindDecode, `field "name": must not be empty`},
	} {
		t.Run(c.name+c.args, func(t *testing.T) {
			t.Parallel()
			id := enqueue(t, client, c.name, json.RawMessage(c.args), engine.MaxAttempts(2))
			outcomes := w.waitForJob(t, id)
			last := outcomes[len(outcomes)-1]
			if last.Kind != engine.OutcomeDeadLetter || len(outcomes) != c.attempts {
				t.Fatalf("%d outcomes, the last %s; want %d and a dead letter", len(outcomes), last.Kind, c.attempts)
			}
			dead, err := newQueue(t, pool).Get(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if dead.Reason != c.reason || dead.Attempts != c.attempts || !strings.Contains(dead.LastError, c.message) {
				t.Errorf("reason %s after %d attempts, error %q; want %s, %d, %q",
					dead.Reason, dead.Attempts, dead.LastError, c.reason, c.attempts, c.message)
			}
			if last.Verdict.Kind != c.kind || last.Verdict.Fingerprint == "" || last.Verdict.DecidedBy == "" {
				t.Errorf("verdict %+v, want kind %s, a fingerprint and who decided", last.Verdict, c.kind)
			}
		})
	}
}

type typedNil struct{ s string }

func (e *typedNil) Error() string { return e.s }

func TestWorker_hostileError_isStored(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "hostile", func(_ context.Context, job *engine.Job) (any, error) {
		return nil, errors.New("head \x00\xff " + strings.Repeat("💥", 1<<18) + " tail")
	}, soon)
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	id := enqueue(t, client, "hostile", nil, engine.MaxAttempts(2))
	outcomes := w.waitForJob(t, id)
	if len(outcomes) != 2 {
		t.Fatalf("%d outcomes, want a retry and a dead letter", len(outcomes))
	}
	job := getJob(t, client, id)
	if job.Status != engine.StatusDeadLetter || !utf8.ValidString(job.LastError) || len(job.LastError) > classify.MaxErrorBytes ||
		!strings.HasPrefix(job.LastError, "head ") || !strings.HasSuffix(job.LastError, " tail") {
		t.Errorf("%s with error of %d bytes: %.40q ... %q", job.Status, len(job.LastError), job.LastError,
			job.LastError[max(0, len(job.LastError)-20):])
	}
}

func TestWorker_flakyJob_succeedsOnItsThirdAttempt(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "flaky", func(_ context.Context, job *engine.Job) (any, error) {
		if job.Attempts < 3 {
			return nil, fmt.Errorf("attempt %d failed", job.Attempts)
		}
		return nil, nil
	}, soon)
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	id := enqueue(t, client, "flaky", nil)
	outcomes := w.waitForJob(t, id)
	if len(outcomes) != 3 || outcomes[2].Kind != engine.OutcomeDone {
		t.Errorf("outcomes %v, want two retries and done", outcomes)
	}
	if job := getJob(t, client, id); job.Status != engine.StatusDone || job.Attempts != 3 || job.LastError != "attempt 2 failed" {
		t.Errorf("%s, %d attempts, last error %q", job.Status, job.Attempts, job.LastError)
	}
}

func TestWorker_retryAfter_overridesThePolicy(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "asks", func(context.Context, *engine.Job) (any, error) {
		return nil, engine.RetryAfter(42*time.Minute, errors.New("busy"))
	}, soon)
	engine.HandleRaw(reg, "panicking.policy", func(context.Context, *engine.Job) (any, error) {
		return nil, errors.New("busy")
	}, engine.Retry(engine.RetryFunc(func(int, error) time.Duration { panic("policy") })))
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	asks, panicking := enqueue(t, client, "asks", nil), enqueue(t, client, "panicking.policy", nil)
	outcomes := w.waitFor(t, "two retries", func(o []engine.Outcome) bool { return len(o) >= 2 })
	for _, o := range outcomes {
		switch {
		case o.Kind != engine.OutcomeRetry:
			t.Errorf("outcome %v, want a retry", o)
		case o.Job.ID == asks && o.Delay != 42*time.Minute:
			t.Errorf("delay %s, want 42 min", o.Delay)
		case o.Job.ID == panicking && (o.Delay < 500*time.Millisecond || o.Delay > time.Second):
			t.Errorf("delay %s, want the default policy's", o.Delay)
		}
	}
	due := queryValue[float64](t, pool, `select extract(epoch from scheduled_at - now())::float8 from soniq_jobs where id = $1`, asks)
	if due < 41*60 || due > 42*60 {
		t.Errorf("due in %.0f s, want 42 min", due)
	}
}

func TestWorker_snooze_isNoAttempt(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	times := 0
	engine.HandleRaw(reg, "waits", func(_ context.Context, job *engine.Job) (any, error) {
		if times++; times < 4 {
			return nil, engine.Snooze(time.Millisecond)
		}
		return job.Attempts, nil
	})
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 1})
	client := newClient(t, pool)
	id := enqueue(t, client, "waits", nil, engine.MaxAttempts(1))
	if outcomes := w.waitForJob(t, id); len(outcomes) != 4 {
		t.Errorf("outcomes %v, want three snoozes and done", outcomes)
	}
	if job := getJob(t, client, id); string(job.Result) != "1" || job.Attempts != 1 || job.LastError != "" {
		t.Errorf("result %s, %d attempts, error %q", job.Result, job.Attempts, job.LastError)
	}
}

func TestWorker_negativeTTL_deletesTheRow(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "ok", func(context.Context, *engine.Job) (any, error) { return 1, nil })
	w := start(t, pool, reg, engine.WorkerConfig{ResultTTL: -1})
	client := newClient(t, pool)
	id := enqueue(t, client, "ok", nil)
	w.waitForJob(t, id)
	if _, err := client.Job(t.Context(), id); !errors.Is(err, engine.ErrJobNotFound) {
		t.Errorf("got %v, want ErrJobNotFound", err)
	}
}

func TestWorker_replaySucceeds_resolvesTheDeadLetter(t *testing.T) {
	t.Parallel()
	for name, ttl := range map[string]time.Duration{"kept": time.Minute, "deleted at once": -1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			reg := engine.NewRegistry()
			engine.HandleRaw(reg, "fixed.later", func(_ context.Context, job *engine.Job) (any, error) {
				if job.ReplayOf == nil {
					return nil, engine.Permanent(errors.New("bug"))
				}
				return nil, nil
			})
			w := start(t, pool, reg, engine.WorkerConfig{ResultTTL: ttl})
			client, dlq := newClient(t, pool), newQueue(t, pool)
			id := enqueue(t, client, "fixed.later", map[string]int{"n": 7})
			w.waitForJob(t, id)
			replay, err := dlq.Replay(t.Context(), id, deadletter.ReplayOptions{})
			if err != nil {
				t.Fatal(err)
			}
			w.waitForJob(t, replay)
			dead, err := dlq.Get(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if dead.State != deadletter.StateResolved || dead.ResurrectionCount != 1 {
				t.Errorf("state %s, resurrection count %d; want resolved, 1", dead.State, dead.ResurrectionCount)
			}
		})
	}
}
