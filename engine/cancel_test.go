package engine_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/deadwrite"
	"soniq/internal/testdb"
)

func cancelJob(t *testing.T, c *engine.Client, id uuid.UUID) engine.JobStatus {
	t.Helper()
	status, err := c.CancelJob(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return status
}

func wantRefused(t *testing.T, what string, err error, status engine.JobStatus) {
	t.Helper()
	var refused *engine.RefusedError
	if !errors.As(err, &refused) || refused.Status != status {
		t.Errorf("%s: %v, want a refusal because it is %s", what, err, status)
	}
}

// quietly requests a cancellation that nobody announces.
func quietly(t *testing.T, pool *pgxpool.Pool, id uuid.UUID) {
	t.Helper()
	exec(t, pool, `set soniq.notify = off; update soniq_jobs set cancel_requested_at = now() where id = '`+id.String()+`'; reset soniq.notify`)
}

func TestCancel_queuedJob_neverRuns_andExpires(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	id := enqueue(t, client, "n", nil, engine.DedupKey("k"))
	for range 2 {
		if status := cancelJob(t, client, id); status != engine.StatusCancelled {
			t.Errorf("Cancel says %s", status)
		}
	}
	job := getJob(t, client, id)
	if job.Status != engine.StatusCancelled || job.ExpiresAt == nil || time.Until(*job.ExpiresAt) < 23*time.Hour {
		t.Errorf("the job is %s and expires at %v", job.Status, job.ExpiresAt)
	}
	// Its place is free again.
	next, err := client.Enqueue(t.Context(), "n", nil, engine.DedupKey("k"))
	if err != nil || next.Duplicate {
		t.Fatalf("the next of its key: %+v, %v", next, err)
	}
	reg := engine.NewRegistry()
	noop(reg, "n")
	exec(t, pool, `update soniq_jobs set expires_at = now() - interval '1 s' where id = $1`, id)
	w := start(t, pool, reg, engine.WorkerConfig{})
	w.waitForJob(t, next.ID)
	waitUntil(t, pool, "expiry", `select not exists (select from soniq_jobs where id = $1)`, id)
}

func TestCancel_whatHasEnded_isRefused(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	done, dead := enqueue(t, client, "n", nil), enqueue(t, client, "n", nil)
	exec(t, pool, `update soniq_jobs set status = 'done' where id = $1`, done)
	if _, err := deadwrite.MoveQueued(t.Context(), pool, []uuid.UUID{dead}, classify.Verdict{Reason: classify.ManualMove}); err != nil {
		t.Fatal(err)
	}
	_, err := client.CancelJob(t.Context(), done)
	wantRefused(t, "done", err, engine.StatusDone)
	_, err = client.CancelJob(t.Context(), dead)
	wantRefused(t, "dead", err, engine.StatusDeadLetter)
	if _, err := client.CancelJob(t.Context(), uuid.New()); !errors.Is(err, engine.ErrJobNotFound) {
		t.Errorf("missing: %v", err)
	}
}

func TestCancel_runningJob_itsContextEndsWithTheCause(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, causes := make(chan *engine.Job, 1), make(chan error, 1)
	engine.HandleRaw(reg, "slow", func(ctx context.Context, job *engine.Job) (any, error) {
		started <- job
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return nil, ctx.Err()
	})
	bystander, release := slowJob(reg, "bystander")
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	other := enqueue(t, client, "bystander", nil)
	receive(t, "the other job", bystander)
	id := enqueue(t, client, "slow", nil)
	receive(t, "the job", started)
	if status := cancelJob(t, client, id); status != engine.StatusProcessing {
		t.Errorf("Cancel says %s", status)
	}
	if cause := receive(t, "the end of its context", causes); !errors.Is(cause, engine.ErrCancelled) {
		t.Errorf("the cause is %v", cause)
	}
	if o := w.waitForJob(t, id); len(o) != 1 || o[0].Kind != engine.OutcomeCancelled {
		t.Errorf("outcomes %+v", o)
	}
	job := getJob(t, client, id)
	if job.Status != engine.StatusCancelled || job.LastError != "cancelled by request" || job.ExpiresAt == nil || job.Attempts != 1 {
		t.Errorf("the job: %+v", job)
	}
	close(release)
	if o := w.waitForJob(t, other); o[0].Kind != engine.OutcomeDone {
		t.Errorf("the other job: %+v", o)
	}
}

// What the handler says of the cancellation is kept; what it returns decides
// nothing.
func TestCancel_handlerReturnsSomethingElse_isCancelled(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started := make(chan *engine.Job, 4)
	handle := func(name string, err error) {
		engine.HandleRaw(reg, name, func(ctx context.Context, job *engine.Job) (any, error) {
			started <- job
			<-ctx.Done()
			return nil, err
		})
	}
	handle("permanent", engine.Permanent(errors.New("half done")))
	handle("snoozes", engine.Snooze(time.Hour))
	handle("mute", (*muteError)(nil))
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	for name, want := range map[string]string{
		"permanent": "cancelled by request; the handler returned: half done",
		"snoozes":   "cancelled by request; the handler returned: snoozed for 1h0m0s",
		"mute":      "",
	} {
		id := enqueue(t, client, name, nil)
		receive(t, name, started)
		cancelJob(t, client, id)
		w.waitForJob(t, id)
		if job := getJob(t, client, id); job.Status != engine.StatusCancelled || want != "" && job.LastError != want {
			t.Errorf("%s: %s, %q", name, job.Status, job.LastError)
		}
	}
}

// However the handler ends after it was told, its last attempt too.
func TestCancel_handlerBreaksDown_isCancelled(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started := make(chan *engine.Job, 2)
	handle := func(name string, end func()) {
		engine.HandleRaw(reg, name, func(ctx context.Context, job *engine.Job) (any, error) {
			started <- job
			<-ctx.Done()
			end()
			return nil, nil
		})
	}
	handle("panics", func() { panic("no more") })
	handle("exits", runtime.Goexit)
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	for name, said := range map[string]string{"panics": "panic: no more", "exits": "runtime.Goexit"} {
		id := enqueue(t, client, name, nil, engine.MaxAttempts(1))
		receive(t, name, started)
		cancelJob(t, client, id)
		if o := w.waitForJob(t, id); o[0].Kind != engine.OutcomeCancelled {
			t.Errorf("%s: %+v", name, o)
		}
		job := getJob(t, client, id)
		if job.Status != engine.StatusCancelled || !strings.Contains(job.LastError, said) {
			t.Errorf("%s: %s, %q", name, job.Status, job.LastError)
		}
	}
}

// muteError panics when it is asked anything.
type muteError struct{ text string }

func (e *muteError) Error() string   { return e.text }
func (e *muteError) Is(error) bool   { return e.text == "" }
func (e *muteError) Permanent() bool { return e.text == "" }

func TestCancel_lostNotification_isFoundWithTheHeartbeat(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, _ := slowJob(reg, "slow")
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	id := enqueue(t, client, "slow", nil)
	receive(t, "the job", started)
	quietly(t, pool, id)
	if err := w.LookForCancels(t.Context()); err != nil {
		t.Fatal(err)
	}
	if o := w.waitForJob(t, id); o[0].Kind != engine.OutcomeCancelled {
		t.Errorf("outcomes %+v", o)
	}
}

// A request that no worker has seen still keeps the job from its next attempt.
func TestCancel_attemptFailsBeforeTheWorkerKnows_isNotRetried(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, fail := make(chan *engine.Job, 1), make(chan struct{})
	engine.HandleRaw(reg, "fails", func(_ context.Context, job *engine.Job) (any, error) {
		started <- job
		<-fail
		return nil, errors.New("boom")
	}, soon)
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	id := enqueue(t, client, "fails", nil)
	receive(t, "the job", started)
	quietly(t, pool, id)
	close(fail)
	if o := w.waitForJob(t, id); len(o) != 1 || o[0].Kind != engine.OutcomeCancelled {
		t.Errorf("outcomes %+v", o)
	}
	job := getJob(t, client, id)
	if job.Status != engine.StatusCancelled || job.LastError != "cancelled by request; the last error was: boom" || job.ExpiresAt == nil {
		t.Errorf("the job: %+v", job)
	}
}

// Whoever queues it again: Python's sweep, or ours after a crash.
func TestCancel_workerDies_jobIsNotQueuedAgain(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	id := enqueue(t, client, "n", nil)
	exec(t, pool, `update soniq_jobs set status = 'processing', attempts = 1 where id = $1`, id)
	cancelJob(t, client, id)
	exec(t, pool, `update soniq_jobs set status = 'queued', worker_id = null, updated_at = now() where id = $1`, id)
	if job := getJob(t, client, id); job.Status != engine.StatusCancelled || job.ExpiresAt == nil {
		t.Errorf("the job: %+v", job)
	}
}

// Requests race with the ends of the jobs: each job ends once, and as one of
// both.
func TestCancel_racesCompletion_eachJobEndsOnce(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	running := make(chan *engine.Job, 1)
	engine.HandleRaw(reg, "quick", func(_ context.Context, job *engine.Job) (any, error) {
		running <- job
		return nil, nil
	})
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 2})
	client := newClient(t, pool)
	const jobs = 100
	inserts := make([]engine.Insert, jobs)
	for i := range inserts {
		inserts[i].Name = "quick"
	}
	enqueued, err := client.EnqueueMany(t.Context(), inserts)
	if err != nil {
		t.Fatal(err)
	}
	for range jobs {
		job := receive(t, "a job", running)
		_, err := client.CancelJob(t.Context(), job.ID)
		if refused := (*engine.RefusedError)(nil); err != nil && !errors.As(err, &refused) {
			t.Fatal(err)
		}
	}
	w.waitFor(t, "all jobs", func(o []engine.Outcome) bool { return len(o) == jobs })
	for _, e := range enqueued {
		if o := w.waitForJob(t, e.ID); len(o) != 1 || o[0].Kind != engine.OutcomeDone {
			t.Errorf("job %s: %+v", e.ID, o)
		}
	}
	if n := queryValue[int](t, pool, `select count(*) from soniq_jobs where status = 'done'`); n != jobs {
		t.Errorf("%d of %d jobs are done: the handler succeeded each time", n, jobs)
	}
}

func TestCancel_runningReplay_itsDeadLetterIsDeadAgain(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, _ := slowJob(reg, "slow")
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	dead := enqueue(t, client, "slow", nil, engine.After(time.Hour))
	if _, err := deadwrite.MoveQueued(t.Context(), pool, []uuid.UUID{dead}, classify.Verdict{Reason: classify.ManualMove}); err != nil {
		t.Fatal(err)
	}
	queue := newQueue(t, pool)
	replay, err := queue.Replay(t.Context(), dead, deadletter.ReplayOptions{})
	if err != nil {
		t.Fatal(err)
	}
	receive(t, "the replay", started)
	cancelJob(t, client, replay)
	w.waitForJob(t, replay)
	letter, err := queue.Get(t.Context(), dead)
	if err != nil || letter.State != deadletter.StateDead {
		t.Errorf("the dead letter is %s, %v", letter.State, err)
	}
	// It must not run beside the next replay.
	wantRefused(t, "retry of a cancelled replay", client.RetryJob(t.Context(), replay), engine.StatusCancelled)
}

// A handler that hangs may hold all there is of the pool.
func TestCancel_handlersHoldThePool_isHeard(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	small := narrow(t, pool)
	reg := engine.NewRegistry()
	started := make(chan *engine.Job, 1)
	engine.HandleRaw(reg, "greedy", func(ctx context.Context, job *engine.Job) (any, error) {
		conn, err := small.Acquire(ctx)
		if err != nil {
			return nil, err
		}
		defer conn.Release()
		started <- job
		<-ctx.Done()
		return nil, ctx.Err()
	})
	w := start(t, small, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	id := enqueue(t, client, "greedy", nil)
	receive(t, "the job", started)
	cancelJob(t, client, id)
	if o := w.waitForJob(t, id); o[0].Kind != engine.OutcomeCancelled {
		t.Errorf("outcomes %+v", o)
	}
}

// A request may come when the row is claimed and the worker has yet to learn
// of it: it looks once the job is running. It looks for none but its own.
func TestCancel_atTheMomentOfTheClaim_isHeard(t *testing.T) {
	t.Parallel()
	reg := engine.NewRegistry()
	noop(reg, "n")
	w, err := engine.NewWorker(testdb.New(t), reg, engine.WorkerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	cancels := w.Cancels()
	looks := func() bool {
		select {
		case <-cancels.C():
			return true
		default:
			return false
		}
	}
	request := `{"v": 1, "cancel": "` + uuid.NewString() + `"}`
	for _, payload := range []string{request, "", "null", `{"cancel": 7}`, `{"cancel": "x"}`, `{"v": 2}`} {
		cancels.Notify(t.Context(), payload)
		if looks() {
			t.Errorf("%q makes it look, though it runs nothing", payload)
		}
	}
	ended := w.BeginClaim()
	cancels.Notify(t.Context(), request)
	if looks() {
		t.Error("it looks before the claim has brought its jobs")
	}
	ended()
	if !looks() {
		t.Error("it does not look after the claim")
	}
	w.BeginClaim()()
	if looks() {
		t.Error("it looks after the next claim too")
	}
	cancels.Connected(t.Context())
	if !looks() {
		t.Error("it does not look after a new connection")
	}
}
