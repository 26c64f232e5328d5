package deadletter_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/deadletter"
	"soniq/internal/pg"
	"soniq/internal/testdb"
)

// The Tx variants do nothing before the caller's commit, and nothing at all after
// a rollback; an error of theirs leaves the transaction usable.
func TestQueue_txVariants_commitAndRollback(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool).As("ann", "in a transaction")
	const state = `
		select concat_ws(' ',
		  (select count(*) from soniq_jobs),
		  (select count(*) from soniq_dead_letter_jobs where state = 'replaying'),
		  (select count(*) from soniq_dead_letter_jobs),
		  (select count(*) from soniq_dead_letter_audit where actor = 'ann'))`
	one, two, three := insertDead(t, pool, nil), insertDead(t, pool, nil), insertDead(t, pool, columns{"queue": "bulk"})
	for _, tt := range []struct {
		name  string
		do    func(tx pgx.Tx) error
		after string // jobs, rows being replayed, rows, records
	}{
		{"replay", func(tx pgx.Tx) error {
			if _, err := q.ReplayTx(t.Context(), tx, uuid.New(), deadletter.ReplayOptions{}); !errors.Is(err, deadletter.ErrNotFound) {
				t.Errorf("replay of an unknown one: %v", err)
			}
			job, err := q.ReplayTx(t.Context(), tx, one, deadletter.ReplayOptions{Queue: "again"})
			if err != nil {
				return err
			}
			var stateErr *deadletter.StateError
			if _, err := q.ReplayTx(t.Context(), tx, one, deadletter.ReplayOptions{}); !errors.As(err, &stateErr) || *stateErr.ReplayJobID != job {
				t.Errorf("a second replay: %v", err)
			}
			return nil
		}, "1 1 3 1"},
		{"replay all", func(tx pgx.Tx) error {
			calls := 0
			result, err := q.ReplayAllTx(t.Context(), tx, deadletter.Filter{Queues: []string{"bulk"}}, deadletter.ReplayAllOptions{
				OnProgress: func(deadletter.Operation, []deadletter.Replayed) { calls++ },
			})
			if err == nil && (len(result.Replayed) != 1 || result.Replayed[0].From != three || calls != 2) {
				t.Errorf("in bulk: %+v, %d calls", result, calls)
			}
			return err
		}, "2 2 3 2"},
		{"delete", func(tx pgx.Tx) error {
			if err := q.DeleteTx(t.Context(), tx, one, uuid.New(), two); !errors.Is(err, deadletter.ErrNotFound) {
				t.Errorf("delete with an unknown one: %v", err)
			}
			return q.DeleteTx(t.Context(), tx, two, one, two)
		}, "2 1 1 4"},
	} {
		before := value[string](t, pool, state)
		failed := errors.New("rolled back")
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			if err := tt.do(tx); err != nil {
				return err
			}
			if got := value[string](t, pool, state); got != before {
				t.Errorf("%s, before the commit: %s, want %s", tt.name, got, before)
			}
			return failed
		})
		if got := value[string](t, pool, state); !errors.Is(err, failed) || got != before {
			t.Errorf("%s, rolled back: %s, want %s; %v", tt.name, got, before, err)
		}
		err = pgx.BeginFunc(t.Context(), pool, tt.do)
		if got := value[string](t, pool, state); err != nil || got != tt.after {
			t.Errorf("%s, committed: %s, want %s; %v", tt.name, got, tt.after, err)
		}
	}
}

// Above read committed the database refuses a row that has changed, and the caller
// runs the transaction again.
func TestQueue_txVariants_aboveReadCommitted_failToSerialize(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	for name, do := range map[string]func(tx pgx.Tx, id uuid.UUID) error{
		"replay": func(tx pgx.Tx, id uuid.UUID) error {
			_, err := q.ReplayTx(t.Context(), tx, id, deadletter.ReplayOptions{})
			return err
		},
		"replay all": func(tx pgx.Tx, _ uuid.UUID) error {
			_, err := q.ReplayAllTx(t.Context(), tx, unfiltered, deadletter.ReplayAllOptions{})
			return err
		},
		"delete": func(tx pgx.Tx, id uuid.UUID) error { return q.DeleteTx(t.Context(), tx, id) },
	} {
		id := insertDead(t, pool, nil)
		err := pgx.BeginTxFunc(t.Context(), pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), "select from soniq_dead_letter_jobs"); err != nil {
				return err
			}
			exec(t, pool, "update soniq_dead_letter_jobs set resurrection_count = 7 where id = $1", id)
			return do(tx, id)
		})
		if !pg.IsCode(err, pg.SerializationFailure) {
			t.Errorf("%s: %v", name, err)
		}
		exec(t, pool, "delete from soniq_dead_letter_jobs")
	}
}

// Delete deletes all of several or none.
func TestQueue_Delete_several_allOrNone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	ids := []uuid.UUID{insertDead(t, pool, nil), insertDead(t, pool, nil), insertDead(t, pool, nil)}
	left := func() int { return value[int](t, pool, "select count(*) from soniq_dead_letter_jobs") }
	if err := q.Delete(t.Context(), ids[0], uuid.New()); !errors.Is(err, deadletter.ErrNotFound) || left() != 3 {
		t.Errorf("with an unknown one: %v, %d left", err, left())
	}
	if err := q.Delete(t.Context()); err != nil || left() != 3 {
		t.Errorf("of none: %v, %d left", err, left())
	}
	// Two at once, in another order: one finds all, the other none, and neither
	// waits for the other for ever.
	errs := make([]error, 2)
	together(2, func(i int) {
		order := [][]uuid.UUID{{ids[0], ids[1], ids[2]}, {ids[2], ids[1], ids[0]}}[i]
		errs[i] = q.Delete(within(t, 30*time.Second), order...)
	})
	if failed := errors.Join(errs...); left() != 0 || !errors.Is(failed, deadletter.ErrNotFound) || errs[0] != nil && errs[1] != nil {
		t.Errorf("two at once: %v; %d left", errs, left())
	}
	if n := value[int](t, pool, "select count(*) from soniq_dead_letter_audit where action = 'delete'"); n != 3 {
		t.Errorf("%d records", n)
	}
}
