package deadletter_test

import (
	"errors"
	"testing"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/testdb"
)

func TestFind_beginningOfAnID_isEnough(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	one := uuid.MustParse("abc123de-f456-4000-8000-000000000001")
	two := uuid.MustParse("abc123de-f457-4000-8000-000000000002")
	for _, id := range []uuid.UUID{one, two} {
		if _, err := pool.Exec(t.Context(), `
			insert into soniq_dead_letter_jobs (
			  id, job_name, args, queue, priority, max_attempts, attempts,
			  dead_letter_reason, original_created_at, moved_to_dead_letter_at)
			values ($1, 'x', '{}', 'default', 100, 1, 1, 'timeout', now(), now())`, id); err != nil {
			t.Fatal(err)
		}
	}
	queue := newQueue(t, pool)
	for prefix, want := range map[string]uuid.UUID{
		"abc123-def456":  one,
		"ABC123DEF457":   two,
		one.String():     one,
		"abc123de-f456-": one,
	} {
		if got, err := queue.Find(t.Context(), prefix); err != nil || got != want {
			t.Errorf("Find(%q) = %s, %v; want %s", prefix, got, err, want)
		}
	}
	var ambiguous *deadletter.AmbiguousError
	if _, err := queue.Find(t.Context(), "abc123de"); !errors.As(err, &ambiguous) || len(ambiguous.IDs) != 2 {
		t.Errorf("two candidates: %v", err)
	}
	for _, prefix := range []string{"abc123df", "abc123d", "", "--------", "abc123de'", "abc123deg", one.String() + "0"} {
		if _, err := queue.Find(t.Context(), prefix); !errors.Is(err, deadletter.ErrNotFound) {
			t.Errorf("Find(%q): %v, want ErrNotFound", prefix, err)
		}
	}
}
