package deadletter_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/testdb"
	"soniq/internal/tracecontext"
)

// Files as Python Soniq's export writes them: an array over many lines, times
// with a space, fewer columns, and in CSV line ends of CR LF and no defusing.
func TestQueue_Import_filesOfPython(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	for _, name := range []string{"python_export.json", "python_export.csv"} {
		file, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		exec(t, pool, "truncate soniq_dead_letter_jobs")
		format := deadletter.Format(name[strings.LastIndex(name, ".")+1:])
		if result := restore(t, q, string(file), format); result.Imported != 2 {
			t.Errorf("%s: %+v", name, result)
		}
		j := get(t, q, uuid.MustParse("0f3a8a43-46ab-4ab1-8b7b-0c3c3a2f7f10"))
		if j.JobName != "emails.send" || j.LastError != "'=1\r\nTraceback: \"é\"" || string(j.Args) != `{"user_id": 42}` ||
			string(j.Tags) != `{"team": "a"}` || j.State != deadletter.StateDead || j.CreatedAt != nil || j.MovedXID != nil ||
			!j.MovedAt.Equal(time.Date(2026, 11, 23, 9, 39, 15, 766776000, time.UTC)) || j.ResurrectionCount != 1 || !j.OutcomeUnknown() {
			t.Errorf("%s: %+v", name, j)
		}
	}
}

// good is a record that lacks nothing; a test takes something away.
const good = `{"id":"00000000-0000-4000-8000-000000000001","job_name":"a","args":{},"dead_letter_reason":"timeout","moved_to_dead_letter_at":"2026-01-02T03:04:05Z"}`

// with is good with these keys too; the last one of a name counts.
func with(more string) string { return strings.TrimSuffix(good, "}") + "," + more + "}" }

// Each mistake is told in one line, with its place, and nothing gets in.
func TestQueue_Import_mistakes_areNamedAndNothingGetsIn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	const header = "id,job_name,args,dead_letter_reason,moved_to_dead_letter_at"
	const row = "00000000-0000-4000-8000-000000000001,a,{},timeout,2026-01-02T03:04:05Z"
	long := func(n int) string { return strings.Repeat("x", n) }
	deep := strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)
	for _, tt := range []struct {
		format deadletter.Format
		file   string
		want   string
	}{
		{"xml", "", `unknown format "xml"`},
		{"json", "", "line 1: the file is empty"},
		{"json", " \n\n", "line 3: the file is empty"},
		{"json", "null", "line 1: not a JSON array"},
		{"json", good, "line 1: not a JSON array but an object; if each line is one, the format is jsonl"},
		{"json", "[\n" + good, "line 2: the file ends before the ] of the array"},
		{"json", "[\n" + good + ",", "line 2: the file ends before the ] of the array"},
		{"json", "[\n" + good + ",]", "line 2, record 2: not a JSON object"},
		{"json", "[\n" + good + "\n" + good + "]", "line 3: no comma"},
		{"json", "[\n" + good + "\n]\n\nx", "line 5: there is something after the array"},
		{"json", "[\n" + good + ",\n7]", "line 3, record 2: not a JSON object"},
		{"json", "[\n" + good + ",\n{\"id\": [\n\n", "line 3, record 2: the file ends in the middle of it"},
		{"json", "[\n{\"a\": \"\\", "line 2, record 1: the file ends in the middle of it"},
		{"json", "[{]]", "line 1, record 1: not valid JSON"},
		{"json", "[{x}]", "line 1, record 1: not valid JSON"},
		{"jsonl", good + "\n[" + good + "]\n", "line 2, record 2: an array, not an object; if the whole file is one array, the format is json"},
		{"jsonl", good + "\n\n" + good[:20], "line 3, record 2: not valid JSON"},
		{"jsonl", good + "\n7", "line 2, record 2: not a JSON object"},
		{"jsonl", good + good, "line 1, record 1: not valid JSON"},
		{"jsonl", "{}", "line 1, record 1: id: missing"},
		{"jsonl", with(`"args":null,"job_name":null`), "job_name: missing"},
		{"jsonl", with(`"queeu":"y"`), `unknown column "queeu": is it queue?`},
		{"jsonl", with(`"id":"7"`), `id: "7" is not a UUID`},
		{"jsonl", with(`"id":7`), `id: 7 is not a UUID`},
		{"jsonl", with(`"job_name":7`), `job_name: 7 is not a text`},
		{"jsonl", with(`"job_name":""`), `job_name: empty`},
		{"jsonl", with("\"job_name\":\"a\xffb\""), `not valid UTF-8`},
		{"jsonl", with(`"job_name":"a\u0000b"`), `job_name: it has a NUL`},
		{"jsonl", with(`"args":{"a":"\u0000"}`), `args: \u0000 can't be stored`},
		{"jsonl", with(`"args":{"a":"\ud800"}`), `args: half of a surrogate pair`},
		{"jsonl", with(`"args":` + deep), `stack depth limit exceeded`},
		{"jsonl", with(`"args":[1e131072]`), `args: the number "1e131072" can't be stored`},
		{"jsonl", with(`"args":[1e-99999999999999]`), `args: the number "1e-99999999999999" can't be stored`},
		{"jsonl", with(`"tags":"{\"a\":\"\\u0000\"}"`), `tags: \u0000 can't be stored`},
		{"jsonl", with(`"state":"` + long(100) + `"`), `state: "` + long(60) + `"... is not dead`},
		{"jsonl", with(`"state":"zombie"`), `state: "zombie" is not dead, replaying or resolved`},
		{"jsonl", with(`"priority":1.5`), `priority: 1.5 is not a whole number`},
		{"jsonl", with(`"priority":3000000000`), `priority: 3000000000 is not a whole number of 32 bits`},
		{"jsonl", with(`"moved_xid":-1`), `moved_xid: -1 is not a transaction number`},
		{"jsonl", with(`"unique_job":"yes"`), `unique_job: "yes" is neither true nor false`},
		{"jsonl", with(`"created_at":"yesterday"`), `created_at: "yesterday" is not a time`},
		{"jsonl", with(`"created_at":"2026-02-30T03:04:05"`), `created_at: "2026-02-30T03:04:05" is not a time`},
		{"jsonl", with(`"created_at":"02.01.2026 03:04"`), `created_at: "02.01.2026 03:04" is not a time`},
		{"jsonl", with(`"errors":[{"message":"\u0000"}]`), `errors: \u0000 can't be stored`},
		{"csv", "", "line 1: the file is empty"},
		{"csv", "id,nmae\n", `line 1: the column job_name is missing`},
		{"csv", "id;job_name;args\n", `line 1: the column dead_letter_reason is missing`},
		{"csv", "id,id\n", `line 1: the column id is there twice`},
		{"csv", "id,job_name,args\n", `line 1: the column dead_letter_reason is missing`},
		{"csv", header + "\n\n" + row + ",\n", "line 3, record 1: it has 6 cells, and the header has 5"},
		{"csv", header + "\n" + row + "\n" + `"` + row, "line 3, record 2: the file ends in the middle of it"},
		{"csv", header + "\n" + strings.Replace(row, ",a,", `,a"b,`, 1), "line 2, record 1: a quote within a cell"},
		{"csv", header + "\n" + strings.Replace(row, ",a,", `,"a"b,`, 1), "line 2, record 1: something between the quote"},
		{"csv", header + "\n" + strings.Replace(row, ",a,", ",a\rb,", 1), "line 2, record 1: a line end of CR alone"},
		{"csv", header + "\n" + strings.Replace(row, ",a,", ",a\xff,", 1), "job_name: not valid UTF-8"},
		{"csv", header + "\n" + strings.Replace(row, ",a,", ",a\x00,", 1), "job_name: it has a NUL"},
		{"csv", header + "\n" + strings.Replace(row, ",{},", ",{x},", 1), `args: not valid JSON`},
		{"csv", header + "\n" + strings.Replace(row, "0000", ",", 1), "line 2, record 1: it has 6 cells"},
		{"json", "\x1f\x8bxx", "line 1: "},
		{"json", zipped(t, "[]")[:20], "unexpected EOF"},
		{"jsonl", zipped(t, good)[:len(zipped(t, good))-8] + "checksum", "gzip: invalid checksum"},
	} {
		_, checked := deadletter.CheckImport(t.Context(), strings.NewReader(tt.file), tt.format, nil)
		result, err := q.Import(t.Context(), strings.NewReader(tt.file), tt.format, deadletter.ImportOptions{})
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.ContainsAny(err.Error(), "\n\r") || result.Imported != 0 {
			t.Errorf("%s %.200q: %v, want %q; %+v", tt.format, tt.file, err, tt.want, result)
		} else if tt.want == "stack depth limit exceeded" {
			continue // only the database knows
		} else if checked == nil || strings.TrimPrefix(checked.Error(), "check dead letters: ") != strings.TrimPrefix(err.Error(), "import dead letters: ") {
			t.Errorf("%s %.200q: the check says %v, the import %v", tt.format, tt.file, checked, err)
		}
		var where *deadletter.FileError
		if tt.format != "xml" && !errors.As(err, &where) {
			t.Errorf("%s %.200q: %v is no FileError", tt.format, tt.file, err)
		}
	}
	if n := value[int](t, pool, "select (select count(*) from soniq_dead_letter_jobs) + (select count(*) from soniq_dead_letter_operations)"); n != 0 {
		t.Errorf("%d rows", n)
	}
}

// The limits of what is let through are within those of the database.
func TestQueue_Import_atTheLimits_isStored(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	// Texts that the server can't make shorter.
	noise := func(n int) string {
		r := rand.New(rand.NewPCG(1, uint64(n)))
		b := make([]byte, n)
		for i := range b {
			b[i] = byte('0' + r.IntN(75))
		}
		return strings.NewReplacer(`\`, "/", `"`, "/").Replace(string(b))
	}
	name := noise(2000)
	file := with(`"job_name":"` + name + `","queue":"` + name + `","fingerprint":"` + name + `","dedup_key":"` + name + `","last_error":"` + noise(32768) + `"`)
	deepest := strings.Repeat("[", 1000) + strings.Repeat("]", 1000)
	for i, more := range []string{
		`"args":` + deepest + `,"tags":` + strings.Repeat(`{"a":`, 1000) + "1" + strings.Repeat("}", 1000),
		`"args":[1e131071,-1.5e131071,1e-16383,1.50E+3,0e0,` + strings.Repeat("9", 131072) + `]`,
		`"moved_to_dead_letter_at":"0001-01-01T00:00:00Z","created_at":"9999-12-31T23:59:59.999999999Z"`,
		`"priority":-2147483648,"attempts":2147483647,"moved_xid":18446744073709551615`,
		`"args":"\ud83d\ude00","errors":[null,{}],"tags":null`,
		`"errors":[{"failed_at":"0000-01-01T00:00:00+23:59","message":"x"}]`,
	} {
		file += "\n" + with(fmt.Sprintf(`"id":"00000000-0000-4000-8000-0000000001%02d",`, i)+more)
	}
	if result := restore(t, q, file, deadletter.FormatJSONL); result.Imported != 7 {
		t.Errorf("%+v", result)
	}
	for _, format := range formats {
		again, n := export(t, q, deadletter.Filter{}, format)
		if n != 7 {
			t.Errorf("%d rows", n)
		}
		exec(t, pool, "truncate soniq_dead_letter_jobs")
		restore(t, q, again, format)
		if last, _ := export(t, q, deadletter.Filter{}, format); last != again {
			t.Errorf("%s: %s", format, firstDifference(again, last))
		}
	}
}

var errDisk = errors.New("disk broken")

// brokenDisk gives some bytes and then an error.
type brokenDisk struct{ in io.Reader }

func (d brokenDisk) Read(p []byte) (int, error) {
	n, err := d.in.Read(p)
	if errors.Is(err, io.EOF) {
		err = errDisk
	}
	return n, err
}

// Where the file can't be read it isn't the file's content that is wrong.
func TestQueue_Import_inputFails_isNoFileError(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	insertDead(t, pool, nil)
	for _, format := range formats {
		whole, _ := export(t, q, deadletter.Filter{}, format)
		for _, start := range []string{"", "\x1f", whole[:len(whole)/2], strings.TrimSuffix(whole, "]\n"), zipped(t, whole)[:20]} {
			_, err := q.Import(t.Context(), brokenDisk{strings.NewReader(start)}, format, deadletter.ImportOptions{})
			var where *deadletter.FileError
			if !errors.Is(err, errDisk) || errors.As(err, &where) {
				t.Errorf("%s, after %q: %v", format, start, err)
			}
		}
	}
}

// The names of the columns are the same in each place.
func TestImport_columns_areThoseOfTheExport(t *testing.T) {
	t.Parallel()
	names := regexp.MustCompile(`"(\w+)":`).FindAllStringSubmatch(jsonOf(t, deadletter.Job{TraceContext: tracecontext.Parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")}), -1)
	var of []string
	for _, name := range names {
		of = append(of, name[1])
	}
	want := strings.Split(strings.TrimSuffix(exportHeader, "\n"), ",")
	if !slices.Equal(of, want) {
		t.Errorf("JSON has %v, CSV %v", of, want)
	}
}
