package audit

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestRedactOptions_keepsWhatIsNoSecret(t *testing.T) {
	t.Parallel()
	const stored = `{"pace": {"Rate": 5}, "options": {"max_replays": 3, "queue": "again", "args": {"password": "x-Zk3v"},
		"edits": [{"path": "a.token[0].x", "value": {"y": "x-Zk3v"}}, {"path": "n", "remove": true}]}}`
	got := string(RedactOptions(json.RawMessage(stored)))
	if strings.Contains(got, "Zk3v") {
		t.Errorf("kept a secret: %s", got)
	}
	for _, want := range []string{`"pace":{"Rate":5}`, `"max_replays":3`, `"queue":"again"`, `"path":"a.token[0].x"`, `{"path":"n","remove":true}`, `"redacted":true`} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is missing: %s", want, got)
		}
	}
	for _, bad := range []string{``, `null`, `7`, `{"options": "x-Zk3v"}`, `{"options": {"edits": "x-Zk3v"}}`, `{"x-Zk3v"`} {
		got := RedactOptions(json.RawMessage(bad))
		if strings.Contains(string(got), "Zk3v") || !json.Valid(got) || !strings.Contains(string(got), `"redacted":true`) {
			t.Errorf("of %s: %s", bad, got)
		}
	}
}

func TestDetail_pathsAreBounded(t *testing.T) {
	t.Parallel()
	from, to := map[string]int{}, map[string]int{}
	for i := range 2 * maxChangedPaths {
		from[fmt.Sprintf("key%03d", i)], to[fmt.Sprintf("key%03d", i)] = 1, 2
	}
	text, err := Detail(encode(from), encode(to))
	if err != nil {
		t.Fatal(err)
	}
	var d detail
	if err := json.Unmarshal([]byte(text), &d); err != nil || len(d.Changed) != maxChangedPaths {
		t.Errorf("%d paths, %v", len(d.Changed), err)
	}
	if changes := Changes(json.RawMessage(text), encode(from)); len(changes) != 2*maxChangedPaths {
		t.Errorf("%d changes", len(changes))
	}
	if Changes(json.RawMessage(`{"tags": {}}`), encode(from)) != nil {
		t.Error("a tag changes arguments")
	}
}
