package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq"
	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/testdb"
)

func TestWorker_eachFailedAttempt_isInTheHistory(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "flaky", func(_ context.Context, job *engine.Job) (any, error) {
		switch job.Attempts {
		case 1:
			return nil, errors.New("connection refused")
		case 2:
			panic("nil map")
		default:
			return nil, engine.Permanent(errors.New("no such customer"))
		}
	}, soon)
	client := newClient(t, pool)
	w := start(t, pool, reg, engine.WorkerConfig{})
	before := queryValue[time.Time](t, pool, `select clock_timestamp()`)
	id := enqueue(t, client, "flaky", nil)
	w.waitForJob(t, id)

	dead, err := newQueue(t, pool).Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	job := getJob(t, client, id)
	for _, history := range [][]classify.Failure{dead.Errors, job.Errors} {
		var told []string
		for i, f := range history {
			told = append(told, fmt.Sprint(f.Attempt, " ", f.Kind, " ", f.DecidedBy, ": ", f.Message))
			if f.WorkerID == nil || *f.WorkerID != w.ID() {
				t.Errorf("entry %d is of worker %v, want %s", i, f.WorkerID, w.ID())
			}
			if f.StartedAt == nil || f.StartedAt.Before(before) || f.FailedAt.Before(*f.StartedAt) || f.FailedAt.After(before.Add(patience)) {
				t.Errorf("entry %d began at %v and failed at %v; the job was enqueued after %s", i, f.StartedAt, f.FailedAt, before)
			}
		}
		want := "1 error budget: connection refused|2 panic budget: panic: nil map|3 error marker: no such customer"
		if got := strings.Join(told, "|"); got != want {
			t.Errorf("the history tells\n%s, want\n%s", got, want)
		}
	}
	if stack := dead.Errors[1].Stack; !strings.Contains(stack, "history_test.go") {
		t.Errorf("the panic's stack does not name its place:\n%s", stack)
	}
}

func TestWorker_snoozedAndReleased_areNoFailures(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	calls := 0
	engine.HandleRaw(reg, "later", func(context.Context, *engine.Job) (any, error) {
		if calls++; calls < 3 {
			return nil, engine.Snooze(0)
		}
		return nil, nil
	})
	client := newClient(t, pool)
	w := start(t, pool, reg, engine.WorkerConfig{})
	id := enqueue(t, client, "later", nil)
	w.waitForJob(t, id)
	if job := getJob(t, client, id); job.Errors != nil {
		t.Errorf("the history tells of %v", job.Errors)
	}
}

// A crash is told in the history and charged; where the attempts are used up,
// the job is a dead letter at once, though nobody here could claim it.
func TestWorker_crashOnTheLastAttempt_isADeadLetterWithoutAnotherClaim(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "other")
	client := newClient(t, pool)
	ours := "go/0.1.0"
	dead := addWorker(t, pool, &ours, nil, time.Minute, time.Hour)
	python := addWorker(t, pool, nil, nil, time.Hour, time.Hour)
	claimedBy := func(worker uuid.UUID, attempts int, set string) uuid.UUID {
		id := enqueue(t, client, "killer", nil, engine.MaxAttempts(2))
		exec(t, pool, `update soniq_jobs set status = 'processing', attempts = $3, worker_id = $2`+set+` where id = $1`, id, worker, attempts)
		return id
	}
	last := claimedBy(dead, 2, `, claim_token = 5, last_error = 'out of memory',
		errors = '[{"attempt": 1, "failed_at": "2026-01-02T03:04:05Z", "message": "out of memory"}]'`)
	pythons := claimedBy(python, 2, ``)
	cancelled := claimedBy(dead, 2, `, claim_token = 6, cancel_requested_at = now()`)
	first := claimedBy(dead, 1, `, claim_token = 7`)
	announced := make(chan deadletter.Event, 10)
	subscribed, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	connected := make(chan struct{})
	go func() {
		done <- deadletter.Subscribe(subscribed, pool.Config().ConnConfig,
			deadletter.SubscribeOptions{OnConnect: func(context.Context) { close(connected) }},
			func(_ context.Context, e deadletter.Event) { announced <- e })
	}()
	receive(t, "the subscription", connected)

	start(t, pool, reg, engine.WorkerConfig{})
	for range 2 {
		if e := receive(t, "a dead letter", announced); e.ID != last && e.ID != pythons {
			t.Errorf("job %s was announced", e.ID)
		}
	}
	waitUntil(t, pool, "the others recovered", `select count(*) = 2 from soniq_jobs where status in ('queued', 'cancelled')`)
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	q := newQueue(t, pool)
	for id, want := range map[uuid.UUID]string{
		last:    "max_retries_exceeded, crash, budget, 2 attempts: out of memory",
		pythons: "max_retries_exceeded, crash, budget, 2 attempts: the worker died while the job ran",
	} {
		d, err := q.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s, %s, %s, %d attempts: %s", d.Reason, d.ErrorKind, d.DecidedBy, d.Attempts, d.LastError); got != want {
			t.Errorf("the dead letter says\n%s, want\n%s", got, want)
		}
		end := d.Errors[len(d.Errors)-1]
		if end.Attempt != 2 || end.Kind != classify.KindCrash || end.WorkerID == nil || end.StartedAt == nil {
			t.Errorf("its history ends with %+v", end)
		}
	}
	if job := getJob(t, client, first); job.Status != engine.StatusQueued || len(job.Errors) != 1 || job.Errors[0].Kind != classify.KindCrash ||
		*job.Errors[0].WorkerID != dead {
		t.Errorf("the job with an attempt left is %s, with the history %+v", job.Status, job.Errors)
	}
	if job := getJob(t, client, cancelled); job.Status != engine.StatusCancelled {
		t.Errorf("the job that someone wanted cancelled is %s", job.Status)
	}
}

// Such a worker could not write what becomes of its jobs.
func TestWorker_olderSchema_refusesToStart(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `delete from soniq_migrations where version = '0152'`)
	reg := engine.NewRegistry()
	noop(reg, "a")
	w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	err = w.Run(t.Context())
	var outdated *soniq.OutdatedError
	if !errors.As(err, &outdated) || len(outdated.Missing) != 1 || outdated.Missing[0] != "0152_soniq_go_errors" ||
		!strings.Contains(err.Error(), "soniq setup") {
		t.Errorf("it ran: %v", err)
	}
}
