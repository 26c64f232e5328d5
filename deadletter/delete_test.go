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
)

// left returns the ids of all dead letters, newest first.
func left(t testing.TB, q *deadletter.Queue) []uuid.UUID {
	t.Helper()
	jobs, err := q.List(t.Context(), deadletter.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	return idsOf(jobs)
}

// hold locks a dead letter and returns a function that lets it go.
func hold(t testing.TB, pool *pgxpool.Pool, id uuid.UUID) (release func()) {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(t.Context()) })
	if _, err := tx.Exec(t.Context(), "select from soniq_dead_letter_jobs where id = $1 for update", id); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := tx.Rollback(t.Context()); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
			t.Error(err)
		}
	}
}

func TestQueue_Delete_deletesOne(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool)
	id, other := insertDead(t, pool, nil), insertDead(t, pool, nil)
	if err := q.Delete(t.Context(), id); err != nil {
		t.Error(err)
	}
	if err := q.Delete(t.Context(), id); !errors.Is(err, deadletter.ErrNotFound) {
		t.Errorf("again: %v", err)
	}
	if got := left(t, q); !slices.Equal(got, []uuid.UUID{other}) {
		t.Errorf("left: %v", got)
	}
}

func TestQueue_DeleteAll_deletesWhatCountAndListShow(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool)
	fill(t, pool, 30)
	insertDead(t, pool, nil)
	other := insertDead(t, pool, nil)
	f := deadletter.Filter{JobNames: []string{"bulk"}, Limit: 3}

	shown, err := q.List(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	counted, err := q.Count(t.Context(), f)
	if err != nil || counted != 3 {
		t.Errorf("counted %d, %v", counted, err)
	}
	deleted, err := q.DeleteAll(t.Context(), f)
	if err != nil || deleted != counted {
		t.Errorf("deleted %d, %v; counted %d", deleted, err, counted)
	}
	rest := left(t, q)
	if len(rest) != 29 {
		t.Errorf("%d left", len(rest))
	}
	for _, j := range shown {
		if slices.Contains(rest, j.ID) {
			t.Errorf("%s was shown and not deleted", j.ID)
		}
	}
	f.Limit = 0
	if n, err := q.DeleteAll(t.Context(), f); n != 27 || err != nil {
		t.Errorf("without a limit: %d, %v", n, err)
	}
	if n, err := q.DeleteAll(t.Context(), f); n != 0 || err != nil {
		t.Errorf("again: %d, %v", n, err)
	}
	if n, err := q.DeleteAll(t.Context(), deadletter.Filter{All: true, Limit: 1}); n != 1 || err != nil {
		t.Errorf("all, limited: %d, %v", n, err)
	}
	if got := left(t, q); slices.Contains(got, other) || len(got) != 1 {
		t.Errorf("left %v: the newest should have gone", got)
	}
	if n, err := q.DeleteAll(t.Context(), deadletter.Filter{All: true}); n != 1 || err != nil {
		t.Errorf("all: %d, %v", n, err)
	}
}

func TestQueue_DeleteAll_waitsForRowsInUseAndLooksAtThemAgain(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool)
	held := insertDead(t, pool, nil)
	changed := insertDead(t, pool, nil)
	insertDead(t, pool, nil)

	release := hold(t, pool, held)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), "update soniq_dead_letter_jobs set state = 'replaying' where id = $1", changed); err != nil {
		t.Fatal(err)
	}

	type outcome struct {
		n   int64
		err error
	}
	done := make(chan outcome)
	go func() {
		n, err := q.DeleteAll(t.Context(), deadletter.Filter{State: deadletter.StateDead})
		done <- outcome{n, err}
	}()
	// It waits for a lock, and the free row is gone already.
	eventually(t, func() bool {
		return value[bool](t, pool, `select exists (select from pg_locks where not granted)`) &&
			value[int](t, pool, "select count(*) from soniq_dead_letter_jobs") == 2
	})
	release()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got.err != nil || got.n != 2 {
		t.Errorf("deleted %d, %v; want 2", got.n, got.err)
	}
	if got := left(t, q); !slices.Equal(got, []uuid.UUID{changed}) {
		t.Errorf("left %v, want the one that is being replayed now", got)
	}
}

func TestQueue_DeleteAll_atTheSameTimeCountsEachRowOnce(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool)
	const n = 12_000
	fill(t, pool, n)
	counts := make([]int64, 3)
	together(len(counts), func(i int) {
		var err error
		if counts[i], err = q.DeleteAll(t.Context(), deadletter.Filter{NameLike: "b*k"}); err != nil {
			t.Error(err)
		}
	})
	if sum := counts[0] + counts[1] + counts[2]; sum != n {
		t.Errorf("deleted %v, together %d", counts, sum)
	}
}

func TestQueue_Cleanup_deletesWhatItsCountSaid(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool)
	day := 24 * time.Hour
	age := func(d time.Duration, state string) uuid.UUID {
		return insertDead(t, pool, columns{"moved_to_dead_letter_at": time.Now().Add(-d), "state": state})
	}
	age(31*day, "dead")
	age(31*day, "resolved")
	age(400*day, "replaying")
	young := age(30*day-time.Hour, "dead")

	for _, d := range []time.Duration{0, -day} {
		if n, err := q.Cleanup(t.Context(), d); err == nil || n != 0 {
			t.Errorf("older than %s: %d, %v", d, n, err)
		}
		if n, err := q.CleanupCount(t.Context(), d); err == nil || n != 0 {
			t.Errorf("count of older than %s: %d, %v", d, n, err)
		}
	}
	for _, want := range []int64{3, 0} {
		counted, err := q.CleanupCount(t.Context(), 30*day)
		if err != nil || counted != want {
			t.Errorf("counted %d, %v; want %d", counted, err, want)
		}
		if deleted, err := q.Cleanup(t.Context(), 30*day); err != nil || deleted != want {
			t.Errorf("deleted %d, %v; want %d", deleted, err, want)
		}
	}
	if got := left(t, q); !slices.Equal(got, []uuid.UUID{young}) {
		t.Errorf("left %v", got)
	}
	if n, err := q.CleanupCount(t.Context(), 1<<63-1); n != 0 || err != nil {
		t.Errorf("older than three centuries: %d, %v", n, err)
	}
}

func TestQueue_Cleanup_isInTheHistory(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool).As("cron", "quota")
	insertDead(t, pool, columns{"moved_to_dead_letter_at": time.Now().Add(-48 * time.Hour)})
	for range 2 { // the second finds nothing, and is no operation
		if _, err := q.Cleanup(t.Context(), 24*time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	ops, err := q.Operations(t.Context(), 10)
	if err != nil || len(ops) != 1 {
		t.Fatalf("%d operations, %v; want one", len(ops), err)
	}
	if op := ops[0]; op.Action != deadletter.ActionCleanup || op.State != deadletter.OperationDone ||
		op.Done != 1 || op.Total != 1 || op.Actor != "cron" || op.Because != "quota" {
		t.Errorf("the history says %+v", op)
	}
}

func TestQueue_Cleanup_goesInBatchesAndNeverWaits(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool)
	const n = 10_500
	fill(t, pool, n)
	held := value[uuid.UUID](t, pool, "select id from soniq_dead_letter_jobs order by moved_to_dead_letter_at limit 1")
	exec(t, pool, `
		create table batches (xid xid8, n int);
		create function batch() returns trigger language plpgsql as $$
		begin
			insert into batches select pg_current_xact_id(), count(*) from gone;
			return null;
		end $$;
		create trigger batch after delete on soniq_dead_letter_jobs
			referencing old table as gone for each statement execute function batch()`)

	release := hold(t, pool, held)
	defer release()
	deleted, err := q.Cleanup(within(t, 30*time.Second), time.Hour)
	if err != nil || deleted != n-1 {
		t.Errorf("deleted %d, %v; want all but the one in use", deleted, err)
	}
	got := value[string](t, pool, "select string_agg(n::text, ' ' order by xid) from batches")
	if got != "5000 5000 499" {
		t.Errorf("batches: %s", got)
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatal("it didn't come to pass")
		case <-tick.C:
		}
	}
}
