package history

import (
	"bytes"
	"encoding/json"
	"testing"

	"soniq/deadletter/classify"
)

// Where the column is taken as it is, decoding it would have lost nothing.
func FuzzAreFailures(f *testing.F) {
	for column := range columnsOfFailures {
		f.Add([]byte(column))
	}
	f.Fuzz(func(t *testing.T, column []byte) {
		if !json.Valid(column) || !areFailures(column) {
			return
		}
		var failures []classify.Failure
		dec := json.NewDecoder(bytes.NewReader(column))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&failures); err != nil {
			t.Errorf("%s: %v", column, err)
		}
	})
}

// The columns, and whether they are taken as they are.
var columnsOfFailures = map[string]bool{
	`[{"attempt": 1, "message": "", "failed_at": "2026-01-02T03:04:05.678Z"}]`:                                                                    true,
	`[{"kind": "error", "attempt": 1, "message": "a \"b\" \\"}, {"stack": "x\ny", "message": "}, {", "started_at": "2026-01-02T03:04:05+02:00"}]`: true,
	`[{"worker_id": "01a2139f-1e3c-7013-ae94-2500a98c6df9", "type": "*x.E", "code": "503", "decided_by": "rule"}]`:                                true,
	`null`:                       false,
	`[]`:                         false,
	`{}`:                         false,
	`[{}]`:                       false,
	`[1]`:                        false,
	`[null]`:                     false,
	`[{"attempt": "1"}]`:         false,
	`[{"attempt": -1}]`:          false,
	`[{"attempt": 1.5}]`:         false,
	`[{"attempt": 1e3}]`:         false,
	`[{"attempt": 12345678901}]`: false,
	`[{"message": null}]`:        false,
	`[{"message": 1}]`:           false,
	`[{"message": {"a": "b"}}]`:  false,
	`[{"message": "a"}, 1]`:      false,
	`[{"message": "a"}, []]`:     false,
	`[{"Message": "a"}]`:         false,
	`[{"else": "a"}]`:            false,
	`[{"failed_at": "now"}]`:     false,
	`[{"failed_at": "2026-01-02T03:04:05,5Z"}]`:                 false,
	`[{"failed_at": "2026-01-02T3:04:05Z"}]`:                    false,
	`[{"worker_id": "x"}]`:                                      false,
	`[{"worker_id": "{01a2139f-1e3c-7013-ae94-2500a98c6df9}"}]`: false,
	// The form of jsonb is another one.
	`[{"attempt":1}]`:         false,
	`[ {"attempt": 1} ]`:      false,
	`[{"attempt": 1 }]`:       false,
	`[{"attempt": 1}]` + "\n": false,
}

func TestAreFailures(t *testing.T) {
	t.Parallel()
	for column, want := range columnsOfFailures {
		if got := areFailures([]byte(column)); got != want {
			t.Errorf("%s: %t", column, got)
		}
		// No beginning of one is one, and none makes it fall.
		for i := range len(column) - 1 {
			if areFailures([]byte(column[:i])) {
				t.Errorf("%s: yes", column[:i])
			}
		}
	}
}
