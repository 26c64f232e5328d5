package deadletter_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/deadwrite"
	"soniq/internal/history"
	"soniq/internal/testdb"
)

func TestMove_diesAgain_eachDeathHasItsHistory(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	worker := insertWorker(t, pool)
	id := uuid.New()
	for _, message := range []string{"first death", "second death"} {
		insertClaimed(t, pool, worker, columns{"id": id, "errors": `[{"attempt": 2, "failed_at": "2026-01-02T03:04:05Z", "message": "retried"}]`})
		d := death(id)
		d.Verdict.Message = message
		d.Failure = history.Entry(3, &worker, nil, time.Now(), d.Verdict)
		if moved, err := deadwrite.Move(t.Context(), pool, worker, []deadwrite.Death{d}); err != nil || len(moved) != 1 {
			t.Fatal(moved, err)
		}
	}
	dead, err := q.List(t.Context(), deadletter.Filter{})
	if err != nil || len(dead) != 2 || dead[1].ID != id {
		t.Fatalf("%d dead letters: %v", len(dead), err)
	}
	for i, last := range []string{"second death", "first death"} {
		var messages []string
		for _, f := range dead[i].Errors {
			messages = append(messages, f.Message)
		}
		if want := []string{"retried", last}; !slices.Equal(messages, want) {
			t.Errorf("the history says %q, want %q", messages, want)
		}
	}
}
