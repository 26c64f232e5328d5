package deadletter_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/argshash"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// pick is one of some values.
func pick[T any](r *rand.Rand, values ...T) T { return values[r.IntN(len(values))] }

var (
	someNames   = []string{"mail.send", "mail.send_all", "Mail", "sync", "s*nc", "a_b", "a%b", `back\slash`}
	someErrors  = []string{"connection refused", "Connection Refused by 10.0.0.1", "100% full", "under_score", `back\slash`, ""}
	someReasons = []classify.Reason{classify.Timeout, classify.MaxRetriesExceeded, "of_another_program"}
	someStates  = []deadletter.State{deadletter.StateDead, deadletter.StateReplaying, deadletter.StateResolved}
	somePieces  = []string{"a", "mail", "send", "*", "?", "_", "%", `\`, "mail.*", "*a*", "m?il*", "nobody", "REFUSED", "s*nc"}
	someGroups  = []string{"00000000000000aa", "00000000000000bb", "nobody"}
)

// population fills the table with rows of every kind, many of them with equal
// times.
func population(t testing.TB, pool *pgxpool.Pool, r *rand.Rand, n int) {
	t.Helper()
	for range n {
		c := columns{
			"job_name": pick(r, someNames...), "queue": pick(r, "default", "slow"),
			"dead_letter_reason": string(pick(r, someReasons...)), "state": pick(r, "dead", "dead", "dead", "replaying", "resolved"),
			"last_error": pick(r, someErrors...), "moved_to_dead_letter_at": noon.Add(time.Duration(r.IntN(12)) * time.Hour),
			"resurrection_count": r.IntN(3), "fingerprint": pick(r, ptr(someGroups[0]), ptr(someGroups[1]), nil),
			"tags": pick(r, ptr(`{"team": "a"}`), ptr(`{"team": "b", "n": 1}`), ptr(`"{\"team\": \"a\"}"`), nil),
		}
		if r.IntN(4) == 0 {
			c["dedup_key"] = pick(r, "k1", "k2", "queued")
		}
		if r.IntN(4) == 0 {
			c["unique_job"], c["args_hash"] = true, pick(r, "h1", "h2", "queued")
		}
		insertDead(t, pool, c)
	}
}

// anyFilter is a filter with some conditions; all of its fields come up.
func anyFilter(r *rand.Rand) deadletter.Filter {
	f := deadletter.Filter{All: true}
	for range 1 + r.IntN(3) {
		switch r.IntN(11) {
		case 0:
			f.JobNames = append(f.JobNames, pick(r, someNames...))
		case 1:
			f.Queues = append(f.Queues, pick(r, "default", "slow", "none"))
		case 2:
			f.NameLike = pick(r, somePieces...)
		case 3:
			f.Reasons = append(f.Reasons, pick(r, someReasons...))
		case 4:
			f.From = noon.Add(time.Duration(r.IntN(6)) * time.Hour)
		case 5:
			f.To = noon.Add(time.Duration(6+r.IntN(6)) * time.Hour)
		case 6:
			f.Tags = map[string]string{"team": pick(r, "a", "b")}
		case 7:
			f.State = pick(r, someStates...)
		case 8:
			f.Groups = append(f.Groups, pick(r, someGroups...))
		case 9:
			f.ErrorLike = pick(r, somePieces...)
		default:
			f.Replayed = ptr(r.IntN(2) == 0)
		}
	}
	if r.IntN(2) == 0 {
		f.Limit = 1 + r.IntN(12)
	}
	return f
}

// means says in Go what a filter means; the packages under test say it in SQL.
func means(f deadletter.Filter, j deadletter.Job) bool {
	in := func(values []string, s string) bool { return values == nil || slices.Contains(values, s) }
	name := true
	if strings.ContainsAny(f.NameLike, "*?") {
		pattern := strings.NewReplacer(`\*`, "(?s:.*)", `\?`, "(?s:.)").Replace(regexp.QuoteMeta(f.NameLike))
		name = regexp.MustCompile("^" + pattern + "$").MatchString(j.JobName)
	} else if f.NameLike != "" {
		name = strings.Contains(j.JobName, f.NameLike)
	}
	team, wanted := f.Tags["team"]
	return name && in(f.JobNames, j.JobName) && in(f.Queues, j.Queue) &&
		(f.Reasons == nil || slices.Contains(f.Reasons, j.Reason)) &&
		(f.From.IsZero() || !j.MovedAt.Before(f.From)) && (f.To.IsZero() || !j.MovedAt.After(f.To)) &&
		(!wanted || strings.Contains(string(j.Tags), fmt.Sprintf(`"team": %q`, team))) &&
		(f.State == "" || j.State == f.State) && in(f.Groups, j.Fingerprint) &&
		strings.Contains(strings.ToLower(j.LastError), strings.ToLower(f.ErrorLike)) &&
		(f.Replayed == nil || *f.Replayed == (j.ResurrectionCount > 0))
}

// What a preview says is what the verb then does, for every verb and any
// filter; and a filter picks what it means.
func TestFilter_anyFilter_previewIsTheEffect(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	r := testkit.Rand(t)
	population(t, pool, r, 70)
	exec(t, pool, "create table saved as select * from soniq_dead_letter_jobs")
	queuedArgs, err := argshash.Sum([]byte(`{"user_id": 1}`))
	if err != nil {
		t.Fatal(err)
	}
	restore := func() {
		exec(t, pool, "truncate soniq_dead_letter_jobs, soniq_jobs")
		exec(t, pool, "insert into soniq_dead_letter_jobs select * from saved")
		insertJob(t, pool, columns{"dedup_key": "queued"})
		for _, name := range someNames {
			insertJob(t, pool, columns{"job_name": name, "unique_job": true, "args_hash": "queued"})
			insertJob(t, pool, columns{"job_name": name, "unique_job": true, "args_hash": queuedArgs})
		}
	}
	everything, err := q.List(t.Context(), deadletter.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	restore()
	matched := 0
	for i := 0; i < testkit.Size(12, 40) || matched < 40 && i < 400; i++ {
		f := anyFilter(r)
		var want []uuid.UUID
		for _, j := range everything {
			if means(f, j) && (f.Limit == 0 || len(want) < f.Limit) {
				want = append(want, j.ID)
			}
		}
		matched += len(want)
		wantSize := func(what string, n int64, err error) {
			t.Helper()
			if err != nil || n != int64(len(want)) {
				t.Errorf("%s of %+v: %d, %v; want %d", what, f, n, err, len(want))
			}
		}
		shown, err := q.List(t.Context(), f)
		if err != nil || !slices.Equal(idsOf(shown), want) {
			t.Errorf("list of %+v: %v, %v; want %v", f, idsOf(shown), err, want)
		}
		n, err := q.Count(t.Context(), f)
		wantSize("count", n, err)
		n, err = q.Export(t.Context(), io.Discard, f, deadletter.FormatJSONL)
		wantSize("export", n, err)
		paged := pagesOf(t, q, f, 3)
		if f.Limit == 0 && !slices.Equal(paged, want) {
			t.Errorf("pages of %+v: %v, want %v", f, paged, want)
		}

		if f.Limit == 0 {
			n = 0
			groups, err := q.Groups(t.Context(), f)
			for _, g := range groups {
				of := f
				of.Groups = []string{g.ID}
				if f.Groups == nil {
					if count, err := q.Count(t.Context(), of); count != g.Count || err != nil {
						t.Errorf("group %s of %+v: %d, %v; the filter picks %d", g.ID, f, g.Count, err, count)
					}
				}
				n += g.Count
			}
			wantSize("groups", n, err)
		}

		preview, err := q.ReplayCount(t.Context(), f, deadletter.ReplayOptions{})
		if err != nil {
			t.Fatal(err)
		}
		first, err := q.ReplayList(t.Context(), f, deadletter.ReplayOptions{}, 1000)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := q.PlanReplay(t.Context(), f, deadletter.ReplayOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var result deadletter.ReplayResult
		err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) (err error) {
			result, err = q.ReplayAllTx(t.Context(), tx, f, deadletter.ReplayAllOptions{})
			return err
		})
		if plan.Picked != preview || plan.Replay != int64(len(result.Replayed)) || plan.Duplicates != result.Operation.Skipped {
			t.Errorf("replay of %+v: planned %+v, replayed %d, skipped %d", f, plan, len(result.Replayed), result.Operation.Skipped)
		}
		if f.Limit == 0 && plan.Picked+plan.Replaying+plan.Resolved+plan.Superseded+plan.OutcomeUnknown+plan.Exhausted+plan.LongQueue != int64(len(want)) {
			t.Errorf("replay of %+v: the plan %+v does not account for all %d", f, plan, len(want))
		}
		if err != nil || preview != int64(len(result.Replayed))+result.Operation.Skipped || preview != int64(len(first)) {
			t.Errorf("replay of %+v: counted %d, listed %d, replayed %d, skipped %d, %v", f, preview, len(first), len(result.Replayed), result.Operation.Skipped, err)
		}
		restore()

		limited := deadletter.ReplayOptions{MaxReplays: 2}
		if r.IntN(2) == 0 {
			// All of one name become equal, and some equal to a queued job.
			limited.Edits = []deadletter.ArgsEdit{{Path: "user_id", Value: []byte(pick(r, "1", "2", "42"))}}
		}
		if plan, err = q.PlanReplay(t.Context(), f, limited); err != nil {
			t.Fatal(err)
		}
		run, err := q.ReplayAll(t.Context(), f, deadletter.ReplayAllOptions{ReplayOptions: limited})
		op := run.Operation
		if err != nil || op.Total != plan.Picked || op.Done != plan.Replay || op.Skipped != plan.Duplicates {
			t.Errorf("replay of %+v as an operation: planned %+v, did %+v, %v", f, plan, op, err)
		}
		restore()

		n, err = q.DeleteAll(t.Context(), f)
		wantSize("delete", n, err)
		for _, j := range everything {
			_, err := q.Get(t.Context(), j.ID)
			if gone := err != nil; gone != slices.Contains(want, j.ID) {
				t.Errorf("delete of %+v: %s gone is %v", f, j.ID, gone)
			}
		}
		restore()

		// The older half, whatever the clock of this machine says.
		middle := noon.Add(6*time.Hour + 30*time.Minute)
		age := max(time.Since(middle), time.Second)
		var old []uuid.UUID
		for _, j := range slices.Backward(everything) {
			if means(f, j) && j.MovedAt.Before(time.Now().Add(-age)) && j.State != deadletter.StateReplaying && (f.Limit == 0 || len(old) < f.Limit) {
				old = append(old, j.ID)
			}
		}
		if f.State == deadletter.StateReplaying {
			if _, err := q.CleanupCount(t.Context(), age, f); err == nil {
				t.Errorf("cleanup of %+v is counted", f)
			}
			continue
		}
		counted, err := q.CleanupCount(t.Context(), age, f)
		if err != nil || counted != int64(len(old)) {
			t.Errorf("cleanup of %+v: counted %d, %v; want %d", f, counted, err, len(old))
		}
		archive := &inMemory{}
		wantCleaned := func(n int64, err error) {
			t.Helper()
			left, listErr := q.List(t.Context(), deadletter.Filter{})
			// Of those that died in one moment, a limit takes any.
			kept := func(id uuid.UUID) bool { return f.Limit == 0 && slices.Contains(old, id) }
			if err != nil || listErr != nil || n != counted || len(left) != len(everything)-len(old) || slices.ContainsFunc(idsOf(left), kept) {
				t.Errorf("cleanup of %+v: counted %d, deleted %d, %d left, %v, %v", f, counted, n, len(left), err, listErr)
			}
		}
		n, err = q.Cleanup(t.Context(), age, f)
		wantCleaned(n, err)
		restore()
		n, err = q.CleanupTo(t.Context(), age, f, archive, deadletter.FormatJSONL)
		wantCleaned(n, err)
		// And what was archived could come back.
		file := strings.ReplaceAll(archive.String(), "of_another_program", "timeout")
		back, err := q.Import(t.Context(), strings.NewReader(file), deadletter.FormatJSONL, deadletter.ImportOptions{DryRun: true})
		if err != nil || back.Imported != counted || back.Skipped != 0 {
			t.Errorf("cleanup of %+v: of %d archived %+v would come back, %v", f, counted, back, err)
		}
		restore()
	}
	if matched < 40 {
		t.Errorf("the filters picked %d rows in all: the test tests little", matched)
	}
}

// inMemory is an archive for a test.
type inMemory struct{ bytes.Buffer }

func (*inMemory) Commit() error { return nil }

// pagesOf lists in pages of that size.
func pagesOf(t *testing.T, q *deadletter.Queue, f deadletter.Filter, size int) (ids []uuid.UUID) {
	t.Helper()
	f.Limit = size
	after := deadletter.Cursor{}
	for {
		page, err := q.ListAfter(t.Context(), f, after)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, idsOf(page)...)
		if len(page) < size {
			return ids
		}
		after = page[len(page)-1].Cursor()
	}
}

// Rows that die or are deleted while somebody turns pages move nothing, and a
// time that Go has no value for ends no paging.
func TestQueue_ListAfter_rowsComeAndGo_movesNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	fill(t, pool, 9)
	for _, when := range []string{"infinity", "-infinity", "10000-01-01 00:00:00+00"} {
		insertDead(t, pool, columns{"moved_to_dead_letter_at": when})
	}
	all, err := q.List(t.Context(), deadletter.Filter{})
	if err != nil || len(all) != 12 {
		t.Fatalf("%d rows, %v", len(all), err)
	}
	if got := pagesOf(t, q, deadletter.Filter{}, 1); !slices.Equal(got, idsOf(all)) {
		t.Errorf("pages of one: %v, want %v", got, idsOf(all))
	}
	f := deadletter.Filter{Limit: 4}
	page, err := q.ListAfter(t.Context(), f, deadletter.Cursor{})
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Delete(t.Context(), page[3].ID); err != nil {
		t.Fatal(err)
	}
	insertDead(t, pool, nil)
	next, err := q.ListAfter(t.Context(), f, page[3].Cursor())
	if err != nil || !slices.Equal(idsOf(next), idsOf(all[4:8])) {
		t.Errorf("the next page: %v, %v; want %v", idsOf(next), err, idsOf(all[4:8]))
	}
}
