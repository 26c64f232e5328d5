package pg

import (
	"strings"
	"testing"
)

func TestStringEnd_quotesAndEscapes_isTheQuoteThatEnds(t *testing.T) {
	t.Parallel()
	for doc, want := range map[string]int{
		`""`: 1, `"a"`: 2, `"a" "b"`: 2, `"\""`: 3, `"\\"`: 3, `"\\\"" "`: 5, `"a\"b\"c" "`: 8, `"`: 1, `"\`: 2, `"\"`: 3, `"a\\\`: 5,
		`"` + strings.Repeat(`\"`, 50) + `" "`: 101,
	} {
		if got := StringEnd([]byte(doc), 0); got != want && (got < len(doc) || want < len(doc)) {
			t.Errorf("%s: %d, not %d", doc, got, want)
		}
	}
}
