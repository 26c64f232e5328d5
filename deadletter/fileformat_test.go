package deadletter

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/internal/history"
	"soniq/internal/pg"
)

// written is a file with one dead letter.
func written(t *testing.T, j Job, format Format) string {
	t.Helper()
	var b strings.Builder
	w := bufio.NewWriter(&b)
	e, err := newEncoder(w, format)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(e.begin(), e.job(&j, history.Encode(j.Errors)), e.end(), w.Flush()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func readAll(file string, format Format) (jobs []Job, err error) {
	f, err := openImport(context.Background(), strings.NewReader(file), format)
	for err == nil {
		var j Job
		if j, err = f.next(); err == nil {
			jobs = append(jobs, j)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return jobs, err
}

// FuzzFileFormats: whatever texts a dead letter has, what is read from its
// export is the dead letter.
func FuzzFileFormats(f *testing.F) {
	for _, s := range []string{
		"plain", "a\r\nb", "\r", "\n", "=1+1", "'=1+1", "''", "'a", `"`, `""`, `",`, ",", `\.`, " a ", "\ufeff", "\u2028", "\x00", "\xff", "\U0001F600", "null", "-1",
	} {
		f.Add(s, "x"+s, s+s, s+"\r\n"+s)
	}
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		a, b, c, d = pg.Storable(a, maxTextBytes), pg.Storable(b, maxTextBytes), pg.Storable(c, maxTextBytes), pg.Storable(d, history.MaxMessageBytes)
		args, err := json.Marshal(map[string]string{a: b, c: d})
		if err != nil {
			t.Fatal(err)
		}
		at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
		j := Job{
			ID: uuid.New(), JobName: "j" + a, Args: args, Queue: "q" + b, MaxAttempts: 3, LastError: d, Reason: classify.Timeout,
			OriginalCreatedAt: at, MovedAt: at, State: StateDead, ErrorKind: classify.Kind(a), ErrorType: b, ErrorCode: c, DecidedBy: a, Fingerprint: b,
			ArgsHash: &a, DedupKey: &b, ProducerID: &c, Tags: args,
			Errors: []classify.Failure{{Attempt: 1, FailedAt: at, Message: d, Type: a, Stack: c}},
		}
		if len(j.JobName) > maxTextBytes || len(j.Queue) > maxTextBytes {
			return
		}
		for _, format := range []Format{FormatJSON, FormatJSONL, FormatCSV} {
			want := j
			if format == FormatCSV {
				for _, text := range []**string{&want.ArgsHash, &want.DedupKey, &want.ProducerID} {
					if **text == "" {
						*text = nil
					}
				}
			}
			file := written(t, j, format)
			got, err := readAll(file, format)
			if format == FormatCSV && err == nil && len(got) == 1 {
				// Its JSON has escapes more.
				for _, doc := range []*json.RawMessage{&got[0].Args, &got[0].Tags} {
					if *doc, err = canonical(*doc); err != nil {
						t.Fatalf("%q: %v", file, err)
					}
				}
				want.Args, want.Tags = args, args
			}
			if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], want) {
				t.Fatalf("%s %q: %+v, %v; want %+v", format, file, got, err, want)
			}
		}
	})
}

// canonical is the JSON as encoding/json writes it.
func canonical(doc json.RawMessage) (json.RawMessage, error) {
	var value any
	if err := json.Unmarshal(doc, &value); err != nil {
		return nil, err
	}
	return json.Marshal(value)
}
