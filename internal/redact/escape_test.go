package redact

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"unicode/utf16"
)

// each writes every character of s by escape, or as it is where that is empty.
func each(s string, escape func(r rune) string) string {
	var b strings.Builder
	for _, r := range s {
		if e := escape(r); e != "" {
			b.WriteString(e)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func only(chars, format string) func(r rune) string {
	return func(r rune) string {
		if !strings.ContainsRune(chars, r) {
			return ""
		}
		return fmt.Sprintf(format, r)
	}
}

func jsonASCII(r rune) string {
	switch high, low := utf16.EncodeRune(r); {
	case r < 0x80:
		return ""
	case high != 0xfffd:
		return fmt.Sprintf(`\u%04x\u%04x`, high, low)
	}
	return fmt.Sprintf(`\u%04X`, r)
}

// inJSON is s within a JSON text, times times.
func inJSON(s string, times int) string {
	for range times {
		b, err := json.Marshal(s)
		if err != nil {
			panic(err)
		}
		s = strings.Trim(string(b), `"`)
	}
	return s
}

// escapes are how libraries write a text within another one.
var escapes = map[string]func(string) string{
	"Gson":                 func(s string) string { return each(s, only(`<>&='`, `\u%04x`)) },
	"Handlebars":           func(s string) string { return each(s, only("&<>\"'`=", "&#x%X;")) },
	"Mustache":             func(s string) string { return each(s, only("&<>\"'`=/", "&#x%X;")) },
	"PHP":                  func(s string) string { return each(s, only(`'`, "&#%03d;")) },
	"Python":               func(s string) string { return each(inJSON(s, 1), jsonASCII) },
	"every one for JSON":   func(s string) string { return each(s, func(r rune) string { return jsonASCII(r) + jsonEvery(r) }) },
	"every one for HTML":   func(s string) string { return each(s, func(r rune) string { return fmt.Sprintf("&#%d;", r) }) },
	"every one for URLs":   func(s string) string { return strings.ToLower(every02(s)) },
	"URL twice":            func(s string) string { return url.QueryEscape(url.PathEscape(s)) },
	"JSON in JSON":         func(s string) string { return inJSON(s, 2) },
	"JSON in JSON in HTML": func(s string) string { return strings.ReplaceAll(inJSON(s, 2), `"`, "&quot;") },
	"base64 in PHP's JSON": func(s string) string {
		return strings.ReplaceAll(base64.StdEncoding.EncodeToString([]byte(s)), "/", `\/`)
	},
	"base64 in a form":   func(s string) string { return url.QueryEscape(base64.StdEncoding.EncodeToString([]byte(s))) },
	"base64 in lines":    func(s string) string { return inLines(base64.StdEncoding.EncodeToString([]byte(s)), "\r\n") },
	"hexadecimal, lines": func(s string) string { return inLines(fmt.Sprintf("%x", s), "\n  ") },
}

func jsonEvery(r rune) string {
	if r >= 0x80 {
		return ""
	}
	return fmt.Sprintf(`\u%04x`, r)
}

func every02(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "%%%02X", s[i])
	}
	return b.String()
}

func inLines(s, end string) string {
	var b strings.Builder
	for i := 0; i < len(s); i += 10 {
		b.WriteString(s[i:min(len(s), i+10)] + end)
	}
	return strings.TrimSpace(b.String())
}

func TestKnown_escapedByALibrary_isTakenOut(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw==", "it's/a=very&long<pass>word", "größer😀als=dies", "??>>~~??>>~~??>>"} {
		for name, escape := range escapes {
			text := "you sent " + escape(value) + ", sorry"
			if got := Known(text, value); got != "you sent [redacted], sorry" {
				t.Errorf("%s: %q became %q", name, text, got)
			}
		}
	}
}

// Wherever an escaped value is cut, its rest is known by what is left.
func TestSet_Cut_withinAnEscape(t *testing.T) {
	t.Parallel()
	const value = "s3cr3t-0123456789"
	set := NewSet(value)
	for _, name := range []string{"every one for JSON", "every one for HTML", "every one for URLs"} {
		whole := "before " + escapes[name](value) + " after"
		for i := range len(whole) + 1 {
			for _, got := range []string{set.Cut(whole[:i], false, true), set.Cut(whole[i:], true, false)} {
				read := got
				if v := unescape(&view{text: got}); v != nil {
					read = v.text
				}
				for part := range len(value) - minKnown {
					if strings.Contains(read, value[part:part+minKnown]) {
						t.Fatalf("%s, cut at %d: %q", name, i, got)
					}
				}
			}
		}
	}
}

// The line break behind a value stays.
func TestKnown_lines_stay(t *testing.T) {
	t.Parallel()
	if got := Known("A: some-value\r\nB: some-\n value\n\nc", "some-value"); got != "A: [redacted]\r\nB: [redacted]\n\nc" {
		t.Errorf("%q", got)
	}
}

func TestKnown_escapesOfOtherTexts_stay(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`100% of \d+ & more`, `%zz %4 \u12 \x &#; &nosuch; \`, "a\nb", `{"a":"b\n\u0063"}`, `C:\new\table`} {
		if got := Known(text, "some-value"); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}
