package deadletter_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// A Look that reads everything finds what List finds, and a series of small ones as well.
func TestLook_findsWhatListFinds(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	random := testkit.Rand(t)
	pick := func(values ...string) string { return values[random.IntN(len(values))] }
	for i := range 200 {
		insertDead(t, pool, columns{
			"job_name": pick("a", "b"), "queue": pick("q", "r"), "dead_letter_reason": pick("timeout", "permanent_failure"), "state": pick("dead", "resolved"),
			"last_error": pick("one", "two"), "fingerprint": pick("f", "g"), "moved_to_dead_letter_at": noon.Add(time.Duration(i/3) * time.Second), "args": pick(`{"n": "Abc"}`, `{}`),
		})
	}
	maybe := func(s string) []string {
		if random.IntN(2) == 0 {
			return nil
		}
		return []string{s}
	}
	for range 100 {
		f := deadletter.Filter{JobNames: maybe("a"), Queues: maybe("q"), Groups: maybe("f"), Limit: 500}
		for _, r := range maybe("timeout") {
			f.Reasons = []classify.Reason{classify.Reason(r)}
		}
		f.State, f.ErrorLike, f.Text = deadletter.State(pick("", "dead", "resolved")), pick("", "", "ONE"), pick("", "", "aBC")
		if random.IntN(3) == 0 {
			f.From, f.To = noon.Add(5*time.Second), noon.Add(50*time.Second)
		}
		want, err := q.List(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		var got []uuid.UUID
		rows, after := 1+random.IntN(80), deadletter.Cursor{}
		for {
			l, err := q.Look(t.Context(), f, after, rows)
			if err != nil {
				t.Fatal(err)
			}
			if l.Count != len(l.Jobs) || l.Read > rows {
				t.Fatalf("%+v: counts %d of %d, read %d of %d", f, l.Count, len(l.Jobs), l.Read, rows)
			}
			got = append(got, idsOf(l.Jobs)...)
			if after = l.End; l.Whole {
				break
			}
		}
		if jsonOf(t, got) != jsonOf(t, idsOf(want)) && len(got)+len(want) > 0 {
			t.Fatalf("%+v, %d rows at once: found %d, want %d", f, rows, len(got), len(want))
		}
	}
}

func TestRecent_groupsOfTheNewest(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	fill(t, pool, 50)
	recent, whole, err := q.Recent(t.Context(), deadletter.Filter{}, 20)
	if err != nil || whole {
		t.Fatalf("whole %v, %v", whole, err)
	}
	if n, err := q.Count(t.Context(), recent); err != nil || n != 19 {
		t.Errorf("%d of the newest 20, %v", n, err)
	}
	if _, whole, err := q.Recent(t.Context(), deadletter.Filter{}, 60); err != nil || !whole {
		t.Errorf("of all: whole %v, %v", whole, err)
	}
	// All of one moment can't be divided by it.
	testkit.Exec(t, pool, `update soniq_dead_letter_jobs set moved_to_dead_letter_at = '2026-01-01'`)
	recent, _, err = q.Recent(t.Context(), deadletter.Filter{}, 20)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := q.Count(t.Context(), recent); err != nil || n != 50 {
		t.Errorf("of one moment: %d, %v", n, err)
	}
}
