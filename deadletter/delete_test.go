package deadletter_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/eventually"
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
	q := newQueue(t, pool)
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
	q := newQueue(t, pool)
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
	q := newQueue(t, pool)
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
	eventually.True(t, "the wait for a lock", func() bool {
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
	q := newQueue(t, pool)
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
