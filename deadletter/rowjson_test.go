package deadletter

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// encoded is what encoding/json makes of it.
func encoded(t *testing.T, v any) string {
	t.Helper()
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

var awkwardTexts = []string{
	"", "plain", "a\r\nb", "=1+1", `"quoted"`, `a\b`, `\`, `\.`, ",", " a", "\ta", "\va", "\u00a0a", "\u2028", "\u2003x", "\xff", "\xc2", "<&>", "\x00", "\x7f", "über", "\U0001F600",
}

func FuzzAppendJob(f *testing.F) {
	for i, s := range awkwardTexts {
		f.Add(s, "x"+s, i, uint64(i), int64(i)*1e15+int64(i))
	}
	f.Fuzz(func(t *testing.T, a, b string, n int, xid uint64, micros int64) {
		at := time.UnixMicro(micros % 2e17).UTC()
		id, other := uuid.NewSHA1(uuid.Nil, []byte(a)), uuid.NewSHA1(uuid.Nil, []byte(b))
		full := Job{
			ID: id, JobName: a, Args: json.RawMessage(encoded(t, b)), Queue: b, Priority: n, MaxAttempts: -n, Attempts: n / 2,
			LastError: a + b, Reason: Reason(b), OriginalCreatedAt: at, MovedAt: at.Add(time.Second), ResurrectionCount: n,
			LastResurrectionAt: &at, Tags: json.RawMessage("{\"a\":\r\n[1,\n2]}"), State: a, ReplayJobID: &id, ReplayOf: &other,
			ErrorKind: Kind(b), ErrorType: a, ErrorCode: b, DecidedBy: a, Fingerprint: b,
			ArgsHash: &a, UniqueJob: n%2 == 0, DedupKey: &b, ProducerID: &a, WorkerID: &other, ScheduledAt: &at,
			MovedXID: &xid, CreatedAt: &at,
			Errors: []Failure{{Attempt: n, FailedAt: at, Message: a}, {Stack: b, WorkerID: &id}},
		}
		for _, j := range []Job{full, {}, {Args: json.RawMessage("null"), Errors: []Failure{}}} {
			if got, want := string(appendJob(nil, &j, encodeFailures(j.Errors))), encoded(t, j); got != want {
				t.Errorf("%s\nwant\n%s", got, want)
			}
		}
	})
}

// A cell is what encoding/csv reads of it, in quotes unless it is empty.
func FuzzAppendCell(f *testing.F) {
	for _, s := range awkwardTexts {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		line := string(appendCell([]byte("x,"), s))
		if bytes := string(appendCell([]byte("x,"), []byte(s))); bytes != line {
			t.Errorf("%q, as bytes %q", line, bytes)
		}
		if quoted := strings.HasPrefix(line, `x,"`) && strings.HasSuffix(line, `"`) && len(line) > 3; quoted != (s != "") {
			t.Errorf("%q of %q", line, s)
		}
		// encoding/csv changes the line ends.
		want := strings.ReplaceAll(s, "\r\n", "\n")
		if got, err := csv.NewReader(strings.NewReader(line)).Read(); err != nil || len(got) != 2 || got[1] != want {
			t.Errorf("%q is read as %q, %v", line, got, err)
		}
	})
}

// Where the column is taken as it is, decoding it would have lost nothing.
func FuzzAreFailures(f *testing.F) {
	for column := range columnsOfFailures {
		f.Add([]byte(column))
	}
	f.Fuzz(func(t *testing.T, column []byte) {
		if !json.Valid(column) || !areFailures(column) {
			return
		}
		var failures []Failure
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
