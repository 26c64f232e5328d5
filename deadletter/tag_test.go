package deadletter_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/testdb"
)

func TestQueue_Tag_addsReplacesAndTakesAway(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	for stored, want := range map[string]string{
		`{"team": "a", "n": 5, "old": "x"}`:      `{"n": 5, "team": "b", "ticket": "7"}`,
		`"{\"team\": \"a\", \"old\": \"x\"}"`:    `{"team": "b", "ticket": "7"}`,
		`null`:                                   `{"team": "b", "ticket": "7"}`,
		`"text"`:                                 `{"team": "b", "ticket": "7"}`,
		`[1]`:                                    `{"team": "b", "ticket": "7"}`,
		`{"deep": {"x": 123456789012345678901}}`: `{"deep": {"x": 123456789012345678901}, "team": "b", "ticket": "7"}`,
	} {
		id := insertDead(t, pool, columns{"tags": stored})
		if err := q.Tag(t.Context(), id, map[string]string{"team": "b", "ticket": "7", "old": ""}); err != nil {
			t.Fatal(err)
		}
		if got := value[string](t, pool, "select tags::text from soniq_dead_letter_jobs where id = $1", id); got != want {
			t.Errorf("%s became %s, want %s", stored, got, want)
		}
		if history, err := q.History(t.Context(), id); err != nil || len(history) != 1 || history[0].Action != deadletter.ActionTag {
			t.Errorf("history: %+v, %v", history, err)
		}
	}
	if err := q.Tag(t.Context(), uuid.New(), map[string]string{"a": "b"}); !errors.Is(err, deadletter.ErrNotFound) {
		t.Errorf("a missing one: %v", err)
	}
	id := insertDead(t, pool, nil)
	for _, bad := range []map[string]string{nil, {}, {"": "x"}, {"a": "\x00"}, {"\xff": "x"}} {
		if err := q.Tag(t.Context(), id, bad); err == nil {
			t.Errorf("took %q", bad)
		}
	}
}

func TestQueue_Tag_atTheSameTime_losesNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	id := insertDead(t, pool, nil)
	together(8, func(i int) {
		if err := q.Tag(t.Context(), id, map[string]string{fmt.Sprint("key", i): "x"}); err != nil {
			t.Error(err)
		}
	})
	if n := value[int](t, pool, "select count(*) from soniq_dead_letter_jobs, jsonb_object_keys(tags)"); n != 8 {
		t.Errorf("%d tags", n)
	}
}
