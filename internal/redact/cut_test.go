package redact_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"soniq/internal/redact"
)

// Wherever a text is cut, no part of a token is left that is long enough to be of
// use and too short to be told for one.
func TestHeadTail_noHalfOfAToken(t *testing.T) {
	t.Parallel()
	token := "AIza" + strings.Repeat("b7", 17) + "x"
	for _, text := range []string{
		"it said " + token + ", and stopped", `{"a":"` + token + `","b":1}`, "x\n" + token + "\ny", "größer " + token + " größer",
		strings.Repeat("lorem ipsum ", 100) + token + " dolor",
	} {
		for n := range len(text) + 2 {
			for what, part := range map[string]string{
				"head": redact.Head(text, n), "tail": redact.Tail(text, n), "later half": redact.LaterHalf(text, min(n, len(text))),
			} {
				if shown := redact.Text(part); strings.Contains(shown, "b7b7") {
					t.Fatalf("%s of %d bytes of %q: %q", what, n, text, part)
				}
				if what != "later half" && len(part) > n && n < len(text) || !utf8.ValidString(part) {
					t.Fatalf("%s of %d bytes of %q: %q", what, n, text, part)
				}
			}
		}
	}
}

// What is cut off is a word at the most, and 512 bytes of one that is longer.
func TestHeadTail_keepTheRest(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var text strings.Builder
		for range 20 {
			text.WriteString(strings.Repeat(string("ab ü,\n"[random.IntN(5)]), random.IntN(200)))
		}
		s, n := text.String(), random.IntN(text.Len()+1)
		head, tail := redact.Head(s, n), redact.Tail(s, n)
		if !strings.HasPrefix(s, head) || !strings.HasSuffix(s, tail) || len(head) < n-520 || len(tail) < n-520 || len(head) > n || len(tail) > n {
			t.Fatalf("%d bytes of %q: %q and %q", n, s, head, tail)
		}
	}
}
