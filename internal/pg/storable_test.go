package pg_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"soniq/internal/pg"
	"soniq/internal/testdb"
)

// pieces are put together at random to strings of JSON: escapes that PostgreSQL
// takes and those that it refuses, whole and cut.
var pieces = []string{
	`\u0000`, `\\u0000`, `\\\u0000`, `\ud83d`, `\ude00`, `\ud83d\ude00`, `\udbff\udfff`, `\uD800`, `\uDC00`, `\u00e9`, `\uffff`,
	`\\`, `\"`, `\n`, `\/`, `\b`, "é", "\xff", "\xc3", "\U0001F600", "x", "-1e999999", "[", "{", "}", "u0000",
}

func randomNumber(r *rand.Rand) string {
	digits := []int{1, 2, 3, 16_383, 16_384, 131_071, 131_072, 131_073}
	exponents := []int{0, 1, 2, 16_380, 16_382, 16_383, 16_384, 131_070, 131_071, 131_072, 131_073, 2_000_000, 1<<30 - 2, 1<<30 - 1, 1 << 31}
	one := func(digits int) string {
		return strings.Repeat([]string{"0", "7"}[r.IntN(2)], r.IntN(2)*max(0, digits-1)) + fmt.Sprint(r.IntN(10))
	}
	b := strings.Repeat("-", r.IntN(2))
	if r.IntN(2) == 0 {
		b += "0"
	} else {
		b += "7" + strings.Repeat("0", r.IntN(2)*(digits[r.IntN(len(digits))]-1))
	}
	if r.IntN(2) == 0 {
		b += "." + one(digits[r.IntN(len(digits))])
	}
	if r.IntN(3) > 0 {
		b += []string{"e", "E", "e+", "e-", "E-"}[r.IntN(5)] + fmt.Sprint(exponents[r.IntN(len(exponents))])
	}
	return b
}

func randomDocument(r *rand.Rand) string {
	text := func() string {
		var b strings.Builder
		for range r.IntN(4) {
			b.WriteString(pieces[r.IntN(len(pieces))])
		}
		return `"` + b.String() + `"`
	}
	switch r.IntN(5) {
	case 0:
		return randomNumber(r)
	case 1:
		return "[" + text() + ", " + randomNumber(r) + "]"
	default:
		return "{" + text() + ": " + text() + "}"
	}
}

// What CheckJSON lets pass is what the server stores, and nothing else.
func TestCheckJSON_random_agreesWithTheServer(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	refused := 0
	for range 1500 {
		doc := randomDocument(r)
		if !json.Valid([]byte(doc)) {
			continue
		}
		var stored bool
		server := pool.QueryRow(t.Context(), "select $1::text::jsonb is not null", doc).Scan(&stored)
		ours := pg.CheckJSON([]byte(doc))
		if (server == nil) != (ours == nil) {
			t.Fatalf("%.200s: the server says %v, and CheckJSON says %v", doc, server, ours)
		}
		if ours != nil {
			refused++
			if unstorable := (*pg.UnstorableError)(nil); !errors.As(ours, &unstorable) || unstorable.What == "" {
				t.Fatalf("%.200s: the error is %#v", doc, ours)
			}
		}
	}
	if refused < 100 {
		t.Errorf("only %d documents were refused: they are too tame", refused)
	}
}

func TestCheckText_eachByte_agreesWithTheServer(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for _, s := range []string{"", "x", "\x00", "a\x00b", "\xff", "\xc3", "é", "\U0001F600", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\x01\x7f"} {
		var stored string
		server := pool.QueryRow(t.Context(), "select $1::text", s).Scan(&stored)
		if ours := pg.CheckText(s); (server == nil) != (ours == nil) {
			t.Errorf("%q: the server says %v, and CheckText says %v", s, server, ours)
		}
	}
}

func TestDepth_counts(t *testing.T) {
	t.Parallel()
	for doc, want := range map[string]int{
		`1`: 0, `"[[["`: 0, `[]`: 1, `{"a": [1, {"]": 2}]}`: 3, `[[], [[]]]`: 3, `"\"[" `: 0,
	} {
		if got := pg.Depth([]byte(doc)); got != want {
			t.Errorf("%s: %d, want %d", doc, got, want)
		}
	}
}

// Whatever it is given, the scanner reads no byte that isn't there, and a repaired
// document is one that can be stored and means what encoding/json makes of it.
func FuzzRepairJSON(f *testing.F) {
	for _, piece := range pieces {
		f.Add([]byte(`{"a":"` + piece + `","b":[-0.5e-3,` + `"` + piece + piece + `"]}`))
		f.Add([]byte(`"` + piece))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		err := pg.CheckJSON(doc)
		repaired, repairErr := pg.RepairJSON(doc)
		_ = pg.Depth(doc)
		if err == nil && (repairErr != nil || string(repaired) != string(doc)) {
			t.Fatalf("%q can be stored, and is repaired to %q: %v", doc, repaired, repairErr)
		}
		if !json.Valid(doc) || repairErr != nil {
			return
		}
		if err := pg.CheckJSON(repaired); err != nil {
			t.Fatalf("%q is repaired to %q: %v", doc, repaired, err)
		}
		var before, after any
		if json.Unmarshal(doc, &before) != nil {
			return // a number beyond float64
		}
		if err := json.Unmarshal(repaired, &after); err != nil {
			t.Fatal(err)
		}
		if was, is := fmt.Sprintf("%#v", before), fmt.Sprintf("%#v", after); was != is {
			t.Fatalf("%q is repaired to %q: %s became %s", doc, repaired, was, is)
		}
	})
}

func TestCode_whatIsNoServerError_hasNone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	_, err := pool.Exec(t.Context(), "select from no_such_table")
	wrapped := fmt.Errorf("read: %w", err)
	if pg.Code(wrapped) != pg.UndefinedTable || pg.Class(wrapped) != pg.ClassSyntaxOrAccess ||
		!pg.IsCode(wrapped, pg.UniqueViolation, pg.UndefinedTable) || pg.IsCode(wrapped, pg.UniqueViolation) ||
		!pg.IsClass(wrapped, pg.ClassSyntaxOrAccess) || pg.IsClass(wrapped, pg.ClassData) {
		t.Errorf("%v has the code %q and the class %q", wrapped, pg.Code(wrapped), pg.Class(wrapped))
	}
	for _, err := range []error{nil, errors.New("42P01"), t.Context().Err()} {
		if pg.Code(err) != "" || pg.Class(err) != "" || pg.IsCode(err, "") || pg.IsClass(err, "") || pg.IsTooLarge(err) {
			t.Errorf("%v has the code %q", err, pg.Code(err))
		}
	}
}
