package engine_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/engine"
	"soniq/internal/claim"
	"soniq/internal/testdb"
)

func TestWorker_scheduledJob_startsWhenDueWithoutAPoll(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started := make(chan time.Time, 1)
	engine.HandleRaw(reg, "later", func(context.Context, *engine.Job) (any, error) {
		started <- time.Now()
		return nil, nil
	})
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	due := time.Now().Add(400 * time.Millisecond)
	id := enqueue(t, client, "later", nil, engine.At(due))
	at := receive(t, "the job's start", started)
	if at.Before(due) {
		t.Errorf("started %s before it was due", due.Sub(at))
	}
	w.waitForJob(t, id)
}

// An update in psql that makes a far job due wakes a worker that sleeps.
func TestWorker_updatedRow_wakes(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "moved.up", func(context.Context, *engine.Job) (any, error) { return nil, nil })
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	far := enqueue(t, client, "moved.up", nil, engine.After(time.Hour))
	near := enqueue(t, client, "moved.up", nil)
	w.waitForJob(t, near)
	exec(t, pool, `update soniq_jobs set scheduled_at = now() where id = $1`, far)
	w.waitForJob(t, far)
}

// A job whose row someone holds while we look is found when they let go.
func TestWorker_lockedRow_isFoundLater(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "held", func(context.Context, *engine.Job) (any, error) { return nil, nil })
	client := newClient(t, pool)
	held := enqueue(t, client, "held", nil)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background()) //nolint:errcheck // it was rolled back already
	if _, err := tx.Exec(t.Context(), `select from soniq_jobs where id = $1 for update`, held); err != nil {
		t.Fatal(err)
	}
	w := start(t, pool, reg, engine.WorkerConfig{})
	free := enqueue(t, client, "held", nil)
	w.waitForJob(t, free)
	if job := getJob(t, client, held); job.Status != engine.StatusQueued {
		t.Fatalf("the held job is %s", job.Status)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.waitForJob(t, held)
}

func TestWorker_order_isPriorityThenDueTime(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	var mu sync.Mutex
	var order []string
	reg := engine.NewRegistry()
	type args struct {
		N string `json:"n"`
	}
	engine.Handle(reg, "ordered", func(_ context.Context, a args) error {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, a.N)
		return nil
	})
	client := newClient(t, pool)
	now := time.Now()
	add := func(n, queue string, priority int, due time.Time) {
		enqueue(t, client, "ordered", args{n}, engine.Queue(queue), engine.Priority(priority), engine.At(due))
	}
	// A fresh job must not overtake a retry that has been due for longer.
	add("fresh", "default", 100, now.Add(-time.Second))
	add("retried", "default", 100, now.Add(-time.Hour))
	add("urgent", "default", 0, now)
	add("other queue, waiting longest", "other", 100, now.Add(-2*time.Hour))
	add("later", "default", -1, now.Add(time.Hour))
	add("lazy", "default", 200, now.Add(-9*time.Hour))
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 1, Queues: []string{"default", "other"}})
	w.waitFor(t, "five jobs", func(o []engine.Outcome) bool { return len(o) == 5 })
	want := []string{"urgent", "other queue, waiting longest", "retried", "fresh", "lazy"}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(order, want) {
		t.Errorf("order %q, want %q", order, want)
	}
}

func TestWorker_foreignJobs_areLeftAlone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "mine", func(context.Context, *engine.Job) (any, error) { return nil, nil })
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	foreign := enqueue(t, client, "someone.elses", nil)
	elsewhere := enqueue(t, client, "mine", nil, engine.Queue("unserved"))
	w.waitForJob(t, enqueue(t, client, "mine", nil))
	for _, id := range []uuid.UUID{foreign, elsewhere} {
		if job := getJob(t, client, id); job.Status != engine.StatusQueued || job.Attempts != 0 {
			t.Errorf("%s in %s: %s, %d attempts", job.Name, job.Queue, job.Status, job.Attempts)
		}
	}
}

func TestWorkers_manyJobs_eachRunsOnce(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	const jobs = 3000
	var mu sync.Mutex
	runs := map[uuid.UUID]int{}
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "counted", func(_ context.Context, job *engine.Job) (any, error) {
		mu.Lock()
		defer mu.Unlock()
		runs[job.ID]++
		return nil, nil
	})
	var workers []*running
	for range 3 {
		workers = append(workers, start(t, pool, reg, engine.WorkerConfig{Concurrency: 50}))
	}
	client := newClient(t, pool)
	var inserts []engine.Insert
	for range jobs {
		inserts = append(inserts, engine.Insert{Name: "counted"})
	}
	for batch := range slices.Chunk(inserts, jobs/10) {
		if _, err := client.EnqueueMany(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	total := func() (n int) {
		for _, w := range workers {
			w.mu.Lock()
			n += len(w.outcomes)
			w.mu.Unlock()
		}
		return n
	}
	deadline := time.After(patience)
	for total() < jobs {
		changes := make([]chan struct{}, len(workers))
		for i, w := range workers {
			w.mu.Lock()
			changes[i] = w.changed
			w.mu.Unlock()
		}
		if total() >= jobs {
			break
		}
		select {
		case <-changes[0]:
		case <-changes[1]:
		case <-changes[2]:
		case <-deadline:
			t.Fatalf("%d of %d outcomes", total(), jobs)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for id, n := range runs {
		if n != 1 {
			t.Errorf("job %s ran %d times", id, n)
		}
	}
	if len(runs) != jobs {
		t.Errorf("%d jobs ran, want %d", len(runs), jobs)
	}
	if n := queryValue[int](t, pool, `select count(*) from soniq_jobs where status = 'done'`); n != jobs {
		t.Errorf("%d rows are done, want %d", n, jobs)
	}
}

// The plans must not depend on how many jobs wait, or lie far ahead.
func TestClaim_plan_readsOnlyTheHeadOfEachLane(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, priority, scheduled_at)
		select gen_random_uuid(), 'planned', '{}', 100 + n % 3, now() + case when n % 10 = 0 then '-1 hour' else '1 year' end::interval
		from generate_series(1, 50000) n`)
	exec(t, pool, `analyze soniq_jobs`)
	for name, sql := range map[string]string{"claim": claim.WholeSQL, "next due": claim.NextSQL} {
		t.Run(name, func(t *testing.T) {
			tx, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(context.Background()) //nolint:errcheck // explain analyze has claimed rows
			args := []any{[]string{"default", "other"}, []string{"planned", "unplanned"}}
			if name == "claim" {
				worker := uuid.New()
				if _, err := tx.Exec(t.Context(), `insert into soniq_workers (id, hostname, pid) values ($1, 'x', 1)`, worker); err != nil {
					t.Fatal(err)
				}
				args = append(args, 20, worker, int64(1), "{}", 1000)
			} else {
				args = append(args, 10*time.Minute)
			}
			rows, _ := tx.Query(t.Context(), "explain (analyze, buffers, costs off, timing off) "+sql, args...)
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatal(err)
			}
			plan := strings.Join(lines, "\n")
			if strings.Contains(plan, "Seq Scan on soniq_jobs") || strings.Contains(plan, "Bitmap") || !strings.Contains(plan, "idx_soniq_jobs_claim") {
				t.Errorf("the plan leaves the index:\n%s", plan)
			}
			var hits int
			for _, line := range lines {
				if i := strings.Index(line, "shared hit="); i >= 0 {
					var n int
					if _, err := fmt.Sscanf(line[i:], "shared hit=%d", &n); err == nil {
						hits = max(hits, n)
					}
				}
			}
			// 20 rows, three lanes: some hundred pages where a scan of all
			// rows would read thousands.
			if hits == 0 || hits > 600 {
				t.Errorf("%d pages read:\n%s", hits, plan)
			}
		})
	}
}

func TestWorker_handlerConcurrency_boundsItsJobsAndNoOthers(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	var mu sync.Mutex
	running, most := 0, 0
	engine.HandleRaw(reg, "heavy", func(context.Context, *engine.Job) (any, error) {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		runtime.Gosched()
		mu.Lock()
		running--
		mu.Unlock()
		return nil, nil
	}, engine.Concurrency(2))
	started, release := slowJob(reg, "blocker")
	noop(reg, "light")
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 5})
	client := newClient(t, pool)
	enqueue(t, client, "blocker", nil)
	receive(t, "the blocker", started)
	var inserts []engine.Insert
	for range 200 {
		inserts = append(inserts, engine.Insert{Name: "heavy"}, engine.Insert{Name: "light"})
	}
	if _, err := client.EnqueueMany(t.Context(), inserts); err != nil {
		t.Fatal(err)
	}
	w.waitFor(t, "all jobs but the blocker", func(o []engine.Outcome) bool { return len(o) == len(inserts) })
	close(release)
	if most > 2 {
		t.Errorf("%d heavy jobs ran at once, want at most 2", most)
	}
}

func TestWorker_handlerAtItsBound_nextJobStartsWhenOneEnds(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	goOn := make(chan struct{})
	began := make(chan struct{}, 10)
	engine.HandleRaw(reg, "single", func(context.Context, *engine.Job) (any, error) {
		began <- struct{}{}
		<-goOn
		return nil, nil
	}, engine.Concurrency(1))
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 5})
	client := newClient(t, pool)
	first, second := enqueue(t, client, "single", nil), enqueue(t, client, "single", nil)
	receive(t, "the first", began)
	goOn <- struct{}{}
	// No notification announces the second: the freed slot does.
	receive(t, "the second", began)
	goOn <- struct{}{}
	w.waitForJob(t, first)
	w.waitForJob(t, second)
}

func TestWorker_attemptLimit_beatsTheJobsOwn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "limited", func(context.Context, *engine.Job) (any, error) {
		return nil, errors.New("no")
	}, soon, engine.AttemptLimit(2))
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	id := enqueue(t, client, "limited", nil, engine.MaxAttempts(9))
	if outcomes := w.waitForJob(t, id); len(outcomes) != 2 {
		t.Errorf("%d attempts, want 2", len(outcomes))
	}
	if job := getJob(t, client, id); job.MaxAttempts != 2 || job.Attempts != 2 {
		t.Errorf("dead after %d of %d attempts, want 2 of 2", job.Attempts, job.MaxAttempts)
	}
}
