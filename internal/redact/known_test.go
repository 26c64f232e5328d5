package redact

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"html"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// ways are how an endpoint may echo a value.
var ways = map[string]func(string) string{
	"plain":         func(s string) string { return s },
	"in a sentence": func(s string) string { return "no such token " + s + ", sorry" },
	"query":         url.QueryEscape,
	"path":          url.PathEscape,
	"lower escapes": func(s string) string { return lowerEscapes(url.QueryEscape(s)) },
	"html":          html.EscapeString,
	"json": func(s string) string {
		b, _ := json.Marshal(map[string]string{"authorization": s})
		return string(b)
	},
	"json, slashes escaped": func(s string) string { return strings.ReplaceAll(quotedForm(s, false), "/", `\/`) },
	"hex":                   func(s string) string { return hex.EncodeToString([]byte(s)) },
	"HEX":                   func(s string) string { return strings.ToUpper(hex.EncodeToString([]byte(s))) },
	"base64":                func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"base64url":             func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
	"base64 of 1+":          func(s string) string { return base64.StdEncoding.EncodeToString([]byte("x" + s + "yz")) },
	"base64 of 2+":          func(s string) string { return base64.StdEncoding.EncodeToString([]byte("ab" + s + "c")) },
	"base64 of a request":   func(s string) string { return base64.URLEncoding.EncodeToString([]byte("GET / " + s + "\r\n\r\n")) },
	"twice":                 func(s string) string { return s + s },
}

func TestKnown_everyWayToWriteIt_isTakenOut(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"hunter2hunter2", `a"b<c>&d'e/f é+%`, "\x00\xff\xfe raw bytes \x01", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "T0/B0/xyz=="} {
		for name, way := range ways {
			text := way(value)
			got := Known(text, value)
			if !strings.Contains(got, Placeholder) || strings.Contains(got, value) {
				t.Errorf("%s: %q became %q", name, text, got)
			}
			if name == "in a sentence" && got != "no such token [redacted], sorry" {
				t.Errorf("%q", got)
			}
			if again := Known(got, value); again != got {
				t.Errorf("%s: %q became %q", name, got, again)
			}
		}
	}
}

func TestKnown_whatIsNoValue_stays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text   string
		values []string
		want   string
	}{
		{"an ok answer", []string{"ok", "", "abc"}, "an ok answer"},
		{"nothing", nil, "nothing"},
		{"", []string{"value"}, ""},
		{"abcdefghi", []string{"abcdef", "defghi"}, "[redacted]"},
		{"x aaaaa y", []string{"aaaa"}, "x [redacted] y"},
		{"was [redacted]", []string{"redacted"}, "was [redacted]"},
	} {
		if got := Known(c.text, c.values...); got != c.want {
			t.Errorf("Known(%q, %q) = %q, want %q", c.text, c.values, got, c.want)
		}
	}
	var none *Set
	if none.Text("x") != "x" || none.Longest() != 0 {
		t.Error("no set changes a text")
	}
	keep := NewSet("https://hooks.example.com/hooks", "hooks").Keep("hooks.example.com")
	if got := keep.Text("lookup hooks.example.com: no hooks"); got != "lookup hooks.example.com: no [redacted]" {
		t.Errorf("%q", got)
	}
}

// Wherever the limit of what is read falls, no part of a value is left that is
// longer than what can't be told from other text.
func TestSet_Cut_leavesNoPartOfAValue(t *testing.T) {
	t.Parallel()
	const value = "s3cr3t-0123456789"
	set := NewSet(value)
	whole := "before " + value + " after"
	for i := range len(whole) + 1 {
		for _, got := range []string{set.Cut(whole[:i], false, true), set.Cut(whole[i:], true, false)} {
			for part := range len(value) - minKnown {
				if strings.Contains(got, value[part:part+minKnown]) {
					t.Errorf("cut at %d: %q has %q", i, got, value[part:part+minKnown])
				}
			}
		}
	}
}

func TestParts_haveTheSecretsInside(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		got  []string
		want []string
	}{
		{HeaderParts("Bearer tok-en"), []string{"Bearer tok-en", "tok-en"}},
		{HeaderParts("Basic " + base64.StdEncoding.EncodeToString([]byte("ann:pass:word"))), []string{"ann:pass:word", "ann", "pass:word"}},
		{HeaderParts(`session=abc; csrf="de f"`), []string{"abc"}},
		{URLParts("https://ann:word@example.com/T0/a%2Fb?key=v%20w&bare#frag"), []string{
			"ann", "word", "T0", "a%2Fb", "a/b", "v%20w", "v w", "bare", "frag", "/T0/a%2Fb?key=v%20w&bare", "key=v%20w&bare",
		}},
		{URLParts("%zz not a url"), []string{"%zz not a url"}},
	} {
		for _, want := range c.want {
			if !slices.Contains(c.got, want) {
				t.Errorf("%q lacks %q", c.got, want)
			}
		}
	}
}

// FuzzKnown: nothing of a value is left in any way to write it, and doing it
// again changes nothing.
func FuzzKnown(f *testing.F) {
	f.Add("Bearer hunter2", "before ", " after")
	f.Add(`"<&'/%+=`, "", "x")
	f.Fuzz(func(t *testing.T, value, before, after string) {
		if len(value) < minKnown || len(value) > 200 || strings.Contains(Placeholder, value) {
			return
		}
		for name, way := range ways {
			text := before + way(value) + after
			got := Known(text, value)
			// The mark and what is beside it may come to look like it.
			if rest := strings.Split(got, Placeholder); slices.ContainsFunc(rest, func(s string) bool { return strings.Contains(s, value) }) {
				t.Fatalf("%s: %q of %q became %q", name, text, value, got)
			}
		}
	})
}
