package deadletter_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/testdb"
)

// FuzzImport: whatever a file holds, the check and the import say the same of
// it. What passes is stored, each record of it; of what doesn't, nothing is. The
// error is one line.
func FuzzImport(f *testing.F) {
	pool := testdb.New(f)
	q := newQueue(f, pool)
	insertDead(f, pool, columns{
		"args": `{"a": [1.50, "\n", null]}`, "tags": `{"t": "=1"}`, "last_error": "=a\r\n\"b\"", "replay_of": "00000000-0000-4000-8000-000000000001",
		"errors": `[{"attempt": 1, "failed_at": "2026-01-02T03:04:05Z", "message": "x"}]`, "scheduled_at": noon, "unique_job": true, "dedup_key": "'",
	})
	for i, format := range formats {
		file, _ := export(f, q, deadletter.Filter{}, format)
		f.Add(file, i)
		f.Add(file[:len(file)/2], i)
		f.Add(zipped(f, file), i)
	}
	for _, more := range []string{
		`"args":"\ud83d\ude00"`, `"args":[1e5,-0.0,1E-3]`, `"args":{"a":{"a":[[]]}}`, `"tags":"[1]"`, `"errors":[null,{}]`, `"job_name":"\ud800"`,
		`"state":"replaying","replay_job_id":"00000000-0000-4000-8000-000000000002"`, `"moved_xid":1`, `"created_at":"2026-11-23 09:39:15.766776+00:00"`,
	} {
		f.Add(with(more), 1)
	}
	f.Add("[\n"+good+",\n"+good+"\n]", 0)
	f.Add("id,job_name,args,dead_letter_reason,moved_to_dead_letter_at\r\n00000000-0000-4000-8000-000000000001,\"a\r\n\",{},timeout,2026-01-02T03:04:05Z\r\n", 2)
	f.Fuzz(func(t *testing.T, file string, n int) {
		format := formats[uint(n)%uint(len(formats))]
		rows, checked := deadletter.CheckImport(t.Context(), strings.NewReader(file), format, nil)
		if rows > 500 {
			return // more than a batch
		}
		exec(t, pool, "delete from soniq_dead_letter_jobs")
		result, err := q.Import(t.Context(), strings.NewReader(file), format, deadletter.ImportOptions{})
		stored := value[int64](t, pool, "select count(*) from soniq_dead_letter_jobs")
		if (err == nil) != (checked == nil) {
			t.Fatalf("the check says %v, the import %v", checked, err)
		}
		if err != nil {
			if text := err.Error(); strings.ContainsAny(text, "\r\n") || !utf8.ValidString(text) || stored != 0 {
				t.Fatalf("%q, %d stored", text, stored)
			}
			return
		}
		if result.Imported != stored || result.Imported+result.Skipped != rows {
			t.Fatalf("%+v of %d, %d stored", result, rows, stored)
		}
		// And it can be exported, and come back.
		again, _ := export(t, q, deadletter.Filter{}, format)
		exec(t, pool, "delete from soniq_dead_letter_jobs")
		restore(t, q, again, format)
		if last, _ := export(t, q, deadletter.Filter{}, format); last != again {
			t.Fatalf("it became another file, first at %s", firstDifference(again, last))
		}
	})
}

// FuzzFilter: a filter is refused, or the database takes it; and what it counts
// is what it lists, exports, means, previews and deletes.
func FuzzFilter(f *testing.F) {
	pool := testdb.New(f)
	q := newQueue(f, pool)
	population(f, pool, rand.New(rand.NewPCG(1, 1)), 40)
	exec(f, pool, "create table saved as select * from soniq_dead_letter_jobs")
	exec(f, pool, `alter table soniq_dead_letter_jobs disable trigger user`)
	everything, err := q.List(f.Context(), deadletter.Filter{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("mail", "send", "", "refused", "timeout", "team", "a", "dead", int64(0), int64(0), 0)
	f.Add("s*n?", `a\_%`, "default", `\`, "", "", "", "", int64(3600), int64(7200), 3)
	f.Add("\x00", "\xff", "'; drop table saved; --", "$1", "x", `"`, "\u00e9", "zombie", int64(-1), int64(1), -1)
	f.Fuzz(func(t *testing.T, like, name, queue, text, reason, key, val, state string, from, to int64, limit int) {
		filter := deadletter.Filter{NameLike: like, ErrorLike: text, State: deadletter.State(state), Limit: limit, All: true}
		if name != "" {
			filter.JobNames = []string{name, "sync"}
		}
		if queue != "" {
			filter.Queues = []string{queue}
		}
		if reason != "" {
			filter.Reasons = []classify.Reason{classify.Reason(reason), classify.Timeout}
		}
		if key != "" {
			filter.Tags = map[string]string{key: val}
		}
		if from != 0 {
			filter.From = noon.Add(time.Duration(from % 1e6 * 1e9))
		}
		if to != 0 {
			filter.To = noon.Add(time.Duration(to % 1e6 * 1e9))
		}
		n, err := q.Count(t.Context(), filter)
		if invalid := filter.Validate(); (invalid != nil) != (err != nil) {
			t.Fatalf("%+v: it is valid: %v; the database says %v", filter, invalid, err)
		}
		if err != nil {
			return
		}
		listed, err := q.List(t.Context(), filter)
		if err != nil || int64(len(listed)) != n {
			t.Fatalf("%+v: counted %d, listed %d, %v", filter, n, len(listed), err)
		}
		if key == "" || key == "team" {
			want := 0
			for _, j := range everything {
				if means(filter, j) {
					want++
				}
			}
			if limit > 0 {
				want = min(want, limit)
			}
			if int64(want) != n {
				t.Fatalf("%+v picks %d, and means %d", filter, n, want)
			}
		}
		old, err := q.CleanupCount(t.Context(), time.Second, filter)
		if deadletter.State(state) != deadletter.StateReplaying && err != nil {
			t.Fatalf("%+v: %v", filter, err)
		}
		deleted, err := q.DeleteAll(t.Context(), filter)
		if err != nil || deleted != n {
			t.Fatalf("%+v: counted %d, deleted %d, %v", filter, n, deleted, err)
		}
		put := func() {
			exec(t, pool, "insert into soniq_dead_letter_jobs select * from saved on conflict do nothing")
		}
		put()
		if deadletter.State(state) != deadletter.StateReplaying {
			if gone, err := q.Cleanup(t.Context(), time.Second, filter); err != nil || gone != old {
				t.Fatalf("%+v: counted %d old ones, deleted %d, %v", filter, old, gone, err)
			}
			put()
		}
	})
}
