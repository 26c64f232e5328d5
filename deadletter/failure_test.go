package deadletter_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/testdb"
)

// attemptsOf returns the attempts that a history tells of.
func attemptsOf(failures []deadletter.Failure) (attempts []int) {
	for _, f := range failures {
		attempts = append(attempts, f.Attempt)
	}
	return attempts
}

func TestHistory_long_keepsTheFirstAndTheLastNine(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	history := "null"
	for n := 1; n <= 15; n++ {
		entry := *deadletter.NewFailure(n, nil, nil, time.Now(), deadletter.Verdict{Message: fmt.Sprint("error ", n)}).JSON()
		history = value[string](t, pool, `select soniq_add_errors($1::jsonb, $2::jsonb)::text`, history, entry)
	}
	want := []int{1, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	if got := attemptsOf(deadletter.DecodeFailures([]byte(history))); !slices.Equal(got, want) {
		t.Errorf("it has attempts %v, want %v", got, want)
	}
}

// Whatever is in the columns, the function must not fail a worker's statement.
func TestHistory_hostileValues_areNoError(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for _, tt := range []struct{ history, more, want string }{
		{`null`, `null`, ""},
		{`"text"`, `{"attempt": 1}`, `[{"attempt": 1}]`},
		{`{"attempt": 9}`, `[{"attempt": 1}, {"attempt": 2}]`, `[{"attempt": 1}, {"attempt": 2}]`},
		{`[1, "x", null]`, `7`, `[1, "x", null]`},
		{`[]`, `[]`, ""},
	} {
		got := value[string](t, pool, `select coalesce(soniq_add_errors($1::jsonb, $2::jsonb)::text, '')`, tt.history, tt.more)
		if got != tt.want {
			t.Errorf("%s and %s are %s, want %s", tt.history, tt.more, got, tt.want)
		}
	}
	if got := deadletter.DecodeFailures([]byte(`[1, "x", {"attempt": 3, "failed_at": "never"}, {"attempt": 4}]`)); !slices.Equal(attemptsOf(got), []int{4}) {
		t.Errorf("decoded %v, want attempt 4 alone", got)
	}
}

func TestFailure_hostileTexts_areStorableAndSmall(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	text := "\x00\xff" + strings.Repeat("é", 1<<16)
	f := deadletter.NewFailure(1, ptr(uuid.New()), ptr(time.Date(123456, 1, 1, 0, 0, 0, 0, time.UTC)), time.Now(), deadletter.Verdict{
		Message: text, Type: text, Code: text, Stack: text, Kind: deadletter.KindPanic,
	})
	stored := value[string](t, pool, `select $1::jsonb::text`, *f.JSON())
	if len(stored) > 8<<10 {
		t.Errorf("the entry has %d bytes", len(stored))
	}
	var back deadletter.Failure
	if err := json.Unmarshal([]byte(stored), &back); err != nil || back.Message == "" {
		t.Errorf("%v: %q", err, back.Message)
	}
}

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
		d.Failure = deadletter.NewFailure(3, &worker, nil, time.Now(), d.Verdict)
		if moved, err := deadletter.Move(t.Context(), pool, worker, []deadletter.Death{d}); err != nil || len(moved) != 1 {
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
