package pg_test

import (
	"strings"
	"testing"

	"soniq/internal/pg"
	"soniq/internal/testdb"
)

// A text that is cut for a list loses the word that the cut would halve: half a token
// is not recognised as a secret.
func TestBoundedText_cutsBetweenWords(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	const n = 40
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{strings.Repeat("a", n), strings.Repeat("a", n)},
		{strings.Repeat("ä", n), strings.Repeat("ä", n)},
		{strings.Repeat("a", n+1), ""},
		{strings.Repeat("a", 30) + " token_0123456789", strings.Repeat("a", 30) + " "},
		{strings.Repeat("a", 39) + "\nsecret", strings.Repeat("a", 39) + "\n"},
		{strings.Repeat("ä", 20) + "(x) " + strings.Repeat("b", 100), strings.Repeat("ä", 20) + "(x) "},
	} {
		var got string
		if err := pool.QueryRow(t.Context(), "select "+pg.BoundedText("t", n)+" from (select $1::text as t) s", c.text).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != c.want {
			t.Errorf("%q becomes %q, want %q", c.text, got, c.want)
		}
	}
	var null *string
	if err := pool.QueryRow(t.Context(), "select "+pg.BoundedText("null::text", n)).Scan(&null); err != nil || null != nil {
		t.Errorf("NULL becomes %v, %v", null, err)
	}
}
