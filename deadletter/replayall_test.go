package deadletter_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// unfiltered picks every dead letter in a bulk verb.
var unfiltered = deadletter.Filter{All: true}

func TestQueue_ReplayAll_takesTheDeadOldestFirst(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	at := func(hours int, c columns) uuid.UUID {
		if c == nil {
			c = columns{}
		}
		c["moved_to_dead_letter_at"] = noon.Add(time.Duration(hours) * time.Hour)
		return insertDead(t, pool, c)
	}
	third, first, second := at(3, nil), at(1, columns{"job_name": "another"}), at(2, columns{"dead_letter_reason": "timeout"})
	at(0, columns{"state": "replaying"})
	at(0, columns{"state": "resolved"})
	younger := at(4, nil)
	at(0, columns{"replay_job_id": younger, "resurrection_count": 1})                                // superseded by it
	at(0, columns{"last_resurrection_at": noon.Add(time.Hour), "resurrection_count": 1})             // replayed by Python
	cancelled := at(5, columns{"replay_job_id": uuid.New(), "last_resurrection_at": noon.Add(1000)}) // its replay was cancelled
	diedSince := at(6, columns{"last_resurrection_at": noon, "resurrection_count": 1})

	if n, err := q.ReplayCount(t.Context(), deadletter.Filter{Limit: 2}, deadletter.ReplayOptions{}); n != 2 || err != nil {
		t.Errorf("a limited count: %d, %v", n, err)
	}
	limited, err := q.ReplayAll(t.Context(), deadletter.Filter{All: true, Limit: 2}, deadletter.ReplayAllOptions{})
	if err != nil || !slices.Equal(from(limited), []uuid.UUID{first, second}) {
		t.Errorf("limited: %v, %v", limited, err)
	}
	want := []uuid.UUID{third, younger, cancelled, diedSince}
	if n, err := q.ReplayCount(t.Context(), unfiltered, deadletter.ReplayOptions{}); n != int64(len(want)) || err != nil {
		t.Errorf("counted %d, %v; want %d", n, err, len(want))
	}
	rest, err := q.ReplayAll(t.Context(), unfiltered, deadletter.ReplayAllOptions{ReplayOptions: deadletter.ReplayOptions{Queue: "q", Priority: ptr(0), MaxAttempts: 9}})
	if err != nil || !slices.Equal(from(rest), want) || rest.Operation.Skipped != 0 {
		t.Errorf("the rest: %+v, %v; want %v", rest, err, want)
	}
	if got := value[string](t, pool, "select string_agg(distinct concat_ws(' ', queue, priority, max_attempts, attempts), '|') from soniq_jobs where queue = 'q'"); got != "q 0 9 0" {
		t.Errorf("jobs: %q", got)
	}
	again, err := q.ReplayAll(t.Context(), unfiltered, deadletter.ReplayAllOptions{})
	if err != nil || len(again.Replayed) != 0 || again.Replayed == nil || again.Operation.Skipped != 0 {
		t.Errorf("again: %+v, %v", again, err)
	}
	for _, r := range append(limited.Replayed, rest.Replayed...) {
		if n := value[int](t, pool, "select count(*) from soniq_jobs where id = $1 and replay_of = $2", r.To, r.From); n != 1 {
			t.Errorf("%+v has %d jobs", r, n)
		}
	}
}

func from(r deadletter.ReplayResult) []uuid.UUID {
	ids := make([]uuid.UUID, len(r.Replayed))
	for i, x := range r.Replayed {
		ids[i] = x.From
	}
	return ids
}

func TestQueue_ReplayAll_jobsRunInTheirOrder(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	fill(t, pool, 500)
	if _, err := q.ReplayAll(t.Context(), unfiltered, deadletter.ReplayAllOptions{}); err != nil {
		t.Fatal(err)
	}
	const sql = `select array_agg((args ->> 'n')::int order by created_at, id) = array(select generate_series(1, 500)) from soniq_jobs`
	if !value[bool](t, pool, sql) {
		t.Error("by creation, the jobs aren't oldest first")
	}
	// Their ids are in order too, but a claim doesn't look at them.
	if n := value[int](t, pool, "select count(distinct created_at) from soniq_jobs"); n < 250 {
		t.Errorf("500 jobs have only %d times of creation", n)
	}
	if !value[bool](t, pool, "select bool_and(created_at <= now()) from soniq_jobs") {
		t.Error("some jobs were made in the future")
	}
}

func TestQueue_ReplayAll_skipsDuplicatesAndLeavesThemDead(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	insertJob(t, pool, columns{"dedup_key": "queued already"})
	blocked := insertDead(t, pool, columns{"dedup_key": "queued already"})
	older := insertDead(t, pool, columns{"args_hash": "h", "unique_job": true, "moved_to_dead_letter_at": noon})
	twin := insertDead(t, pool, columns{"args_hash": "h", "unique_job": true, "moved_to_dead_letter_at": noon.Add(time.Hour)})
	free := insertDead(t, pool, columns{"moved_to_dead_letter_at": noon.Add(2 * time.Hour)})

	n, err := q.ReplayCount(t.Context(), unfiltered, deadletter.ReplayOptions{})
	if err != nil || n != 4 {
		t.Errorf("counted %d, %v", n, err)
	}
	r, err := q.ReplayAll(t.Context(), unfiltered, deadletter.ReplayAllOptions{})
	if err != nil || !slices.Equal(from(r), []uuid.UUID{older, free}) || r.Operation.Skipped != 2 {
		t.Errorf("got %+v, %v", r, err)
	}
	for _, id := range []uuid.UUID{blocked, twin} {
		if j := get(t, q, id); j.State != deadletter.StateDead || j.ResurrectionCount != 0 || j.ReplayJobID != nil {
			t.Errorf("the skipped one changed: %+v", j)
		}
	}
}

func TestQueue_ReplayAll_isAllOrNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	insertDead(t, pool, columns{"attempts": 1})
	full := insertDead(t, pool, columns{"attempts": 3})

	var attempts *deadletter.AttemptsError
	_, err := q.ReplayAll(t.Context(), unfiltered, deadletter.ReplayAllOptions{ReplayOptions: deadletter.ReplayOptions{KeepAttempts: true}})
	if !errors.As(err, &attempts) || attempts.ID != full {
		t.Errorf("without attempts left: %v", err)
	}
	// The preview says the same, and looks no further than the limit.
	_, err = q.ReplayCount(t.Context(), unfiltered, deadletter.ReplayOptions{KeepAttempts: true})
	if !errors.As(err, &attempts) || attempts.ID != full {
		t.Errorf("the preview without attempts left: %v", err)
	}
	for limit, maximum := range map[int]int{1: 0, 2: 4} {
		o := deadletter.ReplayOptions{KeepAttempts: true, MaxAttempts: maximum}
		if n, err := q.ReplayCount(t.Context(), deadletter.Filter{Limit: limit}, o); n != int64(limit) || err != nil {
			t.Errorf("the preview of the first %d: %d, %v", limit, n, err)
		}
	}
	if _, err := q.ReplayCount(t.Context(), unfiltered, deadletter.ReplayOptions{Force: true}); err == nil {
		t.Error("the preview took Force")
	}
	if _, err := q.ReplayAll(t.Context(), unfiltered, deadletter.ReplayAllOptions{ReplayOptions: deadletter.ReplayOptions{Force: true}}); err == nil {
		t.Error("took Force")
	}
	if _, err := inTx(t, pool, q, unfiltered, deadletter.ReplayAllOptions{ReplayOptions: deadletter.ReplayOptions{KeepAttempts: true}}); !errors.As(err, &attempts) || attempts.ID != full {
		t.Errorf("in a transaction without attempts left: %v", err)
	}
	if _, err := inTx(t, pool, q, unfiltered, deadletter.ReplayAllOptions{Pace: deadletter.Pace{Rate: 1}}); err == nil {
		t.Error("took a pace in a transaction")
	}
	if _, err := q.ReplayAll(t.Context(), unfiltered, deadletter.ReplayAllOptions{ReplayOptions: deadletter.ReplayOptions{MaxAttempts: -1}}); err == nil {
		t.Error("took a negative maximum")
	}
	if n := value[int](t, pool, "select count(*) from soniq_jobs"); n != 0 {
		t.Errorf("made %d jobs", n)
	}
	r, err := q.ReplayAll(t.Context(), unfiltered, deadletter.ReplayAllOptions{ReplayOptions: deadletter.ReplayOptions{KeepAttempts: true, MaxAttempts: 4}})
	if err != nil || len(r.Replayed) != 2 {
		t.Errorf("with attempts left: %+v, %v", r, err)
	}
}

// inTx is ReplayAllTx in a transaction of its own.
func inTx(t *testing.T, pool *pgxpool.Pool, q *deadletter.Queue, f deadletter.Filter, o deadletter.ReplayAllOptions) (result deadletter.ReplayResult, err error) {
	t.Helper()
	err = pgx.BeginTxFunc(t.Context(), pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) (err error) {
		result, err = q.ReplayAllTx(t.Context(), tx, f, o)
		return err
	})
	return result, err
}

func TestQueue_ReplayAllTx_atTheSameTimeMakesEachJobOnce(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	const n = 3000
	fill(t, pool, n)
	results := make([]deadletter.ReplayResult, 4)
	ids := value[[]uuid.UUID](t, pool, "select array_agg(id) from (select id from soniq_dead_letter_jobs limit 50) x")
	together(6, func(i int) {
		if i >= len(results) {
			// Single replays in between, in another order.
			for _, id := range ids {
				if _, err := q.Replay(t.Context(), id, deadletter.ReplayOptions{}); err != nil && !errors.Is(err, deadletter.ErrReplaying) {
					t.Error(err)
				}
			}
			return
		}
		var err error
		if results[i], err = inTx(t, pool, q, unfiltered, deadletter.ReplayAllOptions{}); err != nil {
			t.Error(err)
		}
	})
	skipped := int64(0)
	for _, r := range results {
		skipped += r.Operation.Skipped
	}
	jobs, distinct := value[int](t, pool, "select count(*) from soniq_jobs"), value[int](t, pool, "select count(distinct replay_of) from soniq_jobs")
	if jobs != n || distinct != n || skipped != 0 {
		t.Errorf("%d jobs of %d dead letters, want %d; skipped %d", jobs, distinct, n, skipped)
	}
	if sum := value[int](t, pool, "select sum(resurrection_count) from soniq_dead_letter_jobs"); sum != n {
		t.Errorf("counted %d replays", sum)
	}
}

func TestQueue_ReplayAllTx_moreThanOneBatchIsOneTransaction(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	const n = 10_001
	fill(t, pool, n)
	r, err := inTx(t, pool, q, deadletter.Filter{JobNames: []string{"bulk"}}, deadletter.ReplayAllOptions{})
	if err != nil || len(r.Replayed) != n {
		t.Fatalf("%d replayed, %v", len(r.Replayed), err)
	}
	if xids := value[int](t, pool, "select count(distinct xmin::text) from soniq_jobs"); xids != 1 {
		t.Errorf("%d transactions", xids)
	}
}

// Four at the same time, beside single replays: each job is made once, and each
// call counts what it made.
func TestQueue_ReplayAll_atTheSameTimeMakesEachJobOnce(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	n := testkit.Size(2500, 5000) // more than a batch
	fill(t, pool, n)
	ids := value[[]uuid.UUID](t, pool, "select array_agg(id) from (select id from soniq_dead_letter_jobs limit 50) x")
	made := make([]int, 5)
	together(len(made), func(i int) {
		if i == 0 {
			for _, id := range ids {
				_, err := q.Replay(t.Context(), id, deadletter.ReplayOptions{})
				if err == nil {
					made[i]++
				} else if !errors.Is(err, deadletter.ErrReplaying) {
					t.Error(err)
				}
			}
			return
		}
		result, err := q.ReplayAll(t.Context(), unfiltered, deadletter.ReplayAllOptions{})
		if op := result.Operation; err != nil || op.State != deadletter.OperationDone || op.Done != int64(len(result.Replayed)) || op.Done+op.Skipped != op.Total {
			t.Errorf("%+v, %v", op, err)
		}
		made[i] = len(result.Replayed)
	})
	sum := 0
	for _, m := range made {
		sum += m
	}
	jobs, distinct := value[int](t, pool, "select count(*) from soniq_jobs"), value[int](t, pool, "select count(distinct replay_of) from soniq_jobs")
	if jobs != n || distinct != n || sum != n {
		t.Errorf("%d jobs of %d dead letters, and they say %d; want %d", jobs, distinct, sum, n)
	}
}

// What picks nothing is done at once, and leaves no record.
func TestQueue_ReplayAll_nothingPicked_recordsNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	insertDead(t, pool, columns{"state": "resolved"})
	calls := 0
	o := deadletter.ReplayAllOptions{OnProgress: func(deadletter.Operation, []deadletter.Replayed) { calls++ }}
	result, err := q.ReplayAll(t.Context(), unfiltered, o)
	if err != nil || result.Operation.State != deadletter.OperationDone || result.Operation.ID != uuid.Nil || result.Replayed == nil || calls != 1 {
		t.Errorf("%+v, %v; %d calls", result, err, calls)
	}
	if result, err = inTx(t, pool, q, unfiltered, deadletter.ReplayAllOptions{}); err != nil || result.Operation.ID != uuid.Nil || result.Replayed == nil {
		t.Errorf("in a transaction: %+v, %v", result, err)
	}
	if n := value[int](t, pool, "select count(*) from soniq_dead_letter_operations"); n != 0 {
		t.Errorf("%d operations", n)
	}
}
