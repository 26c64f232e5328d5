package deadletter_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"soniq/deadletter"
	"soniq/internal/testdb"
)

func TestEditArgs_changesOneValueAndNothingElse(t *testing.T) {
	t.Parallel()
	const args = `{"id": 123456789012345678901234567890, "price": 1.50, "tiny": 1e-7, "user": {"name": "Zoë \u00e9 😀", "emails": ["a@b", "c@d"]}, "a.b": {"[0]": 1}, "0": "zero"}`
	for _, tt := range []struct {
		path, value string
		was, is     string // in args
	}{
		{"price", `2`, `"price": 1.50`, `"price": 2`},
		{"user.name", `"Bob"`, `"name": "Zoë \u00e9 😀"`, `"name": "Bob"`},
		{"user.emails[1]", `null`, `"c@d"`, `null`},
		{"user.emails.0", `{"x": [1]}`, `"a@b"`, `{"x": [1]}`},
		{`a\.b.\[0]`, `2`, `"[0]": 1`, `"[0]": 2`},
		{"0", `0`, `"0": "zero"`, `"0": 0`},
		{"currency", `"EUR"`, `"0": "zero"}`, `"0": "zero", "currency": "EUR"}`},
		{"user.é\"", `1`, `["a@b", "c@d"]}`, `["a@b", "c@d"], "é\"": 1}`},
		{"user", "", `"user": {"name": "Zoë \u00e9 😀", "emails": ["a@b", "c@d"]}, `, ``},
		{"id", "", `"id": 123456789012345678901234567890,`, ``},
		{"0", "", `, "0": "zero"`, ``},
		{"user.emails[0]", "", `["a@b", "c@d"]`, `[ "c@d"]`},
		{"user.emails[1]", "", `["a@b", "c@d"]`, `["a@b"]`},
	} {
		e := deadletter.ArgsEdit{Path: tt.path, Value: json.RawMessage(tt.value)}
		if tt.value == "" {
			e = deadletter.ArgsEdit{Path: tt.path, Remove: true}
		}
		if strings.Count(args, tt.was) != 1 {
			t.Fatalf("%s: %s is not once in the arguments", tt.path, tt.was)
		}
		got, err := deadletter.EditArgs([]byte(args), []deadletter.ArgsEdit{e})
		if want := strings.Replace(args, tt.was, tt.is, 1); err != nil || string(got) != want {
			t.Errorf("%s = %s: %v\ngot  %s\nwant %s", tt.path, tt.value, err, got, want)
		}
	}
	got, err := deadletter.EditArgs([]byte(`{}`), []deadletter.ArgsEdit{
		{Path: "a", Value: []byte(`{}`)},
		{Path: "a.b", Value: []byte(`[1]`)},
		{Path: "a.b[0]", Value: []byte(`2`)},
	})
	if err != nil || string(got) != `{"a": {"b": [2]}}` {
		t.Errorf("one after the other: %s, %v", got, err)
	}
	// What stands twice is what PostgreSQL takes it for: the last one.
	got, err = deadletter.EditArgs([]byte(`{"a": 1, "a": 2}`), []deadletter.ArgsEdit{{Path: "a", Value: []byte(`3`)}})
	if err != nil || string(got) != `{"a": 1, "a": 3}` {
		t.Errorf("a key that stands twice: %s, %v", got, err)
	}
}

func TestEditArgs_withoutAPlace_saysWhatThereIs(t *testing.T) {
	t.Parallel()
	const args = `{"user": {"name": "a"}, "list": [1, 2], "n": 1, "none": null, "empty": {}}`
	for _, tt := range []struct{ path, want string }{
		{"usr.name", "the top level has no usr; it has user, list, n, none, empty"},
		{"user.address.street", "user has no address; it has name"},
		{"empty.a.b", "empty has no a; it is empty"},
		{"n.x", "n is a number"},
		{"user.name.x", "user.name is a string"},
		{"none.x", "none is null"},
		{"list.x", "list is a list, whose first element is [0]"},
		{"list[2]", "list is a list of 2, whose first element is [0]"},
		{"list[0].x", "list[0] is a number"},
		{"user[0]", "user is an object"},
		{"[0]", "the top level is an object"},
	} {
		_, err := deadletter.EditArgs([]byte(args), []deadletter.ArgsEdit{{Path: tt.path, Value: []byte(`1`)}})
		var misfit *deadletter.EditError
		if !errors.As(err, &misfit) || misfit.Path != tt.path || misfit.Why != tt.want {
			t.Errorf("%s: %v, want %q", tt.path, err, tt.want)
		}
	}
	if _, err := deadletter.EditArgs([]byte(args), []deadletter.ArgsEdit{{Path: "user.age", Remove: true}}); err == nil || !strings.Contains(err.Error(), "user has no age") {
		t.Errorf("removed what isn't there: %v", err)
	}
	for _, path := range []string{"", ".", "a.", ".a", "a..b", "a[", "a[x]", "a[-1]", "a[01]", "a[0]b", "a.[0]", `a\`, "a\x00", "\xff", "a]["} {
		if err := (deadletter.ArgsEdit{Path: path, Value: []byte(`1`)}).Validate(); err == nil {
			t.Errorf("%q is a path", path)
		}
	}
	for _, value := range []string{`"\\u0000"`, `"\ud83d\ude00"`, `"\n\u00e9"`, " 1 "} {
		if err := (deadletter.ArgsEdit{Path: "a", Value: []byte(value)}).Validate(); err != nil {
			t.Errorf("%q: %v", value, err)
		}
	}
	for _, value := range []string{"", "{", `"\u0000"`, `"\\\u0000"`, `"\ud83d"`, `"\ude00\ud83d"`, `"\ud83dx"`, "\"\xff\"", "1 2"} {
		if err := (deadletter.ArgsEdit{Path: "a", Value: []byte(value)}).Validate(); err == nil {
			t.Errorf("%q is a value", value)
		}
	}
}

func TestCompareArgs_namesEachDifferenceByItsPath(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ from, to, want string }{
		{`{"a": 1, "b": [1, {"c": "\u00e9"}]}`, `{"b":[1,{"c":"é"}],"a":1}`, `null`},
		{`{"a": 1}`, `{"a": 2, "b.c": 3}`, `[{"path":"a","old":1,"new":2},{"path":"b\\.c","new":3}]`},
		{`{"a": {"b": [1, 2]}}`, `{"a": {"b": [1, 3]}}`, `[{"path":"a.b[1]","old":2,"new":3}]`},
		{`{"a": [1, 2]}`, `{"a": [1]}`, `[{"path":"a","old":[1,2],"new":[1]}]`},
		{`{"a": 1, "z": {}}`, `{"a": "1"}`, `[{"path":"a","old":1,"new":"1"},{"path":"z","old":{}}]`},
		{`{"n": 1}`, `{"n": 1.0}`, `[{"path":"n","old":1,"new":1.0}]`},
		{`{"n": 9007199254740993}`, `{"n": 9007199254740992}`, `[{"path":"n","old":9007199254740993,"new":9007199254740992}]`},
	} {
		if got := jsonOf(t, deadletter.CompareArgs([]byte(tt.from), []byte(tt.to))); got != tt.want {
			t.Errorf("%s and %s: got %s, want %s", tt.from, tt.to, got, tt.want)
		}
	}
}

// FuzzEditArgs: an edit that is made gives JSON with that value at that path,
// and with everything else as it was.
func FuzzEditArgs(f *testing.F) {
	f.Add(`{"a": {"b": [1, 2.50, "x"]}}`, "a.b[1]", `{"n": 12345678901234567890}`, false)
	f.Add(`{"a": 1, "a": 2}`, "a", `3`, false)
	f.Add(`{"a.b": 1, "[0]": {"": 1}}`, `\[0].x`, `"é\ud83d\ude00"`, false)
	f.Add(` { "a" : [ 1 , 2 ] , "b" : null } `, "a.0", ``, true)
	f.Add(`{"a": 1}`, "a", ``, true)
	f.Fuzz(func(t *testing.T, doc, path, value string, remove bool) {
		e := deadletter.ArgsEdit{Path: path, Value: json.RawMessage(value)}
		if remove {
			e = deadletter.ArgsEdit{Path: path, Remove: true}
		}
		before := strings.Clone(doc)
		got, err := deadletter.EditArgs(json.RawMessage(doc), []deadletter.ArgsEdit{e})
		if doc != before {
			t.Fatal("the arguments were changed")
		}
		if err != nil {
			return
		}
		if !json.Valid(got) {
			t.Fatalf("%s: %q", path, got)
		}
		if remove {
			if changes := deadletter.CompareArgs(json.RawMessage(doc), got); len(changes) > 1 {
				t.Fatalf("%s: removed, %+v has changed", path, changes)
			}
			return
		}
		if set := deadletter.ArgsValue(got, path); string(set) != strings.Trim(value, " \t\r\n") {
			t.Fatalf("%s is %q, want %q", path, set, value)
		}
		// Without the value, both are the same.
		without := []deadletter.ArgsEdit{{Path: path, Value: []byte(`"here"`)}}
		one, errOne := deadletter.EditArgs(json.RawMessage(doc), without)
		two, errTwo := deadletter.EditArgs(got, without)
		if errOne != nil || errTwo != nil || !reflect.DeepEqual(decoded(t, one), decoded(t, two)) {
			t.Fatalf("%s: besides it, %q became %q: %v, %v", path, one, two, errOne, errTwo)
		}
	})
}

func decoded(t *testing.T, doc []byte) (v any) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestQueue_Replay_edits_leaveTheOriginalAndTheRest(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	const stored = `{"id": 123456789012345678901234567890, "to": "ada@exmaple.com", "total": 1.50}`
	id := insertDead(t, pool, columns{"args": stored, "unique_job": true, "args_hash": "old"})
	o := deadletter.ReplayOptions{Edits: []deadletter.ArgsEdit{{Path: "to", Value: []byte(`"ada@example.com"`)}}}
	if err := q.CheckReplay(t.Context(), id, o); err != nil {
		t.Fatal(err)
	}
	job, err := q.Replay(t.Context(), id, o)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"id": 123456789012345678901234567890, "to": "ada@example.com", "total": 1.50}`
	if got := value[string](t, pool, "select args::text from soniq_jobs where id = $1", job); got != want {
		t.Errorf("the job's arguments: %s", got)
	}
	// By Python's json.dumps and hashlib.
	if got := value[string](t, pool, "select args_hash from soniq_jobs where id = $1", job); got != "b8670c1a4da1b65bcbe26b94c591a66b7423de4f2e9d921260deeb11e08d64ba" {
		t.Errorf("their hash: %s", got)
	}
	if got := string(get(t, q, id).Args); got != stored {
		t.Errorf("the dead letter's: %s", got)
	}
	history, err := q.History(t.Context(), id)
	if err != nil || len(history) != 1 || string(history[0].Detail) != `{"args": `+want+`, "changed": ["to"]}` {
		t.Errorf("history: %+v, %v", history, err)
	}

	// An edit that changes nothing is none, and one without a place is refused.
	same := insertDead(t, pool, columns{"args": stored, "unique_job": true, "args_hash": "as it was"})
	o.Edits[0].Value = []byte(`"ada@\u0065xmaple.com"`)
	if job, err = q.Replay(t.Context(), same, o); err != nil {
		t.Fatal(err)
	}
	if got := value[string](t, pool, "select args_hash from soniq_jobs where id = $1", job); got != "as it was" {
		t.Errorf("the hash of unchanged arguments: %s", got)
	}
	if history, err = q.History(t.Context(), same); err != nil || len(history) != 1 || history[0].Detail != nil {
		t.Errorf("history: %+v, %v", history, err)
	}
	other := insertDead(t, pool, columns{"args": `{"cc": "x"}`})
	o.Edits[0] = deadletter.ArgsEdit{Path: "user.to", Value: []byte(`1`)}
	var misfit *deadletter.EditError
	for what, err := range map[string]error{"checked": q.CheckReplay(t.Context(), other, o), "replayed": second(q.Replay(t.Context(), other, o))} {
		if !errors.As(err, &misfit) || misfit.ID != other || misfit.Why != "the top level has no user; it has cc" {
			t.Errorf("%s without a place: %v", what, err)
		}
	}
	if n := value[int](t, pool, "select count(*) from soniq_jobs where replay_of = $1", other); n != 0 {
		t.Error("it was replayed all the same")
	}
}

func second[T any](_ T, err error) error { return err }

// In bulk each keeps its own arguments but for the edit; and one dead letter
// without a place for it stops them all before the first.
func TestQueue_ReplayAll_edits_eachItsOwn_orNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	for _, args := range []string{`{"n": 1, "user": {"currency": null}}`, `{"n": 2, "user": {"currency": "USD"}}`, `{"n": 3, "user": {"currency": "EUR"}}`} {
		insertDead(t, pool, columns{"args": args})
	}
	odd := insertDead(t, pool, columns{"args": `{"n": 4}`, "queue": "odd"})
	o := deadletter.ReplayOptions{Edits: []deadletter.ArgsEdit{{Path: "user.currency", Value: []byte(`"EUR"`)}}}
	all := deadletter.Filter{All: true}
	var misfit *deadletter.EditError
	_, planErr := q.PlanReplay(t.Context(), all, o)
	_, allErr := q.ReplayAll(t.Context(), all, deadletter.ReplayAllOptions{ReplayOptions: o})
	txErr := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		return second(q.ReplayAllTx(t.Context(), tx, all, deadletter.ReplayAllOptions{ReplayOptions: o}))
	})
	for what, err := range map[string]error{"plan": planErr, "replay": allErr, "in a transaction": txErr} {
		if !errors.As(err, &misfit) || misfit.ID != odd {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := value[int](t, pool, "select count(*) from soniq_jobs"); n != 0 {
		t.Fatalf("%d jobs were made", n)
	}
	op := start(t, q, deadletter.Filter{Queues: []string{"default"}}, o, deadletter.Pace{})
	// The edits are part of the operation: whoever resumes it makes the same.
	op, err := resume(t.Context(), newQueue(t, pool), op.ID, nil)
	if err != nil || op.Done != 3 {
		t.Fatalf("%+v, %v", op, err)
	}
	got := value[string](t, pool, `select string_agg(args::text, ' ' order by args ->> 'n') from soniq_jobs`)
	if got != `{"n": 1, "user": {"currency": "EUR"}} {"n": 2, "user": {"currency": "EUR"}} {"n": 3, "user": {"currency": "EUR"}}` {
		t.Errorf("the jobs: %s", got)
	}
	if n := value[int](t, pool, `select count(*) from soniq_dead_letter_audit where detail -> 'args' -> 'user' ->> 'currency' = 'EUR'`); n != 2 {
		t.Errorf("the history tells of %d edits, want 2", n)
	}
}
