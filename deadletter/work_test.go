package deadletter_test

import (
	"testing"

	"soniq/deadletter"
	"soniq/internal/testdb"
)

// A piece of work: its death, and those of its replays. $1 is how often the first one
// was replayed, by a replay each that died. The last two are replays of the last.
const workSQL = `
insert into soniq_dead_letter_jobs (
  id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason,
  original_created_at, moved_to_dead_letter_at, fingerprint, replay_of, replay_job_id, state
)
select
  ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 'job', '{}', 'q', 1, 3, 3, 'timeout',
  now(), now() - (10 - n) * interval '1 hour', 'f',
  ('00000000-0000-0000-0000-' || lpad(of::text, 12, '0'))::uuid,
  ('00000000-0000-0000-0000-' || lpad(by::text, 12, '0'))::uuid, state
from (values
  -- Replayed three times: each replay died.
  (1, null, 4, 'dead'), (2, 1, null, 'dead'), (3, 1, null, 'dead'), (4, 1, 5, 'dead'),
  -- The last of them was replayed, and died again.
  (5, 4, null, 'dead'),
  -- Never replayed.
  (6, null, null, 'dead'),
  -- Replayed; the replay's own dead letter was deleted.
  (7, null, 99, 'dead'),
  -- Being replayed again, after one replay that died.
  (8, null, 98, 'replaying'), (9, 8, null, 'dead')
) as w (n, of, by, state)`

// A monitor's count does not grow with each try to mend: the work counts, not its
// deaths.
func TestQueue_countsWork_notTries(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	if _, err := pool.Exec(t.Context(), workSQL); err != nil {
		t.Fatal(err)
	}
	const want = 3 // 5, 6 and 7
	for _, limit := range []int{0, 2, 4, 100} {
		b, err := q.Backlog(t.Context(), deadletter.Filter{State: deadletter.StateDead, Limit: limit})
		if most := int64(limit); err != nil || b.Count != want && b.Count != most || limit == 0 && b.Count != want {
			t.Errorf("backlog, limit %d: %+v, %v", limit, b, err)
		} else if b.OldestID == nil || b.OldestID[15] != 5 {
			t.Errorf("the oldest is %v", b.OldestID)
		}
	}
	if b, err := q.Backlog(t.Context(), deadletter.Filter{}); err != nil || b.Count != 9 {
		t.Errorf("backlog of all states: %+v, %v", b, err)
	}
	s, err := q.Stats(t.Context(), 0)
	if err != nil || s.ByState[deadletter.StateDead] != want || s.ByState[deadletter.StateSuperseded] != 5 || s.ByState[deadletter.StateReplaying] != 1 || s.Total != 9 {
		t.Errorf("stats: %+v, %v", s, err)
	}
	groups, err := q.Groups(t.Context(), deadletter.Filter{JobNames: []string{"job"}})
	if err != nil || len(groups) != 1 || groups[0].Dead != want || groups[0].Superseded != 5 || groups[0].Count != 9 {
		t.Errorf("groups: %+v, %v", groups, err)
	}
	// Nor is it replayed more than once.
	if n, err := q.ReplayCount(t.Context(), deadletter.Filter{}, deadletter.ReplayOptions{}); err != nil || n != want {
		t.Errorf("a bulk replay takes %d, %v", n, err)
	}
}
