package deadletter_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// start returns the operation of a replay that was interrupted before its first
// batch.
func start(t testing.TB, q *deadletter.Queue, f deadletter.Filter, o deadletter.ReplayOptions, p deadletter.Pace) deadletter.Operation {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var atStart deadletter.Operation
	result, err := q.ReplayAll(ctx, f, deadletter.ReplayAllOptions{
		ReplayOptions: o, Pace: p, OnProgress: func(op deadletter.Operation, _ []deadletter.Replayed) { atStart = op; cancel() },
	})
	if !errors.Is(err, context.Canceled) || len(result.Replayed) != 0 || result.Operation.Done != 0 || result.Operation.State != deadletter.OperationStopped {
		t.Fatalf("interrupted at the start: %+v, %v", result, err)
	}
	return atStart
}

// resume resumes a replay and returns the operation.
func resume(ctx context.Context, q *deadletter.Queue, id uuid.UUID, onProgress func(deadletter.Operation, []deadletter.Replayed)) (deadletter.Operation, error) {
	result, err := q.ResumeReplay(ctx, id, onProgress)
	return result.Operation, err
}

// endReplays ends the queued replays as a worker would: each succeeds, or dies.
func endReplays(t *testing.T, pool *pgxpool.Pool, succeed bool) {
	t.Helper()
	if succeed {
		exec(t, pool, "update soniq_jobs set status = 'done' where status = 'queued'")
		return
	}
	exec(t, pool, `
		with gone as (delete from soniq_jobs where status = 'queued' returning *)
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at, replay_of)
		select id, job_name, args, queue, priority, max_attempts, 3, 'max_retries_exceeded', created_at, clock_timestamp(), replay_of
		from gone`)
}

func TestQueue_ResumeReplay_doesWhatWasPickedAtTheStart(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool).As("ann@host", "the store is back")
	fill(t, pool, 4321)
	op := start(t, q, unfiltered, deadletter.ReplayOptions{Queue: "again"}, deadletter.Pace{})
	if op.Total != 4321 || op.Done != 0 || op.State != deadletter.OperationRunning {
		t.Errorf("at the start: %+v", op)
	}
	// What dies from now on is no part of it; what somebody else takes is skipped.
	late := insertDead(t, pool, nil)
	taken := value[uuid.UUID](t, pool, "select id from soniq_dead_letter_jobs where job_name = 'bulk' limit 1")
	if _, err := newQueue(t, pool).Replay(t.Context(), taken, deadletter.ReplayOptions{}); err != nil {
		t.Fatal(err)
	}
	var told []int64
	var replayed []deadletter.Replayed
	op, err := resume(t.Context(), q, op.ID, func(op deadletter.Operation, made []deadletter.Replayed) {
		told = append(told, op.Done+op.Skipped)
		replayed = append(replayed, made...)
	})
	if err != nil || op.State != deadletter.OperationDone || op.Done != 4320 || op.Skipped != 1 {
		t.Errorf("at the end: %+v, %v", op, err)
	}
	if len(told) < 3 || !slices.IsSorted(told) || told[len(told)-1] != 4321 || len(replayed) != 4320 {
		t.Errorf("told of %v, and of %d replays", told, len(replayed))
	}
	if n := value[int](t, pool, "select count(*) from soniq_jobs where queue = 'again' and replay_of <> $1", late); n != 4320 {
		t.Errorf("%d jobs", n)
	}
	if !value[bool](t, pool, "select array_agg((args ->> 'n')::int order by created_at, id) = array_agg((args ->> 'n')::int order by (args ->> 'n')::int) from soniq_jobs where queue = 'again'") {
		t.Error("not the oldest first")
	}
	stored, err := q.Operation(t.Context(), op.ID)
	if err != nil || stored.Done != 4320 || stored.State != deadletter.OperationDone || stored.Actor != "ann@host" || stored.Comment != "the store is back" {
		t.Errorf("stored: %+v, %v", stored, err)
	}
	if n := value[int](t, pool, "select count(*) from soniq_dead_letter_selections"); n != 0 {
		t.Errorf("%d rows of the selection are left", n)
	}
	history, err := q.History(t.Context(), replayed[7].From)
	if err != nil || len(history) != 1 || history[0].Actor != "ann@host" || history[0].Comment != "the store is back" ||
		*history[0].OperationID != op.ID || *history[0].JobID != replayed[7].To || history[0].Action != deadletter.ActionReplay {
		t.Errorf("history: %+v, %v", history, err)
	}
	if _, err := resume(t.Context(), q, op.ID, nil); !errors.Is(err, deadletter.ErrNotResumable) {
		t.Errorf("again: %v", err)
	}
	if _, err := resume(t.Context(), q, uuid.New(), nil); !errors.Is(err, deadletter.ErrNoOperation) {
		t.Errorf("an unknown operation: %v", err)
	}
}

// An interrupted replay goes on where it stopped, and two that go on at once
// make each job once.
func TestQueue_ResumeReplay_interrupted_goesOn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool).As("ann", "")
	const n = 300
	fill(t, pool, n)
	op := start(t, q, unfiltered, deadletter.ReplayOptions{}, deadletter.Pace{Rate: 200})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stopped, err := resume(ctx, q, op.ID, func(op deadletter.Operation, _ []deadletter.Replayed) {
		if op.Done >= 80 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || stopped.State != deadletter.OperationStopped || stopped.StoppedBy != deadletter.StoppedByCaller {
		t.Errorf("interrupted: %+v, %v", stopped, err)
	}
	jobs := value[int64](t, pool, "select count(*) from soniq_jobs")
	if stored, err := q.Operation(t.Context(), op.ID); err != nil || stored.Done != jobs || jobs < 80 || jobs >= n || stored.State != deadletter.OperationStopped {
		t.Errorf("stored %+v, %v; %d jobs", stored, err, jobs)
	}
	exec(t, pool, `update soniq_dead_letter_operations set options = jsonb_set(options, '{pace}', '{}')`)
	together(3, func(i int) {
		if _, err := resume(t.Context(), q, op.ID, nil); err != nil && !errors.Is(err, deadletter.ErrNotResumable) {
			t.Errorf("%d: %v", i, err)
		}
	})
	if jobs, distinct := value[int](t, pool, "select count(*) from soniq_jobs"), value[int](t, pool, "select count(distinct replay_of) from soniq_jobs"); jobs != n || distinct != n {
		t.Errorf("%d jobs of %d dead letters, want %d", jobs, distinct, n)
	}
	if stored, err := q.Operation(t.Context(), op.ID); err != nil || stored.Done != n || stored.Skipped != 0 || stored.State != deadletter.OperationDone {
		t.Errorf("in the end %+v, %v", stored, err)
	}
}

func TestQueue_ResumeReplay_rate_isNeverExceeded(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	fill(t, pool, 60)
	began := time.Now()
	op := start(t, q, unfiltered, deadletter.ReplayOptions{}, deadletter.Pace{Rate: 50})
	batches := 0
	if _, err := resume(t.Context(), q, op.ID, func(deadletter.Operation, []deadletter.Replayed) { batches++ }); err != nil {
		t.Fatal(err)
	}
	// The first batch of ten goes at once.
	if took := time.Since(began); took < time.Second-10*time.Millisecond || batches < 6 {
		t.Errorf("60 at 50/s took %s in %d batches", took, batches)
	}
}

func TestQueue_ResumeReplay_canary_goesOnOnlyAfterSuccess(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	fill(t, pool, 10)
	// Equal to a queued job: a canary that is skipped proves nothing, so another takes its place.
	insertJob(t, pool, columns{"dedup_key": "k", "status": "queued"})
	exec(t, pool, "update soniq_dead_letter_jobs set dedup_key = 'k' where args ->> 'n' = '1'")
	op := start(t, q, unfiltered, deadletter.ReplayOptions{}, deadletter.Pace{Canary: 2})
	go func() {
		eventually.True(t, "the canary", func() bool {
			return value[int](t, pool, "select count(*) from soniq_jobs where replay_of is not null") == 2
		})
		exec(t, pool, "update soniq_jobs set status = 'done' where replay_of is not null")
	}()
	op, err := resume(t.Context(), q, op.ID, nil)
	if err != nil || op.Done != 9 || op.Skipped != 1 || op.State != deadletter.OperationDone {
		t.Errorf("after a success: %+v, %v", op, err)
	}
}

func TestQueue_ResumeReplay_canary_thatDies_stopsIt(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	fill(t, pool, 10)
	op := start(t, q, unfiltered, deadletter.ReplayOptions{}, deadletter.Pace{Canary: 2})
	var stopped *deadletter.StoppedError
	op, err := resume(t.Context(), q, op.ID, func(op deadletter.Operation, _ []deadletter.Replayed) { endReplays(t, pool, false) })
	if !errors.As(err, &stopped) || stopped.Died != 2 || op.StoppedBy != deadletter.StoppedByCanary || op.Done != 2 || op.State != deadletter.OperationStopped {
		t.Fatalf("after two deaths: %+v, %v", op, err)
	}
	// Mended, it goes on, after other canaries.
	op, err = resume(t.Context(), q, op.ID, func(op deadletter.Operation, _ []deadletter.Replayed) { endReplays(t, pool, true) })
	if err != nil || op.Done != 10 || op.State != deadletter.OperationDone || op.StoppedBy != "" {
		t.Errorf("mended: %+v, %v", op, err)
	}

	fill(t, pool, 3)
	op = start(t, q, unfiltered, deadletter.ReplayOptions{}, deadletter.Pace{Canary: 1, CanaryTimeout: time.Millisecond})
	_, err = resume(t.Context(), q, op.ID, nil)
	if !errors.As(err, &stopped) || stopped.Pending != 1 || !strings.Contains(err.Error(), "does a worker run?") {
		t.Errorf("without a worker: %v", err)
	}
}

// One canary that fails is enough: nobody waits for the others, and they are not late.
func TestQueue_ResumeReplay_canaryFailsBeforeOthersEnd_saysThatItFailed(t *testing.T) {
	t.Parallel()
	ends := map[string]string{
		"dies":         "update soniq_dead_letter_jobs set state = 'dead' where replay_job_id = $1",
		"is cancelled": "update soniq_jobs set status = 'cancelled' where id = $1",
		"is deleted":   "delete from soniq_jobs where id = $1",
	}
	for how, sql := range ends {
		pool := testdb.New(t)
		q := newQueue(t, pool)
		fill(t, pool, 5)
		op := start(t, q, unfiltered, deadletter.ReplayOptions{}, deadletter.Pace{Canary: 3})
		op, err := resume(t.Context(), q, op.ID, func(_ deadletter.Operation, made []deadletter.Replayed) {
			if len(made) > 0 {
				exec(t, pool, sql, made[0].To)
			}
		})
		var stopped *deadletter.StoppedError
		if !errors.As(err, &stopped) || stopped.Died != 1 || stopped.Pending != 2 || op.Done != 3 {
			t.Errorf("a canary %s: %+v, %v", how, op, err)
		}
		if want := "stopped: 1 of the first replays did not succeed, and 2 had not ended yet"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a canary %s: %v", how, err)
		}
	}
}

func TestQueue_ResumeReplay_breaker_stopsWhenReplaysDieAgain(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	fill(t, pool, 400)
	run := func(succeed bool) (deadletter.Operation, error) {
		op := start(t, q, unfiltered, deadletter.ReplayOptions{MaxReplays: 1}, deadletter.Pace{Rate: 100, Breaker: 0.5})
		return resume(t.Context(), q, op.ID, func(deadletter.Operation, []deadletter.Replayed) { endReplays(t, pool, succeed) })
	}
	var stopped *deadletter.StoppedError
	op, err := run(false)
	if !errors.As(err, &stopped) || op.StoppedBy != deadletter.StoppedByBreaker || stopped.Died < 20 || op.Done > 200 {
		t.Fatalf("all die: %+v, %v", op, err)
	}
	if n := value[int64](t, pool, "select count(*) from soniq_dead_letter_jobs where replay_of is not null"); n != op.Done {
		t.Errorf("%d died, %+v", n, op)
	}
	op, err = run(true)
	if err != nil || op.State != deadletter.OperationDone {
		t.Errorf("all succeed: %+v, %v", op, err)
	}
	// Those that died, and those that they replay, have had their one replay.
	if plan, err := q.PlanReplay(t.Context(), unfiltered, deadletter.ReplayOptions{MaxReplays: 1}); err != nil || plan.Picked != 0 || plan.Exhausted == 0 {
		t.Errorf("planned %+v, %v", plan, err)
	}
}

func TestQueue_Replay_maxReplays_countsTheWholeLine(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	first := insertDead(t, pool, nil)
	for range 3 {
		if _, err := q.ReplayAll(t.Context(), unfiltered, deadletter.ReplayAllOptions{ReplayOptions: deadletter.ReplayOptions{MaxReplays: 3}}); err != nil {
			t.Fatal(err)
		}
		endReplays(t, pool, false)
	}
	latest := value[uuid.UUID](t, pool, "select id from soniq_dead_letter_jobs order by moved_to_dead_letter_at desc limit 1")
	var replays *deadletter.ReplaysError
	_, err := q.Replay(t.Context(), latest, deadletter.ReplayOptions{MaxReplays: 3})
	if !errors.As(err, &replays) || replays.Replays != 3 || latest == first {
		t.Errorf("the fourth: %v", err)
	}
	if err := q.CheckReplay(t.Context(), latest, deadletter.ReplayOptions{MaxReplays: 3}); !errors.As(err, &replays) {
		t.Errorf("its check: %v", err)
	}
	if r, err := q.ReplayAll(t.Context(), unfiltered, deadletter.ReplayAllOptions{ReplayOptions: deadletter.ReplayOptions{MaxReplays: 3}}); err != nil || len(r.Replayed) != 0 {
		t.Errorf("in bulk: %+v, %v", r, err)
	}
	// Rows in a circle end the count.
	exec(t, pool, "update soniq_dead_letter_jobs set replay_of = $1 where id = $2", latest, first)
	if err := q.CheckReplay(t.Context(), latest, deadletter.ReplayOptions{MaxReplays: 50}); !errors.As(err, &replays) {
		t.Errorf("in a circle: %v", err)
	}
	if _, err := q.Replay(t.Context(), latest, deadletter.ReplayOptions{MaxReplays: 3, Force: true}); err != nil {
		t.Errorf("forced: %v", err)
	}
}

func TestQueue_Replay_otherArguments_leaveTheOriginal(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool).As("ann", "typo")
	id := insertDead(t, pool, columns{"args": `{"to": "a"}`, "unique_job": true, "args_hash": "old"})
	// {"a":1,"b":2} as Python hashes it.
	const hash = "43258cff783fe7036d8a43033f830adfc60ec037382473548ac742b888292777"
	queued := insertJob(t, pool, columns{"unique_job": true, "args_hash": hash})
	o := deadletter.ReplayOptions{Args: []byte(`{"b": 2, "a": 1}`), Delay: time.Hour}
	var duplicate *deadletter.DuplicateError
	if err := q.CheckReplay(t.Context(), id, o); !errors.As(err, &duplicate) || duplicate.ID != queued {
		t.Errorf("checked beside an equal job: %v", err)
	}
	if _, err := q.Replay(t.Context(), id, o); !errors.As(err, &duplicate) {
		t.Errorf("beside an equal job: %v", err)
	}
	exec(t, pool, "delete from soniq_jobs")
	job, err := q.Replay(t.Context(), id, o)
	if err != nil {
		t.Fatal(err)
	}
	got := value[string](t, pool, `select concat_ws(' ', args, args_hash, scheduled_at - now() between interval '59 minutes' and interval '61 minutes') from soniq_jobs where id = $1`, job)
	if got != `{"a": 1, "b": 2} `+hash+" t" {
		t.Errorf("the job: %s", got)
	}
	if j := get(t, q, id); string(j.Args) != `{"to": "a"}` {
		t.Errorf("the original: %s", j.Args)
	}
	history, err := q.History(t.Context(), id)
	if err != nil || len(history) != 1 || string(history[0].Detail) != `{"args": {"a": 1, "b": 2}, "changed": ["to", "b", "a"]}` {
		t.Errorf("history: %+v, %v", history, err)
	}
	for _, bad := range []string{``, `[]`, `{`, `null`, `"x"`, "{\"a\": \"\xff\"}", `{"a": "\u0000"}`} {
		if _, err := q.Replay(t.Context(), id, deadletter.ReplayOptions{Args: []byte(bad)}); err == nil || !strings.Contains(err.Error(), "Args: ") {
			t.Errorf("arguments %q: %v", bad, err)
		}
	}
	if _, err := q.ReplayAll(t.Context(), unfiltered, deadletter.ReplayAllOptions{ReplayOptions: deadletter.ReplayOptions{Args: []byte(`{}`)}}); err == nil {
		t.Error("took other arguments in bulk")
	}
}

func TestPace_refusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testdb.New(t))
	for field, p := range map[string]deadletter.Pace{
		"Rate": {Rate: -1}, "Canary": {Canary: -1}, "CanaryTimeout": {CanaryTimeout: -1}, "Breaker": {Breaker: 1.5},
	} {
		if _, err := q.ReplayAll(t.Context(), unfiltered, deadletter.ReplayAllOptions{Pace: p}); err == nil || !strings.Contains(err.Error(), "pace: "+field+": ") {
			t.Errorf("%+v: %v", p, err)
		}
	}
	if _, err := q.ReplayAll(t.Context(), deadletter.Filter{}, deadletter.ReplayAllOptions{}); !errors.Is(err, deadletter.ErrFilterEmpty) {
		t.Errorf("without a filter: %v", err)
	}
}

// Each change says who made it, and outlives the row.
func TestQueue_History_recordsWhoDidWhat(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	id := insertDead(t, pool, nil)
	insertDead(t, pool, columns{"moved_to_dead_letter_at": noon})
	if _, err := q.As("bob", "try it").Replay(t.Context(), id, deadletter.ReplayOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := q.As("eve\x00", "no longer needed").Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	history, err := q.History(t.Context(), id)
	if err != nil || len(history) != 2 || history[0].Actor != "bob" || history[1].Action != deadletter.ActionDelete || history[1].Comment != "no longer needed" {
		t.Errorf("%+v, %v", history, err)
	}
	if n, err := q.As("carol", "").DeleteAll(t.Context(), deadletter.Filter{State: deadletter.StateDead}); n != 1 || err != nil {
		t.Fatalf("deleted %d, %v", n, err)
	}
	ops, err := q.Operations(t.Context(), 5)
	if err != nil || len(ops) != 1 || ops[0].Action != deadletter.ActionDelete || ops[0].Actor != "carol" || ops[0].Done != 1 ||
		ops[0].State != deadletter.OperationDone || string(ops[0].Filter) != `{"state": "dead"}` {
		t.Errorf("%+v, %v", ops, err)
	}
}
