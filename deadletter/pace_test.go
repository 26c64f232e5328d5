package deadletter

import (
	"testing"

	"golang.org/x/time/rate"

	"soniq/internal/testdb"
)

// Two processes may continue one operation. Each waits for what both have taken.
func TestReplayRun_twoAtOnce_keepOneRate(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	const fill = `
		insert into soniq_dead_letter_jobs (
		  id, job_name, args, queue, priority, max_attempts, attempts,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at
		)
		select gen_random_uuid(), 'job', '{}', 'q', 100, 3, 3, 'timeout', now(), now() - n * interval '1 second'
		from generate_series(1, 100) n`
	if _, err := pool.Exec(t.Context(), "set soniq.notify = off; "+fill); err != nil {
		t.Fatal(err)
	}
	q, err := NewQueue(pool, QueueConfig{})
	if err != nil {
		t.Fatal(err)
	}
	// Nothing is waited for: what the limiter lacks says what it has counted.
	const batch, never = 10, 1e-9
	first := q.newReplayRun(nil)
	if err := first.start(t.Context(), Filter{All: true}, replayOrder{Pace: Pace{Rate: never}}); err != nil {
		t.Fatal(err)
	}
	second := q.newReplayRun(nil)
	if err := second.load(t.Context(), first.op.ID); err != nil {
		t.Fatal(err)
	}
	took := func(r *replayRun, rows int) {
		t.Helper()
		if made, _, err := r.batch(t.Context(), rows); err != nil || len(made) != rows {
			t.Fatalf("replayed %d of %d, %v", len(made), rows, err)
		}
	}
	took(first, batch)
	took(second, batch)
	took(first, batch)
	took(first, batch)
	took(second, batch/2)
	if first.others != batch || second.others != 3*batch {
		t.Errorf("others took %d and %d, want %d and %d", first.others, second.others, batch, 3*batch)
	}
	// The wait is for all of them.
	first.limiter = rate.NewLimiter(rate.Limit(never), 2*batch)
	if err := first.wait(t.Context(), batch); err != nil || first.others != 0 || first.limiter.Tokens() >= 1 {
		t.Errorf("%v, %d are owed and %v left", err, first.others, first.limiter.Tokens())
	}
}
