package recordfile

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
func written(t *testing.T, r Record, format Format) string {
	t.Helper()
	var b strings.Builder
	w := bufio.NewWriter(&b)
	file, err := NewWriter(w, format)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(file.Begin(), file.Write(&r), file.End(), w.Flush()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func readAll(file string, format Format) (records []Record, err error) {
	f, err := NewReader(context.Background(), strings.NewReader(file), format)
	for err == nil {
		var r Record
		if r, err = f.Next(); err == nil {
			records = append(records, r)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return records, err
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
		a, b, c, d = pg.Storable(a, MaxTextBytes), pg.Storable(b, MaxTextBytes), pg.Storable(c, MaxTextBytes), pg.Storable(d, history.MaxMessageBytes)
		args, err := json.Marshal(map[string]string{a: b, c: d})
		if err != nil {
			t.Fatal(err)
		}
		at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
		j := Record{
			ID: uuid.New(), JobName: "j" + a, Args: args, Queue: "q" + b, MaxAttempts: 3, LastError: d, Reason: classify.Timeout,
			OriginalCreatedAt: at, MovedAt: at, State: stateDead, ErrorKind: classify.Kind(a), ErrorType: b, ErrorCode: c, DecidedBy: a, Fingerprint: b,
			ArgsHash: &a, DedupKey: &b, ProducerID: &c, Tags: args,
			Errors: history.Encode([]classify.Failure{{Attempt: 1, FailedAt: at, Message: d, Type: a, Stack: c}}),
		}
		if len(j.JobName) > MaxTextBytes || len(j.Queue) > MaxTextBytes {
			return
		}
		for _, format := range []Format{JSON, JSONL, CSV} {
			want := j
			if format == CSV {
				for _, text := range []**string{&want.ArgsHash, &want.DedupKey, &want.ProducerID} {
					if **text == "" {
						*text = nil
					}
				}
			}
			file := written(t, j, format)
			got, err := readAll(file, format)
			if format == CSV && err == nil && len(got) == 1 {
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
