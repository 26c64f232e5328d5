package deadletter_test

import (
	"testing"
	"time"

	"soniq/deadletter"
	"soniq/internal/testdb"
)

func TestQueue_Backlog_countsAndFindsTheOldest(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	measure := func(f deadletter.Filter) deadletter.Backlog {
		t.Helper()
		b, err := q.Backlog(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if b := measure(deadletter.Filter{State: deadletter.StateDead}); b != (deadletter.Backlog{}) {
		t.Errorf("of an empty table: %+v", b)
	}
	now := value[time.Time](t, pool, "select now()")
	ago := func(d time.Duration, state, queue string) { // a second's part of it may pass meanwhile
		insertDead(t, pool, columns{"moved_to_dead_letter_at": now.Add(-d), "state": state, "queue": queue})
	}
	ago(100*time.Hour, "resolved", "a")
	ago(50*time.Hour, "replaying", "a")
	ago(10*time.Hour, "dead", "a")
	ago(2*time.Hour, "dead", "b")
	ago(-time.Hour, "dead", "c") // the clock was set back

	for name, tt := range map[string]struct {
		filter deadletter.Filter
		count  int64
		age    time.Duration
	}{
		"all":       {deadletter.Filter{}, 5, 100 * time.Hour},
		"dead":      {deadletter.Filter{State: deadletter.StateDead}, 3, 10 * time.Hour},
		"replaying": {deadletter.Filter{State: deadletter.StateReplaying}, 1, 50 * time.Hour},
		"resolved":  {deadletter.Filter{State: deadletter.StateResolved}, 1, 100 * time.Hour},
		"a queue":   {deadletter.Filter{State: deadletter.StateDead, Queues: []string{"b"}}, 1, 2 * time.Hour},
		"limited":   {deadletter.Filter{Limit: 2}, 2, 100 * time.Hour},
		"none":      {deadletter.Filter{Queues: []string{"d"}}, 0, 0},
	} {
		b := measure(tt.filter)
		if b.Count != tt.count || b.OldestAge < tt.age || b.OldestAge > tt.age+time.Hour || (b.OldestID == nil) != (tt.count == 0) {
			t.Errorf("%s: %+v, want %d, %s", name, b, tt.count, tt.age)
		}
	}
	if b := measure(deadletter.Filter{Queues: []string{"c"}}); b.Count != 1 || b.OldestAge != 0 {
		t.Errorf("of the future: %+v", b)
	}
	exec(t, pool, `update soniq_dead_letter_jobs set moved_to_dead_letter_at = '-infinity' where queue = 'b'`)
	if b := measure(deadletter.Filter{Queues: []string{"b"}}); b.Count != 1 || b.OldestAge < 200*365*24*time.Hour {
		t.Errorf("since ever: %+v", b)
	}
	if _, err := q.Backlog(t.Context(), deadletter.Filter{State: "zombie"}); err == nil {
		t.Error("took an unknown state")
	}
}
