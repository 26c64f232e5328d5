package deadletter

import (
	"testing"

	"github.com/google/uuid"

	"soniq/internal/replaysql"
	"soniq/internal/testdb"
)

// Programs of both releases count the same replays.
func TestReplaysOf_chains_areWhatTheFunctionCounts(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	var last *uuid.UUID
	const insert = `
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at, replay_of, resurrection_count)
		values ($1, 'n', '{}', 'q', 100, 3, 3, 'timeout', now(), now(), $2, $3)`
	for i := range 120 {
		id := uuid.New()
		var count *int
		switch {
		case i%7 == 3:
		case i == 119:
			count = new(2147483647)
		default:
			count = new(i % 3)
		}
		if _, err := pool.Exec(t.Context(), insert, id, last, count); err != nil {
			t.Fatal(err)
		}
		last = &id
	}
	// One that comes from nowhere, and two that come from each other.
	one, two := uuid.New(), uuid.New()
	for id, parent := range map[uuid.UUID]uuid.UUID{uuid.New(): uuid.New(), one: two, two: one} {
		if _, err := pool.Exec(t.Context(), insert, id, parent, 1); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := pool.Query(t.Context(), `select d.id, `+replaysql.ReplaysOf("d.id")+`, soniq_dead_letter_replays(d.id) from soniq_dead_letter_jobs d`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var id uuid.UUID
		var got, want int
		if err := rows.Scan(&id, &got, &want); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s: %d, the function says %d", id, got, want)
		}
		n++
	}
	if rows.Err() != nil || n != 123 {
		t.Errorf("%d rows, %v", n, rows.Err())
	}
}
