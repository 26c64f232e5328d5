package engine_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"soniq/engine"
	"soniq/internal/claim"
	"soniq/internal/testdb"
)

// manyLimits are 30 handlers and 6 queues with limits of their own.
func manyLimits(run func(context.Context, *engine.Job) (any, error)) (*engine.Registry, engine.WorkerConfig) {
	reg := engine.NewRegistry()
	for n := range 30 {
		engine.HandleRaw(reg, fmt.Sprint("limited", n), run, engine.Concurrency(2))
	}
	config := engine.WorkerConfig{QueueConcurrency: map[string]int{}}
	for n := range 6 {
		queue := fmt.Sprint("q", n)
		config.Queues = append(config.Queues, queue)
		config.QueueConcurrency[queue] = 3
	}
	return reg, config
}

// An idle worker claims once and looks once each time, and not once for each name in each
// queue: at 30 s that is 4 transactions a minute.
func TestWorker_manyLimits_claimsOnceAtRest(t *testing.T) {
	t.Parallel()
	pool, sent := tracedFor(t, testdb.NewURL(t), claim.NextSQL)
	reg, config := manyLimits(func(context.Context, *engine.Job) (any, error) { return nil, nil })
	config.SafetyPoll = 20 * time.Millisecond
	w := start(t, pool, reg, config)
	waitTrue(t, "trust in notifications", w.Hears)
	all, looks := sent.count()
	const polls = 40
	waitTrue(t, "the looks", func() bool { _, n := sent.count(); return n >= looks+polls })
	after, n := sent.count()
	// Heartbeats and the like are some; a claim for each name and queue would be 217 a poll.
	if extra := after - all - 2*(n-looks); extra > 4*polls {
		t.Errorf("%d statements besides a claim and a look for each of %d polls", extra, n-looks)
	}
}

func TestWorker_manyLimits_aJobCostsFewTransactions(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	pool, sent := traced(t, url)
	started := make(chan struct{}, 1)
	reg, config := manyLimits(func(context.Context, *engine.Job) (any, error) {
		started <- struct{}{}
		return nil, nil
	})
	w := start(t, pool, reg, config)
	waitTrue(t, "trust in notifications", w.Hears)
	client := newClient(t, connect(t, url))
	const jobs = 20
	before, _ := sent.count()
	for n := range jobs {
		id := enqueue(t, client, fmt.Sprint("limited", n), nil, engine.Queue(fmt.Sprint("q", n%6)))
		receive(t, "the start", started)
		w.waitForJob(t, id)
	}
	// One more is the INSERT.
	if after, _ := sent.count(); after-before > 11*jobs {
		t.Errorf("%d transactions for %d jobs, besides their INSERTs", after-before, jobs)
	}
}

// A limit of one job gives it no more than it would have without: the others are in their
// order.
func TestWorker_limitOfTheLessUrgent_theMoreUrgentRunFirst(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	var mu sync.Mutex
	var order []string
	reg := engine.NewRegistry()
	run := func(_ context.Context, job *engine.Job) (any, error) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, job.Name)
		return nil, nil
	}
	engine.HandleRaw(reg, "low", run, engine.Concurrency(3))
	engine.HandleRaw(reg, "urgent", run)
	const each, concurrency = 40, 4
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, priority)
		select gen_random_uuid(), name, '{}', case name when 'low' then 100 else 1 end
		from unnest(array['low', 'urgent']) name, generate_series(1, $1::int)`, each)
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: concurrency})
	w.waitFor(t, "all jobs", func(o []engine.Outcome) bool { return len(o) == 2*each })
	low := 0
	for _, name := range order[:each] {
		if name == "low" {
			low++
		}
	}
	// Goroutines begin in any order, but no later than the slots are taken.
	if low >= concurrency {
		t.Errorf("%d of the first %d that ran are less urgent", low, each)
	}
}

// A hundred thousand jobs of a name that runs as many as it may, or of names that the
// worker does not serve, are in front of its own: these are claimed without reading those
// each time, from the first one to one that comes alone.
func TestWorker_behindManyJobs_runsItsOwn(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	pool := connect(t, url)
	exec(t, pool, `alter table soniq_jobs set (autovacuum_enabled = off)`)
	const many, own = 100_000, 600
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, priority, created_at)
		select gen_random_uuid(), case when n % 2 = 0 then 'nobody' else 'full' end, '{}', 100, now() - interval '2 days' + n * interval '1 ms'
		from generate_series(1, $1::int) n`, many)
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, created_at)
		select gen_random_uuid(), 'own', '{}', now() - interval '1 day' + n * interval '1 ms' from generate_series(1, $1::int) n`, own)
	reg := engine.NewRegistry()
	started := make(chan struct{}, 1)
	engine.HandleRaw(reg, "full", func(ctx context.Context, _ *engine.Job) (any, error) {
		started <- struct{}{}
		<-ctx.Done()
		return nil, nil
	}, engine.Concurrency(1))
	noop(reg, "own")
	workers, sent := tracedFor(t, url, claim.FloorsSQL)
	w := start(t, workers, reg, engine.WorkerConfig{Concurrency: 10, UnknownGrace: -1, ShutdownTimeout: time.Nanosecond})
	receive(t, "the one that fills its name", started)
	w.waitFor(t, "its own", func(o []engine.Outcome) bool { return len(o) == own })
	client := newClient(t, pool)
	for range 20 {
		w.waitForJob(t, enqueue(t, client, "own", nil))
	}
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	workers.Close()
	// The others are read by the first claim and look, and when it is learnt where its own
	// begin: more often where that takes longer. By each claim they would be read 60 times.
	_, learnt := sent.count()
	const readSQL = `select idx_tup_read from pg_stat_user_indexes where indexrelname = 'idx_soniq_jobs_claim'`
	waitUntil(t, pool, "what was read", `select (`+readSQL+`) >= $1`, own)
	if read := queryValue[int](t, pool, readSQL); learnt == 0 || read > (8+3*learnt)*many {
		t.Errorf("%d entries of the index were read for %d jobs, and where these begin was learnt %d times", read, own+20, learnt)
	}
}
