package engine_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/engine"
	"soniq/internal/faultydb"
	"soniq/internal/liveness"
	"soniq/internal/pause"
	"soniq/internal/testdb"
)

// Promises of docs/reliability.md that have no test elsewhere.

// A slot is freed by whatever way its handler ends.
func TestWorker_handlersThatDoNotReturn_keepTheirSlots(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "exits", func(context.Context, *engine.Job) (any, error) {
		runtime.Goexit()
		return nil, nil
	})
	engine.HandleRaw(reg, "panics", func(context.Context, *engine.Job) (any, error) { panic("no") })
	engine.HandleRaw(reg, "cancelled", func(context.Context, *engine.Job) (any, error) { return nil, context.Canceled })
	noop(reg, "fine")
	client := newClient(t, pool)
	const slots = 2
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: slots})
	for _, name := range []string{"exits", "panics", "cancelled"} {
		for range slots + 1 {
			w.waitForJob(t, enqueue(t, client, name, nil, engine.MaxAttempts(1)))
		}
	}
	var fine []uuid.UUID
	for range 2 * slots {
		fine = append(fine, enqueue(t, client, "fine", nil))
	}
	for _, id := range fine {
		w.waitForJob(t, id)
	}
}

// Others would take a worker that stops, and its jobs, for dead.
func TestWorker_draining_beatsUntilItsLastJobEnds(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, release := slowJob(reg, "slow")
	w := start(t, pool, reg, engine.WorkerConfig{}, engine.Timing{Beat: 50 * time.Millisecond})
	id := enqueue(t, newClient(t, pool), "slow", nil)
	receive(t, "start", started)
	w.cancel()
	waitUntil(t, pool, "the lock's withdrawal", `select lock_key is null from soniq_workers where id = $1`, w.ID())
	for range 3 {
		before := queryValue[time.Time](t, pool, `select last_heartbeat from soniq_workers where id = $1`, w.ID())
		waitUntil(t, pool, "a heartbeat", `
			select last_heartbeat > $2 and status = 'active' from soniq_workers where id = $1`, w.ID(), before)
	}
	close(release)
	w.waitForJob(t, id)
}

// The timeout is the handler's own: a job that waits for a slot waits in its
// queue.
func TestWorker_waitForASlot_isNoPartOfTheTimeout(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "naps", func(ctx context.Context, _ *engine.Job) (any, error) {
		return nil, pause.For(ctx, 100*time.Millisecond)
	}, engine.Timeout(400*time.Millisecond), soon)
	client := newClient(t, pool)
	var ids []uuid.UUID
	for range 6 { // the last one waits for longer than its timeout
		ids = append(ids, enqueue(t, client, "naps", nil))
	}
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 1})
	for _, id := range ids {
		w.waitForJob(t, id)
		if job := getJob(t, client, id); job.Status != engine.StatusDone || job.Attempts != 1 {
			t.Errorf("a job is %s after %d attempts: %s", job.Status, job.Attempts, job.LastError)
		}
	}
}

func TestWorker_handler_seesItsOwnClaim(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	seen := make(chan *engine.Job, 1)
	engine.HandleRaw(reg, "looks", func(_ context.Context, job *engine.Job) (any, error) {
		seen <- job
		return nil, nil
	})
	client := newClient(t, pool)
	id := enqueue(t, client, "looks", nil)
	// Somebody else had it before.
	before := addWorker(t, pool, nil, nil, 0, 0)
	exec(t, pool, `update soniq_jobs set attempts = 1, worker_id = $2 where id = $1`, id, before)
	w := start(t, pool, reg, engine.WorkerConfig{})
	job := receive(t, "the run", seen)
	if job.WorkerID == nil || *job.WorkerID != w.ID() || job.Attempts != 2 || job.Status != engine.StatusProcessing {
		t.Errorf("the handler sees worker %v, attempt %d, %s; want %s, 2, processing", job.WorkerID, job.Attempts, job.Status, w.ID())
	}
	w.waitForJob(t, id)
}

// Recovery is not for idle hands alone.
func TestWorker_allSlotsBusy_recoversTheJobsOfTheDead(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, release := slowJob(reg, "slow")
	client := newClient(t, pool)
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 1})
	busy := enqueue(t, client, "slow", nil)
	receive(t, "start", started)
	ours := "go/0.1.0"
	dead := addWorker(t, pool, &ours, nil, time.Minute, time.Hour)
	orphan := enqueue(t, client, "slow", nil, engine.After(time.Hour))
	exec(t, pool, `
		update soniq_jobs
		set status = 'processing', attempts = 1, worker_id = $2, claim_token = 1
		where id = $1`, orphan, dead)
	w.WakeDetector()
	waitUntil(t, pool, "the recovery", `select status = 'queued' and attempts = 1 from soniq_jobs where id = $1`, orphan)
	if job := getJob(t, client, busy); job.Status != engine.StatusProcessing {
		t.Errorf("the running job is %s", job.Status)
	}
	close(release)
	w.waitForJob(t, busy)
}

func TestWorker_snoozeAfterAFailure_keepsTheError(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	runs := 0
	engine.HandleRaw(reg, "waits", func(context.Context, *engine.Job) (any, error) {
		switch runs++; runs {
		case 1:
			return nil, errors.New("connection refused")
		case 2:
			return nil, engine.Snooze(time.Hour)
		}
		return nil, nil
	}, soon)
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	id := enqueue(t, client, "waits", nil)
	w.waitFor(t, "a retry and a snooze", func(all []engine.Outcome) bool { return len(all) == 2 })
	if job := getJob(t, client, id); job.LastError != "connection refused" || job.Attempts != 1 {
		t.Errorf("after %d attempts the last error is %q", job.Attempts, job.LastError)
	}
}

// A policy can decide by the error's type, and is not asked about the last
// attempt, which has no retry.
func TestWorker_retryPolicy_isGivenTheErrorItself(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	type question struct {
		attempt int
		err     error
	}
	asked := make(chan question, 10)
	failure := &fs.PathError{Op: "open", Path: "invoice.pdf", Err: fs.ErrNotExist}
	engine.HandleRaw(reg, "fails", func(context.Context, *engine.Job) (any, error) { return nil, failure },
		engine.Retry(engine.RetryFunc(func(attempt int, err error) time.Duration {
			asked <- question{attempt, err}
			return time.Millisecond
		})))
	w := start(t, pool, reg, engine.WorkerConfig{})
	w.waitForJob(t, enqueue(t, newClient(t, pool), "fails", nil, engine.MaxAttempts(3)))
	for attempt := 1; attempt <= 2; attempt++ {
		q := receive(t, "the question", asked)
		var path *fs.PathError
		if q.attempt != attempt || !errors.As(q.err, &path) || path != failure {
			t.Errorf("asked about attempt %d and %v, want %d and the handler's error", q.attempt, q.err, attempt)
		}
	}
	if len(asked) > 0 {
		t.Error("asked about the last attempt too")
	}
}

// Attempts are not burnt in milliseconds, and others have their turn.
func TestWorker_withoutAPolicy_waitsBeforeARetry(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "fails", func(context.Context, *engine.Job) (any, error) { return nil, errors.New("down") })
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	id := enqueue(t, client, "fails", nil)
	outcomes := w.waitFor(t, "two retries", func(all []engine.Outcome) bool { return len(all) == 2 })
	for i, longest := range []time.Duration{time.Second, 2 * time.Second} {
		if d := outcomes[i].Delay; d < longest/2 || d > longest {
			t.Errorf("retry %d waits %s, want %s at the most and half of it at the least", i+1, d, longest)
		}
	}
	job := getJob(t, client, id)
	if job.ScheduledAt == nil || !job.ScheduledAt.After(job.UpdatedAt.Add(outcomes[1].Delay/2)) {
		t.Errorf("it is due at %v, written at %s", job.ScheduledAt, job.UpdatedAt)
	}
}

// Uniqueness holds for queued jobs: whatever brings a job back to its queue can
// meet its twin there.
func TestWorker_snoozedOrReleasedBesideQueuedTwin_isNotLost(t *testing.T) {
	t.Parallel()
	for name, act := range map[string]func(w *running, goOn chan<- error){
		"snoozed":  func(_ *running, goOn chan<- error) { goOn <- engine.Snooze(time.Hour) },
		"released": func(w *running, _ chan<- error) { _ = w.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			reg := engine.NewRegistry()
			started, goOn := make(chan struct{}, 10), make(chan error)
			engine.HandleRaw(reg, "unique", func(ctx context.Context, _ *engine.Job) (any, error) {
				started <- struct{}{}
				select {
				case err := <-goOn:
					return nil, err
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			})
			client := newClient(t, pool)
			w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 1, ShutdownTimeout: time.Millisecond})
			first := enqueue(t, client, "unique", nil, engine.Unique(), engine.DedupKey("k"))
			receive(t, "start", started)
			twin := enqueue(t, client, "unique", nil, engine.Unique(), engine.DedupKey("k"), engine.After(time.Hour))
			act(w, goOn)
			w.waitFor(t, "the outcome", func(all []engine.Outcome) bool { return len(all) == 1 })
			for _, id := range []uuid.UUID{first, twin} {
				if job := getJob(t, client, id); job.Status != engine.StatusQueued || job.Attempts != 0 {
					t.Errorf("a job is %s after %d attempts", job.Status, job.Attempts)
				}
			}
		})
	}
}

// A worker that can't begin says so and ends. It leaves no connection behind
// for which its pool would wait.
func TestWorker_cannotRegister_runTellsWhy(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, refuse)
	exec(t, pool, `create trigger refuse before insert on soniq_workers for each row execute function refuse()`)
	reg := engine.NewRegistry()
	noop(reg, "a")
	w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- w.Run(context.Background()) }()
	if err := receive(t, "the end", ended); err == nil || !strings.Contains(err.Error(), "register worker") {
		t.Errorf("run: %v", err)
	}
	if n := pool.Stat().AcquiredConns(); n != 0 {
		t.Errorf("%d connections are still in use", n)
	}
}

// What waits for the engine's real times, half a minute. The cases run at once,
// in the place of one test.
func TestWorker_realTimes(t *testing.T) {
	t.Parallel()
	cases := map[string]func(*testing.T){
		"idle": func(t *testing.T) {
			url := testdb.NewURL(t)
			// Its look at the other workers is the clock: it comes each 30 s.
			pool, sent := tracedFor(t, url, liveness.LookSQL)
			reg := engine.NewRegistry()
			noop(reg, "a")
			start(t, pool, reg, engine.WorkerConfig{SafetyPoll: 30 * time.Second})
			waitUntil(t, connect(t, url), "the lock", advertisingSQL, 1)
			var sentSince int
			var took time.Duration
			// One more look may follow the start.
			for range 3 {
				quiet(t, sent)
				began := time.Now()
				before, looks := sent.count()
				waitLong(t, "half a minute", time.Minute, func() bool {
					_, now := sent.count()
					return now > looks
				})
				quiet(t, sent) // all that is due at this time
				all, _ := sent.count()
				if sentSince, took = all-before, time.Since(began); took > 20*time.Second {
					break
				}
			}
			t.Logf("%d statements in %s", sentSince, took)
			// 20 a minute is the bar.
			if sentSince > 10 || took < 20*time.Second {
				t.Errorf("%d statements in %s, want at most 10 in half a minute", sentSince, took)
			}
		},
	}
	for _, name := range []string{"claim", "retry", "heartbeat", "look for cancels"} {
		cases["hangs: "+name] = func(t *testing.T) { faultCases[name].test(t, faultydb.Hangs, 1) }
	}
	ended := make(chan bool)
	for name, test := range cases {
		go func() { ended <- t.Run(name, test) }()
	}
	for range cases {
		<-ended
	}
}

// quiet waits until what a worker does when it starts is over.
func quiet(t *testing.T, sent *statements) {
	t.Helper()
	last, since := -1, time.Now()
	waitTrue(t, "the end of the start", func() bool {
		if n, _ := sent.count(); n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > time.Second
	})
}
