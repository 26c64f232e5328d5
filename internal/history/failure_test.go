package history_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter/classify"
	"soniq/internal/history"
	"soniq/internal/testdb"
)

// attemptsOf returns the attempts that a history tells of.
func attemptsOf(failures []classify.Failure) (attempts []int) {
	for _, f := range failures {
		attempts = append(attempts, f.Attempt)
	}
	return attempts
}

func TestHistory_long_keepsTheFirstAndTheLastNine(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	whole := "null"
	for n := 1; n <= 15; n++ {
		entry := *history.JSON(history.Entry(n, nil, nil, time.Now(), classify.Verdict{Message: fmt.Sprint("error ", n)}))
		whole = value(t, pool, `select soniq_add_errors($1::jsonb, $2::jsonb)::text`, whole, entry)
	}
	want := []int{1, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	if got := attemptsOf(history.Decode([]byte(whole))); !slices.Equal(got, want) {
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
		got := value(t, pool, `select coalesce(soniq_add_errors($1::jsonb, $2::jsonb)::text, '')`, tt.history, tt.more)
		if got != tt.want {
			t.Errorf("%s and %s are %s, want %s", tt.history, tt.more, got, tt.want)
		}
	}
	if got := history.Decode([]byte(`[1, "x", {"attempt": 3, "failed_at": "never"}, {"attempt": 4}]`)); !slices.Equal(attemptsOf(got), []int{4}) {
		t.Errorf("decoded %v, want attempt 4 alone", got)
	}
}

func TestFailure_hostileTexts_areStorableAndSmall(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	text := "\x00\xff" + strings.Repeat("é", 1<<16)
	f := history.Entry(1, new(uuid.New()), new(time.Date(123456, 1, 1, 0, 0, 0, 0, time.UTC)), time.Now(), classify.Verdict{
		Message: text, Type: text, Code: text, Stack: text, Kind: classify.KindPanic,
	})
	stored := value(t, pool, `select $1::jsonb::text`, *history.JSON(f))
	if len(stored) > 8<<10 {
		t.Errorf("the entry has %d bytes", len(stored))
	}
	var back classify.Failure
	if err := json.Unmarshal([]byte(stored), &back); err != nil || back.Message == "" {
		t.Errorf("%v: %q", err, back.Message)
	}
}

// value returns the one text of a query.
func value(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) (text string) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&text); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return text
}
