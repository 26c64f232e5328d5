package deadletter

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/internal/history"
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

// The JSON of an export is what encoding/json makes of a Job.
func FuzzJob_record(f *testing.F) {
	for i, s := range awkwardTexts {
		f.Add(s, "x"+s, i, uint64(i), int64(i)*1e15+int64(i))
	}
	f.Fuzz(func(t *testing.T, a, b string, n int, xid uint64, micros int64) {
		at := time.UnixMicro(micros % 2e17).UTC()
		id, other := uuid.NewSHA1(uuid.Nil, []byte(a)), uuid.NewSHA1(uuid.Nil, []byte(b))
		full := Job{
			ID: id, JobName: a, Args: json.RawMessage(encoded(t, b)), Queue: b, Priority: n, MaxAttempts: -n, Attempts: n / 2,
			LastError: a + b, Reason: classify.Reason(b), OriginalCreatedAt: at, MovedAt: at.Add(time.Second), ResurrectionCount: n,
			LastResurrectionAt: &at, Tags: json.RawMessage("{\"a\":\r\n[1,\n2]}"), State: State(a), ReplayJobID: &id, ReplayOf: &other,
			ErrorKind: classify.Kind(b), ErrorType: a, ErrorCode: b, DecidedBy: a, Fingerprint: b,
			ArgsHash: &a, UniqueJob: n%2 == 0, DedupKey: &b, ProducerID: &a, WorkerID: &other, ScheduledAt: &at,
			MovedXID: &xid, CreatedAt: &at,
			Errors: []classify.Failure{{Attempt: n, FailedAt: at, Message: a}, {Stack: b, WorkerID: &id}},
		}
		for _, j := range []Job{full, {}, {Args: json.RawMessage("null"), Errors: []classify.Failure{}}} {
			if got, want := string(j.record(history.Encode(j.Errors)).AppendJSON(nil)), encoded(t, j); got != want {
				t.Errorf("%s\nwant\n%s", got, want)
			}
		}
	})
}
