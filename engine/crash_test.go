package engine_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/liveness"
	"soniq/internal/testdb"
)

// statements counts what a pool sends, and one statement apart: looks.
type statements struct {
	apart      string
	mu         sync.Mutex
	all, looks int
}

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	s.begins(data.SQL)
	return ctx
}

func (s *statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// A batch is one round trip, and one statement with the settings for it.
func (s *statements) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	queries := data.Batch.QueuedQueries
	s.begins(queries[len(queries)-1].SQL)
	return ctx
}

func (s *statements) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (s *statements) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

func (s *statements) begins(sql string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all++
	if sql == s.apart {
		s.looks++
	}
}

func (s *statements) count() (all, looks int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all, s.looks
}

// traced connects to url and counts.
func traced(t *testing.T, url string) (*pgxpool.Pool, *statements) {
	t.Helper()
	return tracedFor(t, url, liveness.LookSQL)
}

func tracedFor(t *testing.T, url, apart string) (*pgxpool.Pool, *statements) {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	s := &statements{apart: apart}
	config.ConnConfig.Tracer = s
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool, s
}

// waitTrue polls what nobody announces.
func waitTrue(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

const advertisingSQL = `select count(*) = $1 from soniq_workers where lock_key is not null and status = 'active'`

func TestWorkers_killed_jobsRunElsewhereInSeconds(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	pool, sent := traced(t, url)
	client := newClient(t, pool)
	const kills = 6
	victims := make([]*process, kills)
	var starting sync.WaitGroup
	for i := range victims {
		starting.Go(func() { victims[i] = startProcess(t, url, engine.Timing{}) })
	}
	starting.Wait()
	for range victims {
		enqueue(t, client, "held", nil)
	}
	jobOf := make(map[string]int, kills)
	for i, v := range victims {
		jobOf[v.expect(t, "started")[0]] = i
	}

	type run struct {
		job *engine.Job
		at  time.Time
	}
	runs := make(chan run, kills)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "held", func(_ context.Context, job *engine.Job) (any, error) {
		runs <- run{job, time.Now()}
		return nil, nil
	})
	start(t, pool, reg, engine.WorkerConfig{Concurrency: kills}, engine.Timing{Trust: time.Second})
	waitUntil(t, pool, "all locks advertised", advertisingSQL, kills+1)
	_, before := sent.count()
	waitTrue(t, "looks at all of them", func() bool {
		_, looks := sent.count()
		return looks >= before+4
	})

	killedAt := make([]time.Time, kills)
	var killing sync.WaitGroup
	killing.Go(func() {
		// Spread over more than a look, to meet it at each phase.
		ticker := time.NewTicker(130 * time.Millisecond)
		defer ticker.Stop()
		for i, v := range victims {
			<-ticker.C
			killedAt[i] = time.Now()
			v.signal(t, syscall.SIGKILL)
		}
	})
	killing.Wait()
	var took []time.Duration
	for range victims {
		r := receive(t, "a job that runs again", runs)
		if r.job.Attempts != 2 {
			t.Errorf("attempt %d, want 2", r.job.Attempts)
		}
		took = append(took, r.at.Sub(killedAt[jobOf[r.job.ID.String()]]))
	}
	slices.Sort(took)
	t.Logf("kill -9 to running again, %d times: p50 %s, p95 %s, max %s",
		kills, took[kills/2], took[kills*95/100], took[kills-1])
	if took[0] < 0 || took[kills-1] > 10*time.Second {
		t.Errorf("took %s", took)
	}
	waitUntil(t, pool, "the dead marked as stopped", `select count(*) = $1 from soniq_workers where status = 'stopped'`, kills)
}

func TestWorker_frozen_lateOutcomeIsRefusedAndItRejoins(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	pool := connect(t, url)
	client := newClient(t, pool)
	timing := engine.Timing{Beat: 200 * time.Millisecond, Trust: 500 * time.Millisecond, Dead: 2 * time.Second}
	frozen := startProcess(t, url, timing)
	id := enqueue(t, client, "held", nil)
	frozen.expect(t, "started")

	reg := engine.NewRegistry()
	started, release := slowJob(reg, "held")
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 1}, timing)
	waitUntil(t, pool, "both locks advertised", advertisingSQL, 2)
	frozen.signal(t, syscall.SIGSTOP)
	if job := receive(t, "the second run", started); job.ID != id || job.Attempts != 2 {
		t.Fatalf("job %s, attempt %d; want %s, 2", job.ID, job.Attempts, id)
	}
	const statusSQL = `select status = $2 from soniq_workers where id = $1`
	waitUntil(t, pool, "the frozen worker taken for dead", statusSQL, frozen.id, "stopped")

	frozen.signal(t, syscall.SIGCONT)
	frozen.release(t)
	if got := strings.Join(frozen.expect(t, "settled"), " "); got != fmt.Sprint(id, " lost") {
		t.Errorf("the late outcome: %s", got)
	}
	waitUntil(t, pool, "the worker active again", statusSQL, frozen.id, "active")
	if job := getJob(t, client, id); job.Status != engine.StatusProcessing || job.Attempts != 2 {
		t.Errorf("the job is %s on attempt %d", job.Status, job.Attempts)
	}
	// The other one is busy, so this is for the one that came back.
	next := enqueue(t, client, "held", nil)
	if got := frozen.expect(t, "started"); got[0] != next.String() || got[1] != "1" {
		t.Errorf("started %s, want %s 1", got, next)
	}
	frozen.release(t)
	close(release)
	if outcomes := w.waitForJob(t, id); outcomes[0].Kind != engine.OutcomeDone {
		t.Errorf("the second run: %v", outcomes)
	}
}

// All locks go at once, and the heartbeats are old: nobody is buried for it.
func TestWorkers_serverKilledAndRestarted_keepTheirJobs(t *testing.T) {
	t.Parallel()
	server := testdb.StartServer(t)
	client := newClient(t, connect(t, server.URL()))
	const workers = 5
	reg := engine.NewRegistry()
	started, release := slowJob(reg, "slow")
	var fleet []*running
	var looks []*statements
	for range workers {
		pool, sent := traced(t, server.URL())
		// Trusted early, so that they have time to bury each other.
		w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 1}, engine.Timing{Trust: time.Second})
		fleet, looks = append(fleet, w), append(looks, sent)
	}
	ids := map[uuid.UUID]bool{}
	for range workers {
		ids[enqueue(t, client, "slow", nil)] = true
	}
	for range workers {
		receive(t, "start", started)
	}
	everybodyLooks := func(times int) {
		t.Helper()
		before := make([]int, workers)
		for i, w := range fleet {
			waitTrue(t, "a lock that others see", w.Advertises)
			_, before[i] = looks[i].count()
		}
		for i := range fleet {
			waitTrue(t, "looks at the others", func() bool {
				_, now := looks[i].count()
				return now >= before[i]+times
			})
		}
	}
	everybodyLooks(3)
	if err := server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	everybodyLooks(5)
	close(release)
	for _, w := range fleet {
		outcomes := w.waitFor(t, "its job", func(all []engine.Outcome) bool { return len(all) > 0 })
		if o := outcomes[0]; !ids[o.Job.ID] || o.Kind != engine.OutcomeDone || o.Job.Attempts != 1 {
			t.Errorf("job %s: %s on attempt %d", o.Job.ID, o.Kind, o.Job.Attempts)
		}
	}
	for id := range ids {
		if job := getJob(t, client, id); job.Status != engine.StatusDone || job.Attempts != 1 {
			t.Errorf("job %s is %s after %d attempts", id, job.Status, job.Attempts)
		}
	}
}
