package engine_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"soniq/engine"
	"soniq/internal/pg"
	"soniq/internal/rollup"
	"soniq/internal/testdb"
)

// What a worker has done is in the charts of the past when it has stopped, whatever became of the rows; and a job
// costs no statement for it.
func TestWorker_stopped_hasAddedItsCounts(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	pool, sent := tracedFor(t, url, rollup.WriteSQL)
	client := newClient(t, pool)
	reg := engine.NewRegistry()
	noop(reg, "good")
	engine.HandleRaw(reg, "bad", func(context.Context, *engine.Job) (any, error) { return nil, errors.New("no") },
		engine.Retry(engine.RetryFunc(func(int, error) time.Duration { return 0 })))
	engine.HandleRaw(reg, "later", func(context.Context, *engine.Job) (any, error) { return nil, engine.Snooze(time.Hour) })
	const good = 300
	for range good {
		enqueue(t, client, "good", nil)
	}
	enqueue(t, client, "bad", nil, engine.MaxAttempts(3))
	enqueue(t, client, "later", nil)
	r := start(t, pool, reg, engine.WorkerConfig{ResultTTL: -1})
	waitUntil(t, pool, "the jobs to end", `
		select (select count(*) from soniq_jobs where job_name <> 'later' or scheduled_at is null) + (select 1 - count(*) from soniq_dead_letter_jobs) = 0`)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	p, err := rollup.ReadPool(t.Context(), pg.Schema{}.Pool(pool), rollup.Windows()[0], rollup.Pick{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, j := range p.Jobs {
		got[j.Name] = fmt.Sprintf("%d %d %d, %d times", j.Completed, j.Failed, j.Dead, j.Runs.Count())
	}
	if got["good"] != "300 0 0, 300 times" || got["bad"] != "0 3 1, 3 times" || len(got) != 2 {
		t.Errorf("%v", got)
	}
	if n := len(p.Reasons["max_retries_exceeded"]); n == 0 {
		t.Errorf("reasons: %v", p.Reasons)
	}
	_, writes := sent.count()
	// One a minute, and one at the end.
	if writes < 1 || writes > 3 {
		t.Errorf("%d statements for %d jobs", writes, good)
	}
}
