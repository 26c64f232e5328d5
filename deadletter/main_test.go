package deadletter_test

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/testclient"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// newQueue returns the dead-letter queue of a test's database.
var newQueue = testclient.Queue

// columns are the values of a row to insert.
type columns map[string]any

// insertDead inserts a dead letter with these columns over some defaults, which
// are the ones that Python Soniq fills.
func insertDead(t testing.TB, pool *pgxpool.Pool, c columns) uuid.UUID {
	t.Helper()
	return insert(t, pool, "soniq_dead_letter_jobs", columns{
		"job_name":                "emails.send",
		"args":                    `{"user_id": 42}`,
		"queue":                   "default",
		"priority":                100,
		"max_attempts":            3,
		"attempts":                3,
		"last_error":              "connection refused",
		"dead_letter_reason":      "max_retries_exceeded",
		"original_created_at":     time.Now().Add(-time.Hour),
		"moved_to_dead_letter_at": time.Now(),
	}, c)
}

// insertJob inserts a queued job.
func insertJob(t testing.TB, pool *pgxpool.Pool, c columns) uuid.UUID {
	t.Helper()
	return insert(t, pool, "soniq_jobs", columns{"job_name": "emails.send", "args": `{}`}, c)
}

// fill inserts n dead letters, a second apart and the first one the oldest, in
// one statement and without announcing them.
func fill(t testing.TB, pool *pgxpool.Pool, n int) {
	t.Helper()
	const sql = `
		with quiet as (select set_config('soniq.notify', 'off', true))
		insert into soniq_dead_letter_jobs (
		  id, job_name, args, queue, priority, max_attempts, attempts, last_error,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at
		)
		select
		  gen_random_uuid(), 'bulk', jsonb_build_object('n', n), 'default', 100, 3, 3, 'error ' || n,
		  'max_retries_exceeded', now() - interval '1 year', now() - interval '100 days' + n * interval '1 second'
		from quiet, generate_series(1, $1) n`
	exec(t, pool, sql, n)
}

func insert(t testing.TB, pool *pgxpool.Pool, table string, defaults, c columns) uuid.UUID {
	t.Helper()
	row := columns{"id": uuid.New()}
	maps.Copy(row, defaults)
	maps.Copy(row, c)
	names := slices.Sorted(maps.Keys(row))
	places, values := make([]string, len(names)), make([]any, len(names))
	for i, name := range names {
		places[i], values[i] = "$"+strconv.Itoa(i+1), row[name]
	}
	exec(t, pool, "insert into "+table+" ("+strings.Join(names, ", ")+") values ("+strings.Join(places, ", ")+")", values...)
	return row["id"].(uuid.UUID)
}

// exec runs a statement.
var exec = testkit.Exec

// value returns the one value of a query.
func value[T any](t testing.TB, pool *pgxpool.Pool, sql string, args ...any) T {
	t.Helper()
	return testkit.Value[T](t, pool, sql, args...)
}

func get(t testing.TB, q *deadletter.Queue, id uuid.UUID) deadletter.Job {
	t.Helper()
	j, err := q.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func idsOf(jobs []deadletter.Job) []uuid.UUID {
	ids := make([]uuid.UUID, len(jobs))
	for i, j := range jobs {
		ids[i] = j.ID
	}
	return ids
}

// within returns a context for what must happen soon.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func jsonOf(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func ptr[T any](v T) *T { return &v }
