package recordfile

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/internal/history"
	"soniq/internal/jsondoc"
	"soniq/internal/pg"
)

// written is a file with one dead letter.
func written(t *testing.T, r Record, format Format) string {
	t.Helper()
	var b strings.Builder
	w := bufio.NewWriter(&b)
	file, err := NewWriter(w, &b, format)
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
		a, b, c, d = pg.Storable(a, 1<<20), pg.Storable(b, 1<<20), pg.Storable(c, 1<<20), pg.Storable(d, 1<<20)
		args, err := json.Marshal(map[string]string{a: b, c: d})
		if err != nil {
			t.Fatal(err)
		}
		at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
		j := Record{
			ID: uuid.New(), JobName: "j" + a, Args: args, Queue: "q" + b, MaxAttempts: 3, LastError: d, Reason: classify.Timeout,
			OriginalCreatedAt: at, MovedAt: at, State: stateDead, ResurrectionCount: new(int), ErrorKind: classify.Kind(a), ErrorType: b, ErrorCode: c, DecidedBy: a, Fingerprint: b,
			ArgsHash: &a, DedupKey: &b, ProducerID: &c, Tags: args,
			Errors: history.Encode([]classify.Failure{{Attempt: 1, FailedAt: at, Message: d, Type: a, Stack: c}}),
		}
		if exact := exactOf(a, b, c, d); len(exact) > 0 {
			j.Exact, err = jsondoc.Append(nil, exact)
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, format := range []Format{JSON, JSONL, CSV} {
			want := j
			file := written(t, j, format)
			got, err := readAll(file, format)
			if format == CSV && err == nil && len(got) == 1 {
				// Its JSON has escapes more.
				for _, doc := range []*json.RawMessage{&got[0].Args, &got[0].Tags, &got[0].Errors} {
					if *doc, err = canonical(*doc); err != nil {
						t.Fatalf("%q: %v", file, err)
					}
				}
				want.Args, want.Tags = args, args
				if want.Errors, err = canonical(want.Errors); err != nil {
					t.Fatal(err)
				}
			}
			if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], want) {
				t.Fatalf("%s %q: %+v, %v; want %+v", format, file, got, err, want)
			}
		}
	})
}

// JSON that a program has made of our CSV has the same dead letters: whichever of its cells it took for
// numbers, and whether an empty one is null there or an empty text. A program that gives all records the
// members of some changes nothing either.
func TestReader_jsonOfOtherPrograms_isTheDeadLetter(t *testing.T) {
	t.Parallel()
	at, number := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), "007"
	want := Record{
		ID: uuid.New(), JobName: "=1", Args: json.RawMessage(`[{"a": "=1"}, 1.50]`), Queue: "q", Priority: 7, MaxAttempts: 3, LastError: "x;-1", Reason: classify.Timeout,
		OriginalCreatedAt: at, MovedAt: at, State: stateDead, ResurrectionCount: new(int), ErrorCode: "1e5", ArgsHash: &number, Tags: json.RawMessage(`"a"`),
		Errors: json.RawMessage(`"{}"`), Exact: json.RawMessage(`{"tags":"\"a\""}`),
	}
	plain := want
	plain.Tags, plain.Exact = json.RawMessage(`{"a":"ʼ"}`), nil
	for _, r := range []Record{want, plain} {
		rows, err := csv.NewReader(strings.NewReader(written(t, r, CSV))).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		for _, empty := range []any{nil, ""} {
			doc := map[string]any{}
			for i, name := range rows[0] {
				doc[name] = rows[1][i]
				if rows[1][i] == "" {
					doc[name] = empty
				} else if name == "priority" || name == "error_code" {
					doc[name] = json.RawMessage(rows[1][i])
				}
			}
			file, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			got, err := readAll(string(file), JSONL)
			if err != nil || len(got) != 1 {
				t.Fatalf("%s: %v", file, err)
			}
			for _, d := range []*json.RawMessage{&got[0].Args, &got[0].Tags, &got[0].Errors} {
				*d = json.RawMessage(strings.ReplaceAll(string(*d), `\u003d`, "="))
			}
			if !reflect.DeepEqual(got[0], r) {
				t.Errorf("%s: %+v, want %+v", file, got[0], r)
			}
		}
		file := strings.Replace(written(t, r, JSONL), `"exact":{`, `"exact":{"scheduled_at":null,"error_kind":null,`, 1)
		if got, err := readAll(file, JSONL); err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], r) {
			t.Errorf("%s: %+v, %v", file, got, err)
		}
	}
}

// exactOf has the columns of the record above that are empty.
func exactOf(a, b, c, d string) map[string]string {
	exact := map[string]string{}
	for name, text := range map[string]string{
		"last_error": d, "error_kind": a, "error_type": b, "error_code": c, "decided_by": a, "fingerprint": b, "args_hash": a, "dedup_key": b, "producer_id": c,
	} {
		if text == "" {
			exact[name] = ""
		}
	}
	return exact
}

// canonical is the JSON as encoding/json writes it.
func canonical(doc json.RawMessage) (json.RawMessage, error) {
	var value any
	if err := json.Unmarshal(doc, &value); err != nil {
		return nil, err
	}
	return json.Marshal(value)
}

// FuzzRecord_JSON: encoding/json reads from a record what the columns have.
func FuzzRecord_JSON(f *testing.F) {
	for i, s := range awkwardTexts {
		f.Add(s, "x"+s, i, uint64(i), int64(i)*1e15+int64(i))
	}
	f.Fuzz(func(t *testing.T, a, b string, n int, xid uint64, micros int64) {
		a, b = strings.ToValidUTF8(a, "?"), strings.ToValidUTF8(b, "?")
		at := time.UnixMicro(micros % 2e17).UTC()
		id, yes := uuid.NewSHA1(uuid.Nil, []byte(a)), n%2 == 0
		doc, _ := json.Marshal(b)
		r := Record{
			ID: id, JobName: a, Args: doc, Queue: b, Priority: n, LastError: a + b, OriginalCreatedAt: at, MovedAt: at, ResurrectionCount: &n,
			Tags: json.RawMessage("{\"a\":\r\n[1,\n2]}"), ReplayJobID: &id, DedupKey: &b, UniqueJob: &yes, ScheduledAt: &at, MovedXID: &xid, Exact: json.RawMessage(`{}`),
			TraceContext: strings.Repeat("t", n&1),
		}
		text := r.AppendJSON(nil)
		var got, filled map[string]json.RawMessage
		if err := json.Unmarshal(text, &got); err != nil || strings.ContainsAny(string(text), "\r\n") || len(got) != len(header)+n&1 {
			t.Fatalf("%d columns, %v: %s", len(got), err, text)
		}
		for name, want := range map[string]any{
			"id": id, "job_name": a, "args": b, "queue": b, "priority": n, "last_error": a + b, "original_created_at": at.Format("2006-01-02T15:04:05.000000Z"),
			"resurrection_count": n, "tags": json.RawMessage(`{"a":[1,2]}`), "replay_job_id": id, "replay_of": nil, "dedup_key": b, "unique_job": yes,
			"scheduled_at": at.Format("2006-01-02T15:04:05.000000Z"), "moved_xid": xid, "created_at": nil, "errors": nil, "exact": struct{}{}, "args_hash": nil,
		} {
			value, err := json.Marshal(want)
			if err != nil || !sameJSON(value, got[name]) {
				t.Errorf("%s: %s, want %s, %v", name, got[name], value, err)
			}
		}
		// A batch for the server has the same, but for what is null and the transaction.
		if err := json.Unmarshal(r.appendFilled(nil), &filled); err != nil {
			t.Fatal(err)
		}
		maps.DeleteFunc(got, func(name string, value json.RawMessage) bool { return name == "moved_xid" || string(value) == "null" })
		if !maps.EqualFunc(filled, got, func(a, b json.RawMessage) bool { return string(a) == string(b) }) {
			t.Errorf("a batch has %s, want %s", filled, got)
		}
	})
}

// A record that is longer than what may come out of a compressed file is stored so that it may. Compressed
// by another program it is refused, before it takes much memory.
func TestGzip_longRecords_areReadBack(t *testing.T) {
	// Not parallel: it takes some hundred megabytes.
	long := Record{ID: uuid.New(), JobName: "a", Args: json.RawMessage(`"` + strings.Repeat("x", MaxRecordBytes+8<<20) + `"`), Reason: classify.Timeout, MovedAt: time.Now(), State: stateDead}
	short := long
	short.Args = json.RawMessage("1")
	for _, ours := range []bool{true, false} {
		var file bytes.Buffer
		var to io.Writer
		var end func() error
		if ours {
			zip := NewGzip(&file)
			to, end = zip, zip.Close
		} else {
			zip := gzip.NewWriter(&file)
			to, end = zip, zip.Close
		}
		buffer := bufio.NewWriter(to)
		w, err := NewWriter(buffer, to, JSONL)
		if err == nil {
			err = errors.Join(w.Begin(), w.Write(&short), w.Write(&long), w.Write(&short), w.End(), buffer.Flush(), end())
		}
		if err != nil {
			t.Fatal(err)
		}
		r, err := NewReader(t.Context(), &file, JSONL)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []Record{short, long, short} {
			got, err := r.Next()
			mistake := (*Error)(nil)
			switch refused := errors.As(err, &mistake); {
			case i == 1 && !ours:
				if !refused || mistake.Fatal || mistake.Line != 2 {
					t.Errorf("%v", err)
				}
			case err != nil || len(got.Args) != len(want.Args):
				t.Errorf("ours %t, record %d: %d bytes, %v", ours, i+1, len(got.Args), err)
			}
		}
	}
}

// The line of a record counts those within and between the records before it, however the reads cut
// them.
func TestReader_linesWithinAndBetweenRecords_count(t *testing.T) {
	t.Parallel()
	const id, at = "00000000-0000-4000-8000-000000000001", "2026-01-02T03:04:05Z"
	const header = "id,job_name,args,dead_letter_reason,moved_to_dead_letter_at,last_error\n"
	good := `{"id":"` + id + `","job_name":"a","args":{"x":"}]\"\\"},"dead_letter_reason":"timeout","moved_to_dead_letter_at":"` + at + `"}`
	for _, file := range []struct {
		format Format
		text   string
		line   int64
	}{
		{CSV, header + id + `,a,{},timeout,` + at + `,"a""` + "\n\r\n" + strings.Repeat("x\n", 3000) + "\"\nwrong,a,{},timeout," + at + ",\n", 3005},
		{CSV, header + "\n\n" + id + `,"a,""b""",{},timeout,` + at + ",\n\nwrong,a,{},timeout," + at + ",\n", 6},
		{JSON, "\n \t[\n" + good + strings.Repeat("\n ", 3000) + ",\n" + strings.Replace(good, id, "wrong", 1) + "]", 3004},
		{JSONL, good + "\n" + strings.Repeat("\n", 3000) + strings.Replace(good, id, "wrong", 1), 3002},
	} {
		for name, in := range map[string]io.Reader{
			"at once": strings.NewReader(file.text), "in single bytes": iotest.OneByteReader(strings.NewReader(file.text)),
		} {
			r, err := NewReader(t.Context(), in, file.format)
			if err != nil {
				t.Fatal(err)
			}
			if first, err := r.Next(); err != nil || first.ID.String() != id {
				t.Errorf("%s %s: the first is %s, %v", file.format, name, first.ID, err)
			}
			_, err = r.Next()
			if mistake := (*Error)(nil); !errors.As(err, &mistake) || mistake.Line != file.line || mistake.Field != "id" {
				t.Errorf("%s %s: the mistake is %v, want one at line %d", file.format, name, err, file.line)
			}
		}
	}
}
