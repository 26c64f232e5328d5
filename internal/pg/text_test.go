package pg_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"soniq/internal/pg"
)

func TestStorable_keepsHeadAndTail(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, in string
		max      int
		want     string
	}{
		{"short", "abc", 100, "abc"},
		{"exact", "abc", 3, "abc"},
		{"empty", "", 10, ""},
		{"no room at all", "abc", 0, ""},
		{"negative room", "abc", -1, ""},
		{"room for no mark", "abcdef", 4, "abcd"},
		{"half a rune", "aé", 2, "a"},
		{"NUL", "a\x00b", 10, "a\uFFFDb"},
		{"invalid", "a\xff\xfeb", 10, "a\uFFFDb"},
		{"NUL grows beyond the room", "\x00\x00\x00", 4, "\uFFFD"},
		{"long", strings.Repeat("a", 50) + strings.Repeat("b", 50), 60, strings.Repeat("a", 19) + " ...[63 bytes cut]... " + strings.Repeat("b", 18)},
		{"long, of wide runes", strings.Repeat("é", 50), 60, strings.Repeat("é", 9) + " ...[64 bytes cut]... " + strings.Repeat("é", 9)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := pg.Storable(tt.in, tt.max); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzStorable(f *testing.F) {
	for _, max := range []int{0, 1, 3, 30, 60, 200} {
		f.Add("plain", max)
		f.Add(strings.Repeat("\x00", 70), max)
		f.Add(strings.Repeat("\xff", 70), max)
		f.Add(strings.Repeat("a\x80", 70), max)
		f.Add(strings.Repeat("😀", 70), max)
		f.Add("é"+strings.Repeat("x", 300)+"é", max)
	}
	f.Fuzz(func(t *testing.T, s string, max int) {
		got := pg.Storable(s, max)
		if !utf8.ValidString(got) {
			t.Errorf("%q is no UTF-8", got)
		}
		if strings.ContainsRune(got, 0) {
			t.Errorf("%q has a NUL", got)
		}
		if len(got) > 0 && len(got) > max {
			t.Errorf("%d bytes, want at most %d", len(got), max)
		}
		if again := pg.Storable(got, max); again != got {
			t.Errorf("again: %q, was %q", again, got)
		}
		if utf8.ValidString(s) && !strings.ContainsRune(s, 0) && len(s) <= max && got != s {
			t.Errorf("changed %q into %q", s, got)
		}
	})
}
