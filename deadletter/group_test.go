package deadletter_test

import (
	"slices"
	"testing"
	"time"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/testdb"
)

func TestQueue_Groups_countsEachCauseOnce(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	if groups, err := q.Groups(t.Context(), deadletter.Filter{}); err != nil || len(groups) != 0 {
		t.Errorf("of nothing: %v, %v", groups, err)
	}
	now := time.Now()
	for i, state := range []string{"dead", "dead", "replaying", "resolved"} {
		insertDead(t, pool, columns{"fingerprint": "aaaaaaaaaaaaaaaa", "state": state, "moved_to_dead_letter_at": now.Add(-time.Duration(i)*time.Hour - time.Minute)})
	}
	newest := insertDead(t, pool, columns{"fingerprint": "aaaaaaaaaaaaaaaa", "last_error": "the newest", "dead_letter_reason": "timeout"})
	insertDead(t, pool, columns{"fingerprint": "bbbbbbbbbbbbbbbb", "job_name": "other", "moved_to_dead_letter_at": now.Add(-25 * time.Hour)})
	groups, err := q.Groups(t.Context(), deadletter.Filter{})
	if err != nil || len(groups) != 2 {
		t.Fatalf("%+v, %v", groups, err)
	}
	g := groups[0]
	if g.ID != "aaaaaaaaaaaaaaaa" || g.Count != 5 || g.Dead != 3 || g.Replaying != 1 || g.Resolved != 1 ||
		g.SampleID != newest || g.SampleError != "the newest" || g.LastSeen.Sub(g.FirstSeen) < 3*time.Hour ||
		!slices.Equal(g.Jobs, []string{"emails.send"}) || !slices.Equal(g.Reasons, []classify.Reason{"max_retries_exceeded", "timeout"}) {
		t.Errorf("the larger group: %+v", g)
	}
	if len(g.Trend) != deadletter.TrendHours || !slices.Equal(g.Trend[20:], []int64{1, 1, 1, 2}) || slices.Max(g.Trend[:20]) != 0 {
		t.Errorf("its trend: %v", g.Trend)
	}
	if other := groups[1]; other.ID != "bbbbbbbbbbbbbbbb" || other.Count != 1 || slices.Max(other.Trend) != 0 {
		t.Errorf("the smaller group: %+v", other)
	}
	if one, err := q.Groups(t.Context(), deadletter.Filter{Limit: 1}); err != nil || len(one) != 1 || one[0].ID != g.ID {
		t.Errorf("limited: %+v, %v", one, err)
	}
	// The sample is one that the filter picks.
	narrow, err := q.Groups(t.Context(), deadletter.Filter{ErrorLike: "refused", Groups: []string{g.ID}})
	if err != nil || len(narrow) != 1 || narrow[0].Count != 4 || narrow[0].SampleError != "connection refused" {
		t.Errorf("narrowed: %+v, %v", narrow, err)
	}
}

// Rows of other programs, which write no fingerprint, have groups too: what
// differs in ids and numbers alone is alike.
func TestQueue_Groups_withoutFingerprint_goByJobReasonAndError(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	for _, c := range []columns{
		{"last_error": "ValueError: order 1234 of 01890a5d-ac96-774b-bcce-b302099a8057 is bad\n  at line 7"},
		{"last_error": "ValueError: order 7 of 01890a5d-ac96-774b-bcce-b302099a8058 is bad\n  at line 9"},
		{"last_error": "KeyError: name"},
		{"last_error": "KeyError: name", "job_name": "other"},
		{"last_error": "KeyError: name", "dead_letter_reason": "timeout"},
		{"last_error": nil},
	} {
		insertDead(t, pool, c)
	}
	groups, err := q.Groups(t.Context(), deadletter.Filter{})
	if err != nil || len(groups) != 5 || groups[0].Count != 2 {
		t.Fatalf("%+v, %v", groups, err)
	}
	for _, g := range groups {
		if len(g.ID) != 16 {
			t.Errorf("group %q", g.ID)
		}
		jobs, err := q.List(t.Context(), deadletter.Filter{Groups: []string{g.ID}})
		if err != nil || int64(len(jobs)) != g.Count || jobs[0].ID != g.SampleID {
			t.Errorf("the filter on %+v: %d, %v", g, len(jobs), err)
		}
	}
	if n, err := q.DeleteAll(t.Context(), deadletter.Filter{Groups: []string{groups[0].ID}}); n != 2 || err != nil {
		t.Errorf("deleted %d, %v", n, err)
	}
}

// Hostile texts must not fail the index, and with it the death itself.
func TestGroupKey_anyText_isAKey(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	long := make([]byte, 1<<20)
	for i := range long {
		long[i] = "0123456789abcdef- \n"[i*7%19]
	}
	for _, text := range []string{"", "\n\n", "é\u2028日本", string(long), `\`, "(((", "00000000"} {
		insertDead(t, pool, columns{"last_error": text, "job_name": text[:min(len(text), 100)]})
	}
	groups, err := q.Groups(t.Context(), deadletter.Filter{})
	if err != nil || len(groups) == 0 {
		t.Fatalf("%v, %v", groups, err)
	}
}
