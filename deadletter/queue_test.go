package deadletter_test

import (
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/testdb"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestQueue_filtersPickWhatTheySay(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	rows := map[string]uuid.UUID{
		"a": insertDead(t, pool, columns{"job_name": "emails.send", "queue": "emails", "dead_letter_reason": "timeout", "moved_to_dead_letter_at": noon, "tags": `{"team": "core", "n": 5}`}),
		"b": insertDead(t, pool, columns{"job_name": "emails.send_all", "queue": "emails", "moved_to_dead_letter_at": noon.Add(time.Hour), "state": "resolved", "resurrection_count": 2}),
		"c": insertDead(t, pool, columns{"job_name": "emailsXsend", "queue": "", "dead_letter_reason": "resource_exhausted", "moved_to_dead_letter_at": noon.Add(2 * time.Hour)}),
		"d": insertDead(t, pool, columns{"job_name": `50%_off\now*?`, "moved_to_dead_letter_at": noon.Add(3 * time.Hour), "tags": `"{\"team\": \"core\", \"n\": 5, \"who\": \"J\\u00fcrgen \\\"J\\\"\"}"`}),
		"e": insertDead(t, pool, columns{"job_name": "nested", "fingerprint": "0123456789abcdef", "moved_to_dead_letter_at": noon.Add(4 * time.Hour), "tags": `"{\"owner\": {\"team\": \"core\"}}"`}),
		"f": insertDead(t, pool, columns{"job_name": "othertag", "last_error": `timed out after 5%_\n`, "moved_to_dead_letter_at": noon.Add(5 * time.Hour), "tags": `{"team": "web", "n": "55"}`, "state": "replaying"}),
		"g": insertDead(t, pool, columns{"job_name": "notags", "moved_to_dead_letter_at": noon.Add(6 * time.Hour), "tags": `"not json"`}),
	}
	type filter = deadletter.Filter
	tests := []struct {
		name   string
		filter filter
		want   string // newest first
	}{
		{"everything", filter{}, "gfedcba"},
		{"all says nothing here", filter{All: true}, "gfedcba"},
		{"a limit", filter{Limit: 2}, "gf"},
		{"one name", filter{JobNames: []string{"emails.send"}}, "a"},
		{"two names", filter{JobNames: []string{"emails.send", "nested", "nobody"}}, "ea"},
		{"no such name", filter{JobNames: []string{""}}, ""},
		{"a queue", filter{Queues: []string{"emails"}}, "ba"},
		{"the empty queue", filter{Queues: []string{""}}, "c"},
		{"a reason", filter{Reasons: []classify.Reason{classify.Timeout}}, "a"},
		{"a reason that we never write", filter{Reasons: []classify.Reason{"resource_exhausted"}}, "c"},
		{"a part of the name", filter{NameLike: "mails.s"}, "ba"},
		{"a part is literal", filter{NameLike: "%_"}, "d"},
		{"a part with a backslash", filter{NameLike: `\n`}, "d"},
		{"case counts", filter{NameLike: "Emails"}, ""},
		{"a pattern for the whole name", filter{NameLike: "emails?send"}, "ca"},
		{"a pattern isn't a part", filter{NameLike: "mails?send"}, ""},
		{"a pattern with a star", filter{NameLike: "emails.*"}, "ba"},
		{"a star for all", filter{NameLike: "*"}, "gfedcba"},
		{"a pattern is literal elsewhere", filter{NameLike: `5?%_off\*`}, "d"},
		{"since", filter{From: noon.Add(5 * time.Hour)}, "gf"},
		{"until", filter{To: noon.Add(time.Hour)}, "ba"},
		{"an instant", filter{From: noon, To: noon}, "a"},
		{"a state", filter{State: deadletter.StateResolved}, "b"},
		{"a tag, however it is encoded", filter{Tags: map[string]string{"team": "core"}}, "da"},
		{"a number as tag", filter{Tags: map[string]string{"n": "5"}}, "da"},
		{"two tags", filter{Tags: map[string]string{"n": "5", "team": "web"}}, ""},
		{"a tag beyond ASCII", filter{Tags: map[string]string{"who": `Jürgen "J"`}}, "d"},
		{"a tag that isn't there", filter{Tags: map[string]string{"nobody": ""}}, ""},
		{"a group", filter{Groups: []string{"0123456789abcdef", "none"}}, "e"},
		{"a part of the error", filter{ErrorLike: `TIMED out after 5%_\n`}, "f"},
		{"a part of the error is literal", filter{ErrorLike: `%`}, "f"},
		{"a text in the error", filter{Text: `TIMED out after 5%_\n`}, "f"},
		{"a text in the arguments", filter{Text: `"USER_id": 42`}, "gfedcba"},
		{"a text is literal", filter{Text: `user%42`}, ""},
		{"replayed", filter{Replayed: ptr(true)}, "b"},
		{"never replayed", filter{Replayed: ptr(false)}, "gfedca"},
		{"all of it", filter{JobNames: []string{"emails.send"}, Queues: []string{"emails"}, NameLike: "send", Reasons: []classify.Reason{"timeout"}, From: noon, To: noon, Tags: map[string]string{"team": "core"}, State: "dead", Limit: 1}, "a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			jobs, err := q.List(t.Context(), tt.filter)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for _, j := range jobs {
				for letter, id := range rows {
					if id == j.ID {
						got.WriteString(letter)
					}
				}
			}
			if got.String() != tt.want {
				t.Errorf("got %q, want %q", got.String(), tt.want)
			}
			n, err := q.Count(t.Context(), tt.filter)
			if err != nil || n != int64(len(tt.want)) {
				t.Errorf("counted %d, %v; want %d", n, err, len(tt.want))
			}
		})
	}
	if j := get(t, q, rows["d"]); string(j.Tags) != `{"team": "core", "n": 5, "who": "J\u00fcrgen \"J\""}` {
		t.Errorf("tags encoded twice come back as %s", j.Tags)
	}
	if j := get(t, q, rows["g"]); string(j.Tags) != `"not json"` {
		t.Errorf("a text as tags comes back as %s", j.Tags)
	}
}

// A time far outside PostgreSQL's range would be sent as another one. The times of a
// filter are in the test below; these are those of the history.
func TestQueue_timesOutOfRange_areRefused(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testdb.New(t))
	for _, at := range []time.Time{time.Unix(1<<60, 0), time.Unix(-1<<60, 0), time.Unix(noon.UnixMicro(), 0), time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)} {
		for field, f := range map[string]deadletter.HistoryFilter{"From": {From: at}, "To": {To: at}} {
			_, operations := q.OperationsOf(t.Context(), f)
			_, records := q.Records(t.Context(), f)
			for verb, err := range map[string]error{"operations": operations, "records": records} {
				if err == nil || !strings.Contains(err.Error(), field+": must be in a year from 1 to 9999") {
					t.Errorf("%s, %s %s: %v", verb, field, at, err)
				}
			}
		}
	}
}

func TestFilter_refusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	type filter = deadletter.Filter
	tests := []struct {
		filter filter
		field  string
		is     error
	}{
		{filter{JobNames: []string{}}, "JobNames", deadletter.ErrEmptyFilterField},
		{filter{Queues: []string{}}, "Queues", deadletter.ErrEmptyFilterField},
		{filter{Reasons: []classify.Reason{}}, "Reasons", deadletter.ErrEmptyFilterField},
		{filter{Tags: map[string]string{}}, "Tags", deadletter.ErrEmptyFilterField},
		{filter{Groups: []string{}}, "Groups", deadletter.ErrEmptyFilterField},
		{filter{Groups: []string{"\xff"}}, "Groups", nil},
		{filter{ErrorLike: "\x00"}, "ErrorLike", nil},
		{filter{Text: "\x00"}, "Text", nil},
		{filter{State: "deceased"}, "State", nil},
		{filter{Limit: -1}, "Limit", nil},
		{filter{From: noon, To: noon.Add(-1)}, "To", nil},
		// As microseconds these are 1970, and any time at all.
		{filter{From: time.Unix(1<<60, 0)}, "From", nil},
		{filter{From: time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)}, "From", nil},
		{filter{To: time.Unix(1<<60, 0)}, "To", nil},
		{filter{To: time.Unix(noon.UnixMicro(), 0)}, "To", nil},
		{filter{To: time.Unix(-1<<60, 0)}, "To", nil},
		{filter{JobNames: []string{"a\x00"}}, "JobNames", nil},
		{filter{Queues: []string{"\xff"}}, "Queues", nil},
		{filter{NameLike: "\x00"}, "NameLike", nil},
		{filter{Reasons: []classify.Reason{"\xff"}}, "Reasons", nil},
		{filter{Tags: map[string]string{"a": "\x00"}}, "Tags", nil},
	}
	pool := testdb.New(t)
	insertDead(t, pool, nil)
	q := newQueue(t, pool)
	for _, tt := range tests {
		verbs := map[string]func() error{
			"validate":     tt.filter.Validate,
			"list":         func() error { _, err := q.List(t.Context(), tt.filter); return err },
			"count":        func() error { _, err := q.Count(t.Context(), tt.filter); return err },
			"replay count": func() error { _, err := q.ReplayCount(t.Context(), tt.filter, deadletter.ReplayOptions{}); return err },
			"replay":       func() error { _, err := q.ReplayAll(t.Context(), tt.filter, deadletter.ReplayAllOptions{}); return err },
			"delete":       func() error { _, err := q.DeleteAll(t.Context(), tt.filter); return err },
			"export": func() error {
				_, err := q.Export(t.Context(), &strings.Builder{}, tt.filter, deadletter.FormatJSON)
				return err
			},
		}
		for verb, run := range verbs {
			err := run()
			if err == nil || !strings.Contains(err.Error(), "filter: "+tt.field+": ") || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%s of %+v: %v", verb, tt.filter, err)
			}
		}
	}
	for _, f := range []filter{{}, {Limit: 5}} {
		if _, err := q.ReplayAll(t.Context(), f, deadletter.ReplayAllOptions{}); !errors.Is(err, deadletter.ErrFilterEmpty) {
			t.Errorf("replay of %+v: %v", f, err)
		}
		if _, err := q.DeleteAll(t.Context(), f); !errors.Is(err, deadletter.ErrFilterEmpty) {
			t.Errorf("delete of %+v: %v", f, err)
		}
	}
	if j := value[string](t, pool, "select string_agg(state, ' ') from soniq_dead_letter_jobs"); j != "dead" {
		t.Errorf("a refused verb did something: %q", j)
	}
}

func TestQueue_List_orderIsTotalAndTheDefaultLimited(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	fill(t, pool, 1001)
	exec(t, pool, "update soniq_dead_letter_jobs set moved_to_dead_letter_at = $1", noon)
	all, err := q.List(t.Context(), deadletter.Filter{})
	if err != nil || len(all) != 1000 {
		t.Fatalf("%d rows, %v", len(all), err)
	}
	if n, err := q.Count(t.Context(), deadletter.Filter{}); n != 1001 || err != nil {
		t.Errorf("counted %d, %v", n, err)
	}
	byID := idsOf(all)
	if !slices.IsSortedFunc(byID, func(a, b uuid.UUID) int { return strings.Compare(b.String(), a.String()) }) {
		t.Error("equal times aren't ordered by id")
	}
	ten, err := q.List(t.Context(), deadletter.Filter{Limit: 10})
	if err != nil || !slices.Equal(idsOf(ten), byID[:10]) {
		t.Errorf("the first ten differ: %v", err)
	}
}

func TestQueue_Get_returnsTheRowAsItIsStored(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)

	if _, err := q.Get(t.Context(), uuid.New()); !errors.Is(err, deadletter.ErrNotFound) {
		t.Errorf("a missing row: %v", err)
	}
	id := insertDead(t, pool, columns{
		"args":       `{"big": 123456789012345678901234567890, "one": 1.0, "html": "<a>&", "deep": {"x": [1, null]}}`,
		"last_error": nil, "resurrection_count": nil, "created_at": nil, "moved_xid": nil,
	})
	exec(t, pool, "update soniq_dead_letter_jobs set original_created_at = '-infinity', scheduled_at = 'infinity'")
	j := get(t, q, id)
	var args struct {
		Big *big.Int
		One json.Number
	}
	if err := json.Unmarshal(j.Args, &args); err != nil || args.Big.String() != "123456789012345678901234567890" || args.One != "1.0" {
		t.Errorf("args %s: %v", j.Args, err)
	}
	if j.LastError != "" || j.ResurrectionCount != 0 || j.Tags != nil || j.MovedXID != nil || j.CreatedAt != nil || j.ScheduledAt != nil {
		t.Errorf("got %+v", j)
	}
	if !j.OriginalCreatedAt.Equal(j.MovedAt) || j.MovedAt.Location() != time.UTC {
		t.Errorf("created at %v, moved at %v", j.OriginalCreatedAt, j.MovedAt)
	}
}

// A row with a time that Go or JSON has no room for must not hide the others.
func TestQueue_timesOutOfRange_hideNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	for _, when := range []string{"infinity", "-infinity", "10000-01-01 00:00:00+00", "0001-12-31 00:00:00+00 BC"} {
		insertDead(t, pool, columns{
			"scheduled_at": when, "created_at": when, "last_resurrection_at": when,
			"original_created_at": when, "moved_to_dead_letter_at": when,
		})
	}
	insertDead(t, pool, nil)
	jobs, err := q.List(t.Context(), deadletter.Filter{})
	if err != nil || len(jobs) != 5 {
		t.Fatalf("%d rows, %v", len(jobs), err)
	}
	for _, j := range jobs {
		if j.ScheduledAt != nil || j.LastResurrectionAt != nil {
			t.Errorf("due %v, replayed %v", j.ScheduledAt, j.LastResurrectionAt)
		}
		jsonOf(t, j)
	}
	if !jobs[0].MovedAt.After(jobs[2].MovedAt) || !jobs[2].MovedAt.After(jobs[4].MovedAt) {
		t.Errorf("died at %v, %v, %v", jobs[0].MovedAt, jobs[2].MovedAt, jobs[4].MovedAt)
	}
	for _, format := range []deadletter.Format{deadletter.FormatJSON, deadletter.FormatJSONL, deadletter.FormatCSV} {
		if n, err := q.Export(t.Context(), io.Discard, deadletter.Filter{}, format); n != 5 || err != nil {
			t.Errorf("%s: exported %d, %v", format, n, err)
		}
	}
}
