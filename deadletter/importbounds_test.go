package deadletter

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"soniq/internal/recordfile"
)

// goodRecord lacks nothing; its last brace is left out.
const goodRecord = `{"id":"00000000-0000-4000-8000-000000000001","job_name":"a","args":{},"dead_letter_reason":"timeout","moved_to_dead_letter_at":"2026-01-02T03:04:05Z"`

// repeated is text that comes again until there are n bytes of it.
type repeated struct {
	text string
	n    int
	at   int
}

func (r *repeated) Read(p []byte) (n int, err error) {
	if r.n <= 0 {
		return 0, io.EOF
	}
	if len(r.text) < 32<<10 {
		r.text = strings.Repeat(r.text, 32<<10/len(r.text)+1) // few copies
	}
	for n < len(p) && r.n > 0 {
		m := copy(p[n:min(len(p), n+r.n)], r.text[r.at:])
		r.at = (r.at + m) % len(r.text)
		r.n -= m
		n += m
	}
	return n, nil
}

// numbered is text with a number in it that is another one each time. It allocates nothing
// but one buffer: a test counts what all take.
type numbered struct {
	before, after string
	n, i          int
	buffer, rest  []byte
}

func (r *numbered) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		if r.i++; r.i > r.n {
			return 0, io.EOF
		}
		r.buffer = append(r.buffer[:0], r.before...)
		r.buffer = strconv.AppendInt(r.buffer, int64(10_000_000+r.i), 10)
		r.buffer = append(r.buffer, r.after...)
		r.rest = r.buffer
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func file(parts ...any) io.Reader {
	var readers []io.Reader
	for _, part := range parts {
		switch part := part.(type) {
		case string:
			readers = append(readers, strings.NewReader(part))
		case io.Reader:
			readers = append(readers, part)
		}
	}
	return io.MultiReader(readers...)
}

// compressed is what gzip makes of in.
func compressed(in io.Reader) io.Reader {
	r, w := io.Pipe()
	go func() {
		z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed)
		_, err := io.Copy(z, in)
		_ = w.CloseWithError(errors.Join(err, z.Close()))
	}()
	return r
}

// endless calls stop once much of it was read. It has no end.
type endless struct {
	text string
	at   int
	left int
	stop func()
}

func (r *endless) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		m := copy(p[n:], r.text[r.at:])
		r.at = (r.at + m) % len(r.text)
		n += m
	}
	if r.left -= n; r.left < 0 {
		r.stop()
	}
	return n, nil
}

// Whatever a file holds, the memory that reading it takes is a few times that of
// the longest record: all that is allocated for one is counted, freed or not.
func TestCheckImport_hostileFiles_memoryIsBounded(t *testing.T) {
	// Not parallel: it counts what the process allocates.
	const header = "id,job_name,args,dead_letter_reason,moved_to_dead_letter_at"
	const row = "00000000-0000-4000-8000-000000000001,a,{},timeout,2026-01-02T03:04:05Z"
	const much = 7_999_980 // a multiple of the lengths below
	const tooMuch = recordfile.MaxRecordBytes + 12<<20
	for _, tt := range []struct {
		name   string
		format Format
		in     io.Reader
		want   string
		rows   int64
	}{
		{"entries of a history", "jsonl", compressed(file(goodRecord+`,"errors":[{}`, &repeated{text: ",{}", n: much}, "]}")), "", 1},
		{"entries of a short history", "jsonl", file(goodRecord+`,"errors":[1`, &repeated{text: ",1", n: 1 << 19}, "]}"), "", 1},
		{"an array of histories", "json", file("["+goodRecord+`,"errors":[{}`, &repeated{text: ",{}", n: much}, "]}]"), "", 1},
		{"columns", "jsonl", file(goodRecord, &numbered{before: `,"k`, after: `":0`, n: much / 13}, "}"), `more than 100 unknown columns, such as "k10000101"`, 0},
		{"one column again", "jsonl", file(goodRecord, &repeated{text: `,"args":{}`, n: much}, "}"), "", 1},
		{"a long key", "jsonl", file(goodRecord+`,"k`, &repeated{text: `k`, n: much}, `":0}`), "", 1},
		{"an unknown field of an entry", "jsonl", file(goodRecord+`,"errors":[{"k`, &repeated{text: `k`, n: 1 << 19}, `":0}]}`), "", 1},
		{"a number where a text belongs", "jsonl", file(goodRecord+`,"errors":[{"message":1`, &repeated{text: `1`, n: 1 << 19}, `}]}`), `errors: the number "111111`, 0},
		{"nested", "jsonl", file(goodRecord+`,"args":`, &repeated{text: `[`, n: much}), "exceeded max depth", 0},
		{"many numbers", "jsonl", file(goodRecord+`,"args":[1`, &repeated{text: `,1`, n: much}, `]}`), "", 1},
		{"a record too long", "jsonl", compressed(file(goodRecord+`,"args":"`, &repeated{text: `x`, n: tooMuch}, `"}`)), "as in the compressed file; decompress the file first", 0},
		{"a record too long in an array", "json", compressed(file("["+goodRecord+`,"args":"`, &repeated{text: `x`, n: tooMuch}, `"}]`)), "as in the compressed file; decompress the file first", 0},
		{"blank lines", "jsonl", file(&repeated{text: "\n", n: 4 * much}, goodRecord, "}"), "", 1},
		{"one blank line", "jsonl", file(&repeated{text: " ", n: 4 * much}, goodRecord, "}"), "", 1},
		{"white space", "json", file(&repeated{text: " \n", n: 4 * much}, "["+goodRecord+"}", &repeated{text: " ", n: 4 * much}, "]"), "", 1},
		{"cells", "csv", file(header+"\n"+row, &repeated{text: ",", n: much}), "it has 7999985 cells, and the header has 5", 0},
		{"cells that are long", "csv", file(header+"\n"+row, &repeated{text: `,"abc"`, n: much}), "cells, and the header has 5", 0},
		{"cells of the header", "csv", file("id", &numbered{before: `,k`, n: much / 10}), `799999 columns, more than the 1000`, 0},
		{"empty cells of the header", "csv", file("id", &repeated{text: `,`, n: much}), `columns, more than the 1000`, 0},
		{"a long name in the header", "csv", file("id,", &repeated{text: `k`, n: much}), `the column job_name is missing`, 0},
		{"a long text", "csv", file(header+",last_error\n"+row+",", &repeated{text: "\x01", n: much}), "", 1},
		{"a long time", "csv", file(header+"\n"+row, &repeated{text: "\x01", n: much}), "is not a time", 0},
		{"a long number", "csv", file(header+",priority\n"+row+",", &repeated{text: "1", n: much}), "is not a whole number", 0},
		{"a row too long", "csv", compressed(file(header+"\n"+row+`,"`, &repeated{text: "x\n", n: tooMuch})), "as in the compressed file; decompress the file first", 0},
		{"blank rows", "csv", file(header+"\n", &repeated{text: "\r\n", n: 4 * much}, row), "", 1},
		{"many members", "csv", file(compressed(file(header+"\n"+row+"\n")), &repeated{text: emptyMember(t), n: len(emptyMember(t)) * 100_000}), "", 1},
		{"something after gzip", "csv", file(compressed(file(header+"\n"+row+"\n")), "junk and more junk"), "after the compressed data comes something", 0},
		{"something after an array", "json", file(compressed(file("[]")), "junk and more junk"), "after the compressed data comes something", 0},
		{"half a member", "jsonl", file(compressed(file(goodRecord+"}\n")), emptyMember(t)[:12]), "unexpected EOF", 0},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		rows, err := CheckImport(t.Context(), tt.in, tt.format, nil)
		runtime.ReadMemStats(&after)
		if pipe, ok := tt.in.(io.Closer); ok {
			_ = pipe.Close() // of a reader
		}
		if err == nil != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) || err == nil && rows != tt.rows {
			t.Errorf("%s: %d rows, %.300v; want %s", tt.name, rows, err, tt.want)
		}
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("%s: the error has %d bytes: %.300v", tt.name, len(err.Error()), err)
		}
		allocated := after.TotalAlloc - before.TotalAlloc
		t.Logf("%-30s %5d MiB", tt.name, allocated>>20)
		most := uint64(16 * much)
		if strings.HasPrefix(tt.name, "a record too long") || tt.name == "a row too long" {
			most = 8 * recordfile.MaxRecordBytes
		}
		if allocated > most {
			t.Errorf("%s: %d MiB were allocated", tt.name, allocated>>20)
		}
	}
}

func emptyMember(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	if err := gzip.NewWriter(&b).Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// A file that never comes to a record, or never to the end of one, is given up
// when the context ends: that it was is not the file's mistake.
func TestCheckImport_endless_endsWithItsContext(t *testing.T) {
	t.Parallel()
	const header = "id,job_name,args,dead_letter_reason,moved_to_dead_letter_at\n"
	for _, tt := range []struct {
		name   string
		format Format
		begin  string
		text   string
		zip    bool
	}{
		{"blank lines", "jsonl", "", "\n", false},
		{"blank lines, compressed", "jsonl", "", "\n", true},
		{"white space", "json", "", " ", false},
		{"white space, compressed", "json", "[", " ", true},
		{"blank rows", "csv", header, "\n", false},
		{"blank rows, compressed", "csv", header, "\r\n", true},
		{"members", "csv", "", emptyMember(t), false},
		{"records", "jsonl", "", goodRecord + "}\n", true},
	} {
		ctx, stop := context.WithCancelCause(t.Context())
		in := file(tt.begin, &endless{text: tt.text, left: 4 << 20, stop: func() { stop(nil) }})
		from := in
		var pipe *io.PipeReader
		if tt.zip {
			from = compressed(in)
			pipe = from.(*io.PipeReader)
		}
		_, err := CheckImport(ctx, from, tt.format, nil)
		var where *FileError
		if !errors.Is(err, context.Canceled) || errors.As(err, &where) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if pipe != nil {
			_ = pipe.Close()
		}
	}
}
