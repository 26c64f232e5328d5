package recordfile

import (
	"encoding/csv"
	"strings"
	"testing"
)

var awkwardTexts = []string{
	"", "plain", "a\r\nb", "=1+1", `"quoted"`, `a\b`, `\`, `\.`, ",", " a", "\ta", "\va", "\u00a0a", "\u2028", "\u2003x", "\xff", "\xc2", "<&>", "\x00", "\x7f", "über", "\U0001F600",
}

// A cell is what encoding/csv reads of it, in quotes unless it is empty.
func FuzzAppendCell(f *testing.F) {
	for _, s := range awkwardTexts {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		line := string(appendCell([]byte("x,"), s))
		if bytes := string(appendCell([]byte("x,"), []byte(s))); bytes != line {
			t.Errorf("%q, as bytes %q", line, bytes)
		}
		if quoted := strings.HasPrefix(line, `x,"`) && strings.HasSuffix(line, `"`) && len(line) > 3; quoted != (s != "") {
			t.Errorf("%q of %q", line, s)
		}
		// encoding/csv changes the line ends.
		want := strings.ReplaceAll(s, "\r\n", "\n")
		if got, err := csv.NewReader(strings.NewReader(line)).Read(); err != nil || len(got) != 2 || got[1] != want {
			t.Errorf("%q is read as %q, %v", line, got, err)
		}
	})
}
