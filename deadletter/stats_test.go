package deadletter_test

import (
	"encoding/json"
	"maps"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/deadwrite"
	"soniq/internal/testdb"
)

func TestQueue_Stats_countsWithinTheWindow(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	now := value[time.Time](t, pool, "select now()").UTC()
	ago := func(d time.Duration, c columns) uuid.UUID {
		row := columns{"moved_to_dead_letter_at": now.Add(-d)}
		maps.Copy(row, c)
		return insertDead(t, pool, row)
	}
	ago(time.Hour, columns{"job_name": "a", "queue": "", "dead_letter_reason": "timeout"})
	ago(2*time.Hour, columns{"job_name": "a"})
	ago(100*time.Hour, columns{"job_name": "b", "queue": "q"})
	ago(1000*time.Hour, columns{"state": "resolved"})

	day := func(d time.Duration) string { return now.Add(-d).Format(time.DateOnly) }
	s, err := q.Stats(t.Context(), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	byDate := map[string]int64{}
	byDate[day(time.Hour)]++
	byDate[day(2*time.Hour)]++
	if s.Total != 2 ||
		!maps.Equal(s.ByJob, map[string]int64{"a": 2}) ||
		!maps.Equal(s.ByQueue, map[string]int64{"": 1, "default": 1}) ||
		!maps.Equal(s.ByReason, map[classify.Reason]int64{classify.Timeout: 1, classify.MaxRetriesExceeded: 1}) ||
		!maps.Equal(s.ByState, map[deadletter.State]int64{"dead": 2}) ||
		!maps.Equal(s.ByDate, byDate) {
		t.Errorf("within a day: %+v", s)
	}
	if s.OldestAge < 100*time.Hour || s.OldestAge > 101*time.Hour || s.OldestAgeHours != s.OldestAge.Hours() {
		t.Errorf("the oldest is %s old, want 100 h", s.OldestAge)
	}

	all, err := q.Stats(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if all.Total != 4 || len(all.ByJob) != 3 || !maps.Equal(all.ByState, map[deadletter.State]int64{"dead": 3, "resolved": 1}) || all.ByDate[day(1000*time.Hour)] != 1 {
		t.Errorf("all: %+v", all)
	}
	if _, err := q.Stats(t.Context(), -1); err == nil {
		t.Error("took a negative window")
	}
}

func TestQueue_Stats_ofNothingAreZero(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	const want = `{"total_count":0,"by_job_name":{},"by_queue":{},"by_reason":{},"by_state":{},"by_date":{},"oldest_job_age_hours":0,"replays_finished":0,"replay_success_rate":0}`
	s, err := q.Stats(t.Context(), 0)
	if err != nil || jsonOf(t, s) != want {
		t.Errorf("%s, %v", jsonOf(t, s), err)
	}
	// Outside of the window, but still the oldest.
	insertDead(t, pool, columns{"moved_to_dead_letter_at": time.Now().Add(-48 * time.Hour)})
	s, err = q.Stats(t.Context(), time.Hour)
	if err != nil || s.Total != 0 || s.OldestAge < 47*time.Hour {
		t.Errorf("%+v, %v", s, err)
	}
	if !json.Valid([]byte(jsonOf(t, s))) {
		t.Error("no JSON")
	}
}

func TestQueue_Stats_rateIsOfFinishedReplays(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	worker := insertWorker(t, pool)
	replay := func(id uuid.UUID) uuid.UUID {
		job, err := q.Replay(t.Context(), id, deadletter.ReplayOptions{})
		if err != nil {
			t.Fatal(err)
		}
		exec(t, pool, "update soniq_jobs set status = 'processing', worker_id = $2, attempts = 3, claim_token = 7 where id = $1", job, worker)
		return job
	}
	check := func(when string, finished int64, rate float64) {
		t.Helper()
		s, err := q.Stats(t.Context(), 0)
		if err != nil || s.ReplaysFinished != finished || s.ReplaySuccessRate != rate {
			t.Errorf("%s: %d finished, rate %v, %v; want %d, %v", when, s.ReplaysFinished, s.ReplaySuccessRate, err, finished, rate)
		}
	}
	insertDead(t, pool, nil) // never replayed
	good, bad := insertDead(t, pool, nil), insertDead(t, pool, nil)

	goodJob, badJob := replay(good), replay(bad)
	check("both running", 0, 0)
	exec(t, pool, "update soniq_jobs set status = 'done' where id = $1", goodJob)
	check("one done", 1, 1)
	if _, err := deadwrite.Move(t.Context(), pool, worker, []deadwrite.Death{death(badJob)}); err != nil {
		t.Fatal(err)
	}
	check("one dead", 2, 0.5)
	againJob := replay(badJob)
	check("one again", 2, 0.5)
	exec(t, pool, "update soniq_jobs set status = 'done' where id = $1", againJob)
	if j := get(t, q, bad); j.State != deadletter.StateResolved {
		t.Errorf("the first of the lineage is %s", j.State)
	}
	check("two of three", 3, 2.0/3)
}
