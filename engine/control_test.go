package engine_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/deadwrite"
	"soniq/internal/testdb"
)

func TestRetry_scheduledAndCancelledJobs_runNow(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "n")
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	scheduled := enqueue(t, client, "n", nil, engine.After(time.Hour))
	exec(t, pool, `update soniq_jobs set attempts = 2, last_error = 'boom' where id = $1`, scheduled)
	cancelled := enqueue(t, client, "n", nil, engine.After(time.Hour))
	exec(t, pool, `update soniq_jobs set attempts = 2, last_error = 'boom' where id = $1`, cancelled)
	cancelJob(t, client, cancelled)
	for id, want := range map[uuid.UUID]int{scheduled: 3, cancelled: 1} {
		if err := client.RetryJob(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if o := w.waitForJob(t, id); o[0].Job.Attempts != want || o[0].Kind != engine.OutcomeDone {
			t.Errorf("attempt %d, %s; want attempt %d", o[0].Job.Attempts, o[0].Kind, want)
		}
		wantRefused(t, "retry of a done job", client.RetryJob(t.Context(), id), engine.StatusDone)
	}
	if err := client.RetryJob(t.Context(), uuid.New()); !errors.Is(err, engine.ErrJobNotFound) {
		t.Errorf("missing: %v", err)
	}
}

func TestRetry_dueJob_keepsItsPlace(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	due := time.Now().Add(-time.Hour).Truncate(time.Second)
	id := enqueue(t, client, "n", nil, engine.At(due))
	if err := client.RetryJob(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if job := getJob(t, client, id); !job.ScheduledAt.Equal(due) {
		t.Errorf("due at %s, was %s", job.ScheduledAt, due)
	}
}

func TestRetry_cancelledJobWhoseTwinIsQueued_namesIt(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	for name, option := range map[string]engine.EnqueueOption{"by arguments": engine.Unique(), "by key": engine.DedupKey("k")} {
		first := enqueue(t, client, "n", nil, option)
		cancelJob(t, client, first)
		second := enqueue(t, client, "n", nil, option)
		var duplicate *engine.DuplicateError
		if err := client.RetryJob(t.Context(), first); !errors.As(err, &duplicate) || duplicate.ID != second {
			t.Errorf("%s: %v, want the duplicate %s", name, err, second)
		}
		if job := getJob(t, client, first); job.Status != engine.StatusCancelled {
			t.Errorf("%s: the job is %s", name, job.Status)
		}
	}
}

func TestDelete_anythingButARunningJob(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	for _, status := range []engine.JobStatus{engine.StatusQueued, engine.StatusDone, engine.StatusCancelled} {
		id := enqueue(t, client, "n", nil)
		exec(t, pool, `update soniq_jobs set status = $2 where id = $1`, id, status)
		if err := client.DeleteJob(t.Context(), id); err != nil {
			t.Errorf("%s: %v", status, err)
		}
		if err := client.DeleteJob(t.Context(), id); !errors.Is(err, engine.ErrJobNotFound) {
			t.Errorf("%s, again: %v", status, err)
		}
	}
	id := enqueue(t, client, "n", nil)
	exec(t, pool, `update soniq_jobs set status = 'processing' where id = $1`, id)
	wantRefused(t, "running", client.DeleteJob(t.Context(), id), engine.StatusProcessing)
	getJob(t, client, id)
	dead := enqueue(t, client, "n", nil)
	if _, err := deadwrite.MoveQueued(t.Context(), pool, []uuid.UUID{dead}, classify.Verdict{Reason: classify.ManualMove}); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, "dead", client.DeleteJob(t.Context(), dead), engine.StatusDeadLetter)
}

func TestList_filters_newestFirst(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	var ids []uuid.UUID
	for i, options := range [][]engine.EnqueueOption{{}, {engine.Queue("mail")}, {}, {engine.After(time.Hour)}} {
		id := enqueue(t, client, []string{"a", "b"}[i%2], nil, options...)
		exec(t, pool, `update soniq_jobs set created_at = now() + make_interval(secs => $2) where id = $1`, id, i)
		ids = append(ids, id)
	}
	exec(t, pool, `update soniq_jobs set queue = null where id = $1`, ids[0])
	cancelJob(t, client, ids[2])
	for name, c := range map[string]struct {
		filter engine.JobFilter
		want   []int
	}{
		"all":       {engine.JobFilter{}, []int{3, 2, 1, 0}},
		"limit":     {engine.JobFilter{Limit: 2}, []int{3, 2}},
		"status":    {engine.JobFilter{Statuses: []engine.JobStatus{engine.StatusCancelled}}, []int{2}},
		"queue":     {engine.JobFilter{Queues: []string{"default"}}, []int{3, 2, 0}},
		"name":      {engine.JobFilter{Names: []string{"b", "c"}}, []int{3, 1}},
		"together":  {engine.JobFilter{Names: []string{"b"}, Queues: []string{"mail"}}, []int{1}},
		"no match":  {engine.JobFilter{Names: []string{"c"}}, nil},
		"two names": {engine.JobFilter{Names: []string{"a", "b"}, Limit: 3}, []int{3, 2, 1}},
	} {
		jobs, err := client.ListJobs(t.Context(), c.filter)
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		for _, job := range jobs {
			got = append(got, slices.Index(ids, job.ID))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	for name, filter := range map[string]engine.JobFilter{
		"empty list":   {Queues: []string{}},
		"dead letters": {Statuses: []engine.JobStatus{engine.StatusDeadLetter}},
		"limit":        {Limit: -1},
	} {
		var mistake *engine.ArgumentError
		if _, err := client.ListJobs(t.Context(), filter); !errors.As(err, &mistake) {
			t.Errorf("%s: %v, want an ArgumentError", name, err)
		}
	}
}

// Pausing reaches workers on other machines; what runs goes on; and to resume
// wakes those that sleep.
func TestPause_stopsClaimsFleetWide_resumeWakes(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, release := slowJob(reg, "slow")
	noop(reg, "quick")
	config := engine.WorkerConfig{Queues: []string{"default", "other"}}
	workers := []*running{start(t, pool, reg, config), start(t, pool, reg, config)}
	client := newClient(t, pool)
	enqueue(t, client, "slow", nil)
	job := receive(t, "the running job", started)

	pause := func(change func(context.Context, string) (bool, error), want bool) {
		t.Helper()
		if changed, err := change(t.Context(), "default"); err != nil || changed != want {
			t.Fatalf("changed %t, %v; want %t", changed, err, want)
		}
	}
	pause(client.ResumeQueue, false)
	pause(client.PauseQueue, true)
	pause(client.PauseQueue, false)
	held := enqueue(t, client, "quick", nil)
	// The workers look again and again: jobs of another queue overtake the
	// held one.
	for range 5 {
		id := enqueue(t, client, "quick", nil, engine.Queue("other"))
		waitUntil(t, pool, "the other queue", `select status = 'done' from soniq_jobs where id = $1`, id)
	}
	if j := getJob(t, client, held); j.Status != engine.StatusQueued || j.Attempts != 0 {
		t.Errorf("the held job is %s", j.Status)
	}
	close(release)
	waitUntil(t, pool, "the running job", `select status = 'done' from soniq_jobs where id = $1`, job.ID)

	queues, err := client.Queues(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(queues, func(q engine.QueueStatus) bool { return q.Queue == "default" }); i < 0 ||
		queues[i].PausedAt == nil || queues[i].PausedBy == "" || queues[i].Due != 1 {
		t.Errorf("queues: %+v", queues)
	}
	pause(client.ResumeQueue, true)
	waitUntil(t, pool, "the held job", `select status = 'done' from soniq_jobs where id = $1`, held)
	for _, w := range workers {
		w.cancel()
	}
}

func TestPause_unknownJobs_areNotBuried(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "known")
	w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{UnknownGrace: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	version := "go/test"
	addWorker(t, pool, &version, []string{"default"}, 0, time.Hour)
	client := newClient(t, pool)
	id := enqueue(t, client, "unknown", nil, engine.At(time.Now().Add(-time.Hour)))
	if _, err := client.PauseQueue(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
	if err := w.MoveUnknown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if job := getJob(t, client, id); job.Status != engine.StatusQueued {
		t.Errorf("while its queue is paused: %s", job.Status)
	}
	if _, err := client.ResumeQueue(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
	if err := w.MoveUnknown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if job := getJob(t, client, id); job.Status != engine.StatusDeadLetter {
		t.Errorf("after that: %s", job.Status)
	}
}

func TestQueues_pausedQueueWithoutJobs_isListed(t *testing.T) {
	t.Parallel()
	client := newClient(t, testdb.New(t))
	if queues, err := client.Queues(t.Context()); err != nil || queues == nil || len(queues) > 0 {
		t.Errorf("none: %v, %v", queues, err)
	}
	if _, err := client.PauseQueue(t.Context(), "mail"); err != nil {
		t.Fatal(err)
	}
	queues, err := client.Queues(t.Context())
	if err != nil || len(queues) != 1 || queues[0].Queue != "mail" || queues[0].PausedAt == nil {
		t.Errorf("queues: %+v, %v", queues, err)
	}
	service, err := client.Availability(t.Context(), "mail", "n")
	if err != nil || !service.Paused {
		t.Errorf("service: %+v, %v", service, err)
	}
	var mistake *engine.ArgumentError
	if _, err := client.PauseQueue(t.Context(), ""); !errors.As(err, &mistake) {
		t.Errorf("no name: %v", err)
	}
}
