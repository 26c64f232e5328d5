package recordfile

import (
	"encoding/csv"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/internal/history"
	"soniq/internal/pg"
)

// Texts that somebody tried to make formulas of.
var formulaTexts = []string{
	"", "plain", "=1", "'=1", "''=1", "'", "''", "'a", "@", "\t=1", "\r=1", "\n-1", "a=1", "é", "x;=1+2", "x;'=1+2", "x\t=1", "x|+1", "x -1", "a,=1", "a , ' -1",
	"\ufeff=1", "\u00a0=1", " \u200b=1", "\uff1d1", "x;\uff0b1", "\uff0d1", "\uff201", "\u22121", `"=1"`, `x;"=1"`, "x;''=1", "x; '=1", "\x01=1", "\u2028=1", "\u3164=1", "\ufe0f=1",
	"a\r\n=1", "a\r\n'=1", "= = =", "-- --", "';';=", ";;'';'=", "\u2800=1", "\u00ad+1", "1;2;-3", "=", " ", "+-@=", "a\u0085=1", strings.Repeat(" ", 50) + "=",
}

// What was defused can be taken back exactly, whatever it was; so nothing
// becomes another text.
func FuzzCSV_undefused_isTheText(f *testing.F) {
	for _, s := range formulaTexts {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		cell := defuse(s)
		if got := string(undefused([]byte(cell))); got != s {
			t.Fatalf("%q became %q and then %q", s, cell, got)
		}
	})
}

// A run of what is passed over must not be looked at again for each place in it.
func TestDefuse_longTexts_takeOnePass(t *testing.T) {
	t.Parallel()
	s := strings.Repeat(" ", 1<<20) + "="
	if cell := defuse(s); len(cell) != 3*(1<<20)+3 || string(undefused([]byte(cell))) != s {
		t.Errorf("%d bytes", len(cell))
	}
}

// aNumber is what is left of a number in JSON, where a reader cuts the JSON
// apart.
var aNumber = regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?[]}"]*$`)

// startsFormula reports whether a spreadsheet could run the cell: whatever it
// passes over, the mark of ours stops it.
func startsFormula(cell string) bool {
	cell = strings.TrimLeftFunc(cell, func(c rune) bool {
		return strings.ContainsRune("\"\u2800\u034f\u115f\u1160\u3164\uffa0\ufe0f", c) || unicode.IsSpace(c) || unicode.In(c, unicode.Cc, unicode.Cf, unicode.Z)
	})
	first, _ := firstRune(cell)
	return strings.ContainsRune("=+-@＝＋－＠−", first) && cell != "" && !aNumber.MatchString(strings.TrimSpace(cell))
}

func firstRune(s string) (rune, bool) {
	for _, c := range s {
		return c, true
	}
	return 0, false
}

// cellsOf are the cells of a file for a reader that separates them by sep, and
// lines as well as it can. One that knows quotes keeps what is in them together,
// and takes what follows them for more of the cell.
func cellsOf(file string, sep rune, quotes bool) (cells []string) {
	var cell strings.Builder
	begun, quoted := false, false
	for _, c := range file {
		switch {
		case quotes && c == '"' && (!begun || quoted):
			begun, quoted = true, !quoted
		case !quoted && (c == sep || strings.ContainsRune("\r\n\v\f\u0085\u2028\u2029", c)):
			cells = append(cells, cell.String())
			cell.Reset()
			begun = false
		default:
			begun = true
			cell.WriteRune(c)
		}
	}
	return append(cells, cell.String())
}

// Nothing in a file begins a formula, by whatever somebody separates its cells,
// and whether or not they know of quotes.
func FuzzCSV_noCellIsAFormula(f *testing.F) {
	for i, s := range formulaTexts {
		f.Add(s, "x"+s, formulaTexts[len(formulaTexts)-1-i])
	}
	f.Fuzz(func(t *testing.T, a, b, c string) {
		a, b, c = pg.Storable(a, MaxTextBytes), pg.Storable(b, MaxTextBytes), pg.Storable(c, MaxTextBytes)
		args, err := json.Marshal(map[string]any{a: b, "n": []any{-5, 1.5e-9, c, a + b}})
		if err != nil {
			t.Fatal(err)
		}
		// As the database writes it, with few escapes.
		var plain strings.Builder
		enc := json.NewEncoder(&plain)
		enc.SetEscapeHTML(false)
		if err := enc.Encode([]string{a, b, c, a + c}); err != nil {
			t.Fatal(err)
		}
		at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
		file := written(t, Record{
			ID: uuid.New(), JobName: a, Args: args, Queue: b, MaxAttempts: 3, Priority: -5, LastError: c, Reason: classify.Reason(a),
			OriginalCreatedAt: at, MovedAt: at, State: b, ErrorKind: classify.Kind(c), ErrorType: a + b, ErrorCode: b + c, DecidedBy: a, Fingerprint: b,
			ArgsHash: &a, DedupKey: &b, ProducerID: &c, Tags: json.RawMessage(strings.TrimSpace(plain.String())),
			Errors: history.Encode([]classify.Failure{{Attempt: 1, FailedAt: at, Message: c, Type: a, Stack: b}}),
		}, CSV)
		for _, sep := range ",;\t| " {
			for _, quotes := range []bool{true, false} {
				for _, cell := range cellsOf(file, sep, quotes) {
					if startsFormula(cell) {
						t.Fatalf("%q is a formula, by %q, quotes %v, in %.900q", cell, sep, quotes, file)
					}
				}
			}
			r := csv.NewReader(strings.NewReader(file))
			r.Comma, r.LazyQuotes, r.FieldsPerRecord = sep, true, -1
			rows, err := r.ReadAll()
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range rows {
				for _, cell := range row {
					if startsFormula(cell) {
						t.Fatalf("%q is a formula, by %q, in %.900q", cell, sep, file)
					}
				}
			}
		}
	})
}

// JSON has escapes of its own: who reads it finds the same value.
func FuzzDefuseJSON_isTheSameValue(f *testing.F) {
	for _, s := range formulaTexts {
		doc, _ := json.Marshal(map[string]any{s: []any{s, -1, "x" + s, `\` + s}})
		f.Add(string(doc))
	}
	f.Add(`"=1"`)
	f.Add(`-1`)
	f.Fuzz(func(t *testing.T, doc string) {
		if !json.Valid([]byte(doc)) {
			return
		}
		got := defuseJSON([]byte(doc))
		a, errA := canonical(json.RawMessage(doc))
		b, errB := canonical(got)
		if (errA == nil) != (errB == nil) || string(a) != string(b) {
			t.Fatalf("%s became %s: %s, %v; %s, %v", doc, got, a, errA, b, errB)
		}
	})
}

// Soniq for Go 0.1.0 put one apostrophe before a text that began with an ASCII
// sign, and no more. testdata has what it wrote of the texts below.
func TestImport_csvOfSoniq010_isReadAsItWasMeant(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile("testdata/soniq_0.1.0.csv")
	if err != nil {
		t.Fatal(err)
	}
	records, err := readAll(string(file), CSV)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"plain", "=1+1", "'=1+1", "''=1+1", "'it's", "x;=1+2", "x;'=1+2", " =1", "' =1", "'\u00a0=1", "\uff1d1", "'\uff1d1", "\t=x", "'\r\nx", "a, '-b", `-"q"`,
	}
	if len(records) != len(want) {
		t.Fatalf("%d rows", len(records))
	}
	for i, j := range records {
		for _, got := range []string{j.JobName, j.Queue, j.LastError, j.ErrorType, *j.ArgsHash} {
			if got != want[i] {
				t.Errorf("row %d: %q, want %q", i+1, got, want[i])
			}
		}
	}
}

// Each cell shows whether it was defused: which columns a file still has, and in which order, makes no
// difference, and nor does whether a program of ours wrote it.
func TestImport_csvWithAnyColumns_isReadAsItWasMeant(t *testing.T) {
	t.Parallel()
	for _, text := range formulaTexts {
		if text == "" || !utf8.ValidString(text) {
			continue
		}
		r := Record{ID: uuid.New(), JobName: text, LastError: text, Args: json.RawMessage("{}"), Reason: classify.Reason(text), MovedAt: time.Now(), State: stateDead}
		rows, err := csv.NewReader(strings.NewReader(strings.ReplaceAll(written(t, r, CSV), "\r\n", "\r\r\n"))).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		for _, pick := range [][]int{columnsUpTo(14), columnsUpTo(31), {10, 8, 7, 2, 1, 0}} {
			var b strings.Builder
			w := csv.NewWriter(&b)
			for _, row := range rows {
				var cells []string
				for _, i := range pick {
					cells = append(cells, row[i])
				}
				if err := w.Write(cells); err != nil {
					t.Fatal(err)
				}
			}
			w.Flush()
			got, err := readAll(b.String(), CSV)
			if err != nil || len(got) != 1 || got[0].JobName != text || got[0].LastError != text || string(got[0].Reason) != text {
				t.Errorf("%q, columns %v: %+v, %v", text, pick, got, err)
			}
		}
		// Python Soniq escapes nothing.
		python := strings.Join(header[:14], ",") + "\n" + uuid.NewString() + `,"` + strings.ReplaceAll(text, `"`, `""`) + `",{},default,100,3,3,,timeout,,2026-11-23 09:39:15.766776+00:00,0,,` + "\n"
		if got, err := readAll(python, CSV); err != nil || len(got) != 1 || got[0].JobName != text {
			t.Errorf("%q of Python's: %+v, %v", text, got, err)
		}
	}
}

func columnsUpTo(n int) (columns []int) {
	for i := range n {
		columns = append(columns, i)
	}
	return columns
}
