package engine_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/claim"
	"soniq/internal/faultydb"
	"soniq/internal/liveness"
	"soniq/internal/maintenance"
	"soniq/internal/settle"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// moveSQL is how the statement that makes dead letters begins.
const moveSQL = "\nwith death as ("

// faultCase is a statement, and what must come of two jobs when the connection
// breaks there.
type faultCase struct {
	sql string
	// run is what the handler does on its n-th run of a job.
	run func(ctx context.Context, broken *faultydb.DB, n int) error
	// act is what happens when the jobs run; nothing by default.
	act    func(t *testing.T, w *running, client *engine.Client, ids []uuid.UUID)
	config engine.WorkerConfig
	// beats has the worker's heart beat fast.
	beats bool
	want
	// uncommitted is what is wanted instead where the fault came before a
	// commit.
	uncommitted *want
}

// want is what becomes of a job.
type want struct {
	status   string // 'gone' without a row
	attempts int
	runs     int
	outcomes []engine.OutcomeKind
}

func runsWell(context.Context, *faultydb.DB, int) error { return nil }

// runsUntilTold ends with its context.
func runsUntilTold(ctx context.Context, _ *faultydb.DB, _ int) error {
	<-ctx.Done()
	return ctx.Err()
}

func firstFails(err error) func(context.Context, *faultydb.DB, int) error {
	return func(_ context.Context, _ *faultydb.DB, n int) error {
		if n == 1 {
			return err
		}
		return nil
	}
}

// completes does its work and ends its job in one transaction. All faults hit
// the first runs.
func completes(ctx context.Context, broken *faultydb.DB, n int) error {
	if n > 1 {
		select {
		case <-broken.Spent:
		case <-ctx.Done():
		}
	}
	return pgx.BeginFunc(ctx, broken.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `insert into work (job, run) values ($1, $2)`, engine.JobFromContext(ctx).ID, n); err != nil {
			return err
		}
		return engine.CompleteTx(ctx, tx, nil)
	})
}

var (
	isDone      = want{"done", 1, 1, []engine.OutcomeKind{engine.OutcomeDone}}
	isDoneLater = want{"done", 2, 2, []engine.OutcomeKind{engine.OutcomeRetry, engine.OutcomeDone}}
)

var faultCases = map[string]faultCase{
	"claim":    {sql: claim.WholeSQL, run: runsWell, want: isDone},
	"next due": {sql: claim.NextSQL, run: runsWell, want: isDone},
	"done":     {sql: settle.DoneSQL, run: runsWell, want: isDone},
	"delete": {
		sql: settle.DeleteSQL, run: runsWell, config: engine.WorkerConfig{ResultTTL: -1},
		want: want{"gone", 0, 1, []engine.OutcomeKind{engine.OutcomeDone}},
	},
	"retry": {sql: settle.RequeueSQL(), run: firstFails(errors.New("flaky")), want: isDoneLater},
	"snooze": {
		sql: settle.RequeueSQL(), run: firstFails(engine.Snooze(0)),
		want: want{"done", 1, 2, []engine.OutcomeKind{engine.OutcomeSnooze, engine.OutcomeDone}},
	},
	"release": {
		sql: settle.RequeueSQL(), run: runsUntilTold,
		config: engine.WorkerConfig{ShutdownTimeout: time.Millisecond, CancelGrace: patience},
		act: func(t *testing.T, w *running, _ *engine.Client, _ []uuid.UUID) {
			if err := w.stop(); err != nil {
				t.Error(err)
			}
		},
		want: want{"queued", 0, 1, []engine.OutcomeKind{engine.OutcomeReleased}},
	},
	"dead letter": {
		sql: moveSQL, run: firstFails(engine.Permanent(errors.New("never"))),
		want: want{"dead", 1, 1, []engine.OutcomeKind{engine.OutcomeDeadLetter}},
	},
	"cancelled": {
		sql: settle.CancelledSQL, run: runsUntilTold, act: cancelAll,
		want: want{"cancelled", 1, 1, []engine.OutcomeKind{engine.OutcomeCancelled}},
	},
	"look for cancels": {
		sql: engine.CancelsSQL, run: runsUntilTold, act: cancelAll,
		want: want{"cancelled", 1, 1, []engine.OutcomeKind{engine.OutcomeCancelled}},
	},
	"retry of a job to be cancelled": {
		sql: settle.RequeueSQL(),
		run: func(ctx context.Context, broken *faultydb.DB, _ int) error {
			err := silently(ctx, broken.Pool, `update soniq_jobs set cancel_requested_at = now() where id = $1`)
			return cmp.Or(err, errors.New("failed before it was told"))
		},
		want: want{"cancelled", 1, 1, []engine.OutcomeKind{engine.OutcomeCancelled}},
	},
	"done under a lost claim": {
		sql: settle.DoneSQL,
		run: func(ctx context.Context, broken *faultydb.DB, _ int) error {
			return silently(ctx, broken.Pool, `update soniq_jobs set status = 'cancelled', claim_token = 0 where id = $1`)
		},
		want: want{"cancelled", 1, 1, []engine.OutcomeKind{engine.OutcomeLost}},
	},
	"dead letter under a lost claim": {
		sql: moveSQL,
		run: func(ctx context.Context, broken *faultydb.DB, _ int) error {
			err := silently(ctx, broken.Pool, `update soniq_jobs set status = 'cancelled', claim_token = 0 where id = $1`)
			return engine.Permanent(cmp.Or(err, errors.New("never")))
		},
		want: want{"cancelled", 1, 1, []engine.OutcomeKind{engine.OutcomeLost}},
	},
	"heartbeat": {sql: liveness.RegisterSQL, run: runsWell, beats: true, want: isDone},
	"look":      {sql: liveness.LookSQL, run: runsWell, want: isDone},
	// Nothing that a handler's transaction does stands before its commit.
	"complete in a transaction": {sql: settle.DoneSQL, run: completes, want: isDoneLater},
	"commit of a handler":       {sql: "commit", run: completes, want: isDone, uncommitted: &isDoneLater},
}

// silently changes the handler's job without telling its worker.
func silently(ctx context.Context, pool *pgxpool.Pool, sql string) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `set local soniq.notify = off`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, sql, engine.JobFromContext(ctx).ID)
		return err
	})
}

func cancelAll(t *testing.T, _ *running, client *engine.Client, ids []uuid.UUID) {
	for _, id := range ids {
		if _, err := client.CancelJob(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}

// At each statement of the claim and settle paths, and in each way: no job is
// lost or left behind under a worker that lives, none runs twice unless it was
// to, attempts are charged for what ran, and each outcome is told once.
func TestWorker_connectionBreaks_atEachStatement(t *testing.T) {
	t.Parallel()
	for i, name := range slices.Sorted(maps.Keys(faultCases)) {
		c := faultCases[name]
		// Before the statement, nothing was done. After it, and within its answer, it was: each
		// statement has one of these two, by turns.
		kinds := []faultydb.Fault{faultydb.BreaksBefore, []faultydb.Fault{faultydb.BreaksAfter, faultydb.BreaksWithin}[i%2]}
		if c.uncommitted != nil || testkit.Long() {
			kinds = []faultydb.Fault{faultydb.BreaksBefore, faultydb.BreaksAfter, faultydb.BreaksWithin}
		}
		for _, kind := range kinds {
			t.Run(fmt.Sprintf("%s/%s", name, kind), func(t *testing.T) {
				t.Parallel()
				c.test(t, kind, 2)
			})
		}
	}
}

func (c faultCase) test(t *testing.T, kind faultydb.Fault, times int) {
	limit := patience
	if kind == faultydb.Hangs {
		limit += 30 * time.Second
	}
	url := testdb.NewURL(t)
	pool := connect(t, url)
	exec(t, pool, `create table work (job uuid, run int)`)
	broken := faultydb.New(t, url)
	// The worker commits, too. So what the handler commits goes through a pool of its own.
	struck := broken
	if c.uncommitted != nil {
		struck = faultydb.New(t, url)
	}
	client := newClient(t, pool)

	var mu sync.Mutex
	runs := map[uuid.UUID]int{}
	started := make(chan struct{}, 100)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "job", func(ctx context.Context, job *engine.Job) (any, error) {
		mu.Lock()
		runs[job.ID]++
		n := runs[job.ID]
		mu.Unlock()
		started <- struct{}{}
		return nil, c.run(ctx, struck, n)
	}, engine.Retry(engine.Delays{time.Millisecond}))
	timing := engine.Timing{Trust: -1}
	if c.beats {
		timing.Beat = 20 * time.Millisecond
	}
	config := c.config
	config.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	w := start(t, broken.Pool, reg, config, timing)
	// The first job shows that the worker is up.
	if c.act == nil && c.uncommitted == nil && c.sql != settle.DoneSQL && c.outcomes[0] == engine.OutcomeDone {
		warm := enqueue(t, client, "job", nil)
		w.waitForJob(t, warm)
	}
	struck.Strike(kind, c.sql, times)
	ids := []uuid.UUID{enqueue(t, client, "job", nil), enqueue(t, client, "job", nil)}
	if c.act != nil {
		for range ids {
			receive(t, "the start", started)
		}
		c.act(t, w, client, ids)
	}
	wanted := c.want
	if kind == faultydb.BreaksBefore && c.uncommitted != nil {
		wanted = *c.uncommitted
	}
	waitLong(t, "the outcomes", limit, func() bool {
		w.observed.mu.Lock()
		defer w.observed.mu.Unlock()
		for _, id := range ids {
			n := 0
			for _, o := range w.outcomes {
				if o.Job.ID == id {
					n++
				}
			}
			if n < len(wanted.outcomes) {
				return false
			}
		}
		return true
	})
	receive(t, "the fault", struck.Struck)
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	for _, id := range ids {
		mu.Lock()
		n := runs[id]
		mu.Unlock()
		got := want{attempts: 0, runs: n}
		for _, o := range w.outcomes {
			if o.Job.ID == id {
				got.outcomes = append(got.outcomes, o.Kind)
			}
		}
		got.status, got.attempts = endOf(t, pool, id)
		if fmt.Sprint(got) != fmt.Sprint(wanted) {
			t.Errorf("job %s: %+v, want %+v", id, got, wanted)
		}
	}
	if n := queryValue[int](t, pool, `select count(*) from soniq_jobs where status = 'processing'`); n != 0 {
		t.Errorf("%d jobs are left as 'processing'", n)
	}
	if n := queryValue[int](t, pool, `select count(*) - count(distinct job) from work`); n != 0 {
		t.Errorf("work was committed %d times too often", n)
	}
}

// waitLong is waitTrue with a limit of its own.
func waitLong(t *testing.T, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(limit); !ok(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, limit)
		}
	}
}

// endOf is the status and the attempts of a job, wherever its row is.
func endOf(t *testing.T, pool *pgxpool.Pool, id uuid.UUID) (status string, attempts int) {
	t.Helper()
	err := pool.QueryRow(t.Context(), `
		select status, attempts from soniq_jobs where id = $1
		union all
		select 'dead', attempts from soniq_dead_letter_jobs where id = $1`, id).Scan(&status, &attempts)
	if errors.Is(err, pgx.ErrNoRows) {
		return "gone", 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return status, attempts
}

// recoverySQL are the statements that recover the jobs of a dead worker, in
// their order. The last two are of a transaction.
var recoverySQL = map[string]string{
	"find the jobs":     maintenance.WorkersJobsSQL,
	"queue a job":       maintenance.RequeueOrphanSQL(),
	"mark the worker":   liveness.MarkDeadSQL,
	"move a job":        "\nwith gone as (\n  delete from public.soniq_jobs j\n  where j.id = $1",
	"commit the move":   "commit",
	"look for the dead": liveness.LookSQL,
}

// What was recovered before the connection broke is not recovered twice: a
// crash is charged once, and told once.
func TestRecovery_connectionBreaks_eachJobIsRecoveredOnce(t *testing.T) {
	t.Parallel()
	for name, sql := range recoverySQL {
		for _, kind := range []faultydb.Fault{faultydb.BreaksBefore, faultydb.BreaksAfter, faultydb.BreaksWithin} {
			t.Run(fmt.Sprintf("%s/%s", name, kind), func(t *testing.T) {
				t.Parallel()
				url := testdb.NewURL(t)
				pool, client := connect(t, url), newClient(t, connect(t, url))
				broken := faultydb.New(t, url)
				reg := engine.NewRegistry()
				noop(reg, "other")
				w, err := engine.NewWorker(broken.Pool, reg, engine.WorkerConfig{Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
				if err != nil {
					t.Fatal(err)
				}
				if err := w.Beat(t.Context()); err != nil {
					t.Fatal(err)
				}
				ours := "go/0.1.0"
				dead := addWorker(t, pool, &ours, nil, time.Minute, time.Hour)
				const claimedSQL = `
					update soniq_jobs set status = 'processing', attempts = $3, worker_id = $2, claim_token = 7 where id = $1`
				again, last := enqueue(t, client, "job", nil), enqueue(t, client, "job", nil, engine.MaxAttempts(3))
				exec(t, pool, claimedSQL, again, dead, 1)
				exec(t, pool, claimedSQL, last, dead, 3)

				broken.Strike(kind, sql, 1)
				if err := w.RecoverOrphans(t.Context()); err == nil {
					t.Error("the first turn: no error")
				}
				receive(t, "the fault", broken.Struck)
				turn := func() {
					t.Helper()
					if err := w.RecoverOrphans(t.Context()); err != nil {
						t.Errorf("a later turn: %v", err)
					}
				}
				// The session of the broken connection ends a moment after it, and keeps its locks until then.
				waitTrue(t, "the recovery", func() bool {
					turn()
					return queryValue[string](t, pool, `select status from soniq_workers where id = $1`, dead) == "stopped"
				})
				turn()
				for id, want := range map[uuid.UUID]string{again: "queued 1", last: "dead 3"} {
					status, attempts := endOf(t, pool, id)
					if got := fmt.Sprint(status, " ", attempts); got != want {
						t.Errorf("a job is %s, want %s", got, want)
					}
					if n := len(getJob(t, client, id).Errors); n != 1 {
						t.Errorf("its history tells of %d crashes", n)
					}
				}
			})
		}
	}
}
