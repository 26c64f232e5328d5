package deadletter_test

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/testdb"
)

func TestQueue_Lineage_tellsBothWays(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	root := insertDead(t, pool, nil)
	var jobs []uuid.UUID
	replay := func(id uuid.UUID) uuid.UUID {
		t.Helper()
		job, err := q.Replay(t.Context(), id, deadletter.ReplayOptions{Force: true})
		if err != nil {
			t.Fatal(err)
		}
		return job
	}
	jobs = append(jobs, replay(root))
	endReplays(t, pool, false)
	child := jobs[0]
	jobs = append(jobs, replay(root))
	endReplays(t, pool, true)
	jobs = append(jobs, replay(root))
	grandchild := replay(child)
	exec(t, pool, "delete from soniq_jobs where id = $1", jobs[1])

	outcomes := func(id uuid.UUID) (ids []uuid.UUID, outcomes []deadletter.Outcome) {
		t.Helper()
		l, err := q.Lineage(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range l.Replays {
			ids, outcomes = append(ids, r.JobID), append(outcomes, r.Outcome)
			if r.At == nil {
				t.Errorf("%s has no time", r.JobID)
			}
		}
		return ids, outcomes
	}
	ids, ends := outcomes(root)
	if want := []deadletter.Outcome{deadletter.OutcomeDied, deadletter.OutcomeGone, deadletter.OutcomeQueued}; !slices.Equal(ids, jobs) || !slices.Equal(ends, want) {
		t.Errorf("replays of the first: %v %v, want %v %v", ids, ends, jobs, want)
	}
	// A success whose row is gone is known by the state.
	exec(t, pool, "update soniq_jobs set status = 'done' where id = $1", grandchild)
	exec(t, pool, "delete from soniq_jobs where id = $1", grandchild)
	if _, ends := outcomes(child); !slices.Equal(ends, []deadletter.Outcome{deadletter.OutcomeDone}) {
		t.Errorf("replays of the second: %v", ends)
	}
	last := insertDead(t, pool, columns{"replay_of": child})
	if l, err := q.Lineage(t.Context(), last); err != nil || !slices.Equal(l.Ancestors, []uuid.UUID{child, root}) {
		t.Errorf("ancestors %v, %v", l.Ancestors, err)
	}
	// A circle, made by hand, ends.
	exec(t, pool, "update soniq_dead_letter_jobs set replay_of = $1 where id = $2", last, root)
	if l, err := q.Lineage(t.Context(), last); err != nil || len(l.Ancestors) != 100 {
		t.Errorf("%d ancestors in a circle, %v", len(l.Ancestors), err)
	}
}
