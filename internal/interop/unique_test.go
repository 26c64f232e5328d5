package interop

import (
	"encoding/json"
	"testing"

	"soniq/engine"
	"soniq/internal/argshash"
	"soniq/internal/testdb"
)

// Equal arguments of either language are one job while it is queued.
func TestUnique_keysCollideAcrossLanguages(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		pool := testdb.New(t)
		client := newClient(t, pool)
		c := py.console(t, pool)
		args := json.RawMessage(arguments)

		first := eval[string](t, c, `await app.enqueue("shared.echo", args=args, unique=True)`, with{"args": args})
		e, err := client.Enqueue(t.Context(), "shared.echo", args, engine.Unique())
		if err != nil || !e.Duplicate || e.ID.String() != first {
			t.Errorf("Go after Python: %+v, %v; want a duplicate of %s", e, err, first)
		}
		mine := enqueue(t, client, "shared.echo", map[string]any{"n": 1}, engine.Unique())
		if id := eval[string](t, c, `await app.enqueue("shared.echo", args={"n": 1}, unique=True)`, nil); id != mine.String() {
			t.Errorf("Python after Go: %s, want a duplicate of %s", id, mine)
		}
		// 1 and 1.0 are two jobs on either side.
		if id := eval[string](t, c, `await app.enqueue("shared.echo", args={"n": 1.0}, unique=True)`, nil); id == mine.String() {
			t.Error("1.0 is a duplicate of 1")
		}

		keyed := eval[string](t, c, `await app.enqueue("shared.echo", args={"n": 2}, dedup_key="nightly é")`, nil)
		e, err = client.Enqueue(t.Context(), "other.name", map[string]any{"n": 3}, engine.DedupKey("nightly é"), engine.Queue("other"))
		if err != nil || !e.Duplicate || e.ID.String() != keyed {
			t.Errorf("Go after Python: %+v, %v; want a duplicate of %s", e, err, keyed)
		}
		mine = enqueue(t, client, "shared.echo", nil, engine.DedupKey("hourly"))
		if id := eval[string](t, c, `await app.enqueue("shared.fails", args={}, dedup_key="hourly")`, nil); id != mine.String() {
			t.Errorf("Python after Go: %s, want a duplicate of %s", id, mine)
		}
	})
}

// The hash is of the text that Python's json makes; see package argshash.
func TestArgsHash_isPythons(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		c := py.console(t, testdb.New(t))
		for _, args := range []string{
			arguments,
			`{}`, `{"b": 2, "a": 1}`, `{"n": 1.0}`, `{"n": 1e16}`, `{"n": 1e15}`, `{"n": 0.00001}`, `{"n": -0.0}`, `{"n": 0.1}`,
			`{"n": 5e-324}`, `{"n": 1.7976931348623157e308}`, `{"n": 9007199254740993}`, `{"n": 9007199254740993.0}`,
			`{"n": -170141183460469231731687303715884105729}`, `{"n": 2.5e-5}`, `{"n": 123456789.125}`,
			`{"u": {"z": 1, "a": [1, 2, {"y": null, "x": true}]}}`,
			`{"😀": 4, "a": 2, "Z": 1, "\uffff": 5, "é": 3, "": 6}`,
			`{"s": "é\u2028😀\u007f<>&\"\\/\b\f\n\r\t\u0001\u001f"}`,
			`{"s": ["\ud83d\ude00", "\u00e9", "e\u0301"]}`,
		} {
			want := eval[string](t, c, `compute_args_hash(args)`, with{"args": json.RawMessage(args)})
			got, err := argshash.Sum(json.RawMessage(args))
			if err != nil || got != want {
				t.Errorf("Sum(%s) = %s, %v; Python has %s", args, got, err, want)
			}
		}
	})
}
