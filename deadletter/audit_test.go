package deadletter_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/testdb"
)

const (
	secretArgs = `{"to": "ada", "password": "old-Zk3v", "n": 1}`
	auditText  = `select coalesce(string_agg(detail::text, ' ' order by id), '') from soniq_dead_letter_audit`
	opsText    = `select coalesce(string_agg(options::text, ' '), '') from soniq_dead_letter_operations`
)

// A record tells that a secret was changed, and not to what.
func TestHistory_keepsNoSecretOfAReplay(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	id := insertDead(t, pool, columns{"args": secretArgs})
	_, err := q.Replay(t.Context(), id, deadletter.ReplayOptions{Edits: []deadletter.ArgsEdit{
		{Path: "password", Value: []byte(`"new-Zk3v"`)}, {Path: "n", Value: []byte(`2`)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Tag(t.Context(), id, map[string]string{"api_key": "tag-Zk3v", "team": "a"}); err != nil {
		t.Fatal(err)
	}
	if kept := value[string](t, pool, auditText); strings.Contains(kept, "Zk3v") || !strings.Contains(kept, "team") {
		t.Errorf("kept: %s", kept)
	}
	if args := value[string](t, pool, `select args ->> 'password' from soniq_jobs`); args != "new-Zk3v" {
		t.Errorf("the job's: %s", args)
	}
	history, err := q.History(t.Context(), id)
	if err != nil || len(history) != 2 {
		t.Fatal(history, err)
	}
	var told []string
	for _, c := range history[0].Changes(json.RawMessage(secretArgs)) {
		told = append(told, c.Path+": "+string(c.Old)+" "+string(c.New))
	}
	slices.Sort(told)
	if want := []string{`n: 1 2`, `password: "[redacted]" "[redacted]"`}; !slices.Equal(told, want) {
		t.Errorf("told: %q", told)
	}
}

// A replay that can go on needs its edits; one that is done does not.
func TestOperation_optionsAreBlankedOnceItIsDone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	for range 3 {
		insertDead(t, pool, columns{"args": secretArgs})
	}
	edits := deadletter.ReplayOptions{Edits: []deadletter.ArgsEdit{
		{Path: "password", Value: []byte(`"new-Zk3v"`)}, {Path: "to", Value: []byte(`"Bearer abc.Zk3v-Zk3v"`)}, {Path: "n", Remove: true},
	}}
	op := start(t, q, unfiltered, edits, deadletter.Pace{})
	if raw := value[string](t, pool, opsText); !strings.Contains(raw, "new-Zk3v") {
		t.Fatalf("can't be resumed: %s", raw)
	}
	op, err := resume(t.Context(), q, op.ID, nil)
	if err != nil || op.Done != 3 {
		t.Fatal(op, err)
	}
	if n := value[int](t, pool, `select count(*) from soniq_jobs where args ->> 'password' = 'new-Zk3v'`); n != 3 {
		t.Errorf("%d jobs have the new arguments", n)
	}
	if kept := value[string](t, pool, opsText) + value[string](t, pool, auditText); strings.Contains(kept, "Zk3v") || !strings.Contains(kept, `"path": "password"`) {
		t.Errorf("kept: %s", kept)
	}
	for range 2 {
		insertDead(t, pool, columns{"args": secretArgs})
	}
	if _, err := q.ReplayAll(t.Context(), unfiltered, deadletter.ReplayAllOptions{ReplayOptions: edits}); err != nil {
		t.Fatal(err)
	}
	if kept := value[string](t, pool, opsText) + value[string](t, pool, auditText); strings.Contains(kept, "Zk3v") {
		t.Errorf("kept by ReplayAll: %s", kept)
	}
}

// What 0.1.0 recorded is mended by the hourly pass, in batches, once.
func TestQueue_PruneHistory_takesSecretsOutOfOldRecords(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	id := insertDead(t, pool, columns{"args": secretArgs})
	const record = `insert into soniq_dead_letter_audit (dead_letter_id, action, detail) values ($1, 'replay', $2)`
	for range 120 {
		exec(t, pool, record, uuid.New(), `{"args": {"password": "gone-Zk3v", "n": 7}}`)
	}
	exec(t, pool, record, id, `{"args": {"to": "ada", "password": "new-Zk3v", "n": 2}}`)
	exec(t, pool, `insert into soniq_dead_letter_audit (dead_letter_id, action, detail) values ($1, 'tag', '{"tags": {"a": "b"}}'), ($1, 'delete', null)`, id)
	const options = `{"pace": {"Rate": 5}, "options": {"edits": [{"path": "password", "value": "new-Zk3v"}, {"path": "a.token[0].x", "value": {"y": "new-Zk3v"}}]}}`
	exec(t, pool, `insert into soniq_dead_letter_operations (id, action, state, options) values (gen_random_uuid(), 'replay', 'done', $1)`, options)
	exec(t, pool, `insert into soniq_dead_letter_operations (id, action, state, options) values (gen_random_uuid(), 'replay', 'stopped', $1)`, options)
	for range 2 {
		if err := q.PruneHistory(t.Context(), deadletter.MaintenanceOptions{Lock: 4711}); err != nil {
			t.Fatal(err)
		}
		if kept := value[string](t, pool, auditText); strings.Contains(kept, "Zk3v") || strings.Count(kept, `"n": 7`) != 120 || !strings.Contains(kept, `{"tags": {"a": "b"}}`) {
			t.Errorf("kept: %s", kept)
		}
		if changed := value[string](t, pool, `select detail ->> 'changed' from soniq_dead_letter_audit where dead_letter_id = $1 and action = 'replay'`, id); changed != `["n", "password"]` && changed != `["password", "n"]` {
			t.Errorf("changed: %s", changed)
		}
		if kept := value[string](t, pool, opsText+` where state = 'done'`); strings.Contains(kept, "Zk3v") || !strings.Contains(kept, "a.token[0].x") {
			t.Errorf("options of what is done: %s", kept)
		}
		if kept := value[string](t, pool, opsText+` where state = 'stopped'`); !strings.Contains(kept, "Zk3v") {
			t.Errorf("options of what can go on: %s", kept)
		}
	}
}

// Who may add to the history can't hide it by a time that Go or JSON has not.
func TestHistory_recordsOfAnyTime_hideNoOther(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	id := uuid.New()
	const times = `unnest(array['4713-01-01 BC', '294276-01-01', '-infinity', 'infinity', now()]::timestamptz[]) at`
	exec(t, pool, `insert into soniq_dead_letter_audit (dead_letter_id, action, at) select $1, 'tag', at from `+times, id)
	exec(t, pool, `
		insert into soniq_dead_letter_operations (id, action, state, created_at, updated_at)
		select gen_random_uuid(), 'delete', 'done', at, at from `+times)
	q := newQueue(t, pool)
	records, err := q.History(t.Context(), id)
	if err != nil || len(records) != 5 {
		t.Errorf("%d records: %v", len(records), err)
	}
	operations, err := q.Operations(t.Context(), 0)
	if err != nil || len(operations) != 5 {
		t.Errorf("%d operations: %v", len(operations), err)
	}
	for _, v := range []any{records, operations} {
		if _, err := json.Marshal(v); err != nil {
			t.Error(err)
		}
	}
}
