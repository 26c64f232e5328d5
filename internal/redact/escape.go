package redact

import (
	"html"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxEscapes is how often a text is unescaped: JSON in JSON in a URL.
const maxEscapes = 3

// longestEscape is the length of the longest escape that is read, in bytes.
const longestEscape = 12

// A view is a text as it reads once its escapes are read: who echoes a value may
// escape any part of it, in the way of any library.
type view struct {
	text string
	// at is where each byte of text begins in the text as it was, and its end; nil
	// if it is that.
	at []int
	// escape is how much of an escape the text may be cut in.
	escape int
	// folded: line breaks were left out.
	folded bool
}

// place is where the byte i of the view begins in the text as it was.
func (v *view) place(i int) int {
	if v.at == nil {
		return i
	}
	return v.at[i]
}

// end is where what ends before the byte i of the view ends in the text as it was.
func (v *view) end(i int) int {
	if v.folded && i > 0 {
		return v.at[i-1] + 1 // the line break behind it is no part of it
	}
	return v.place(i)
}

// unescape is v with its escapes read once: those of JSON, of URLs, of HTML and of
// programs' own texts. Without any it returns nil.
func unescape(v *view) *view { return unescapeOnly(v, `%&\`) }

// unescapeMarkup is unescape of URLs and HTML alone.
func unescapeMarkup(v *view) *view { return unescapeOnly(v, "%&") }

// unescapeOnly is unescape of the escapes that begin with one of signs.
func unescapeOnly(v *view, signs string) *view {
	s := v.text
	if !strings.ContainsAny(s, signs) {
		return nil
	}
	read, at := make([]byte, 0, len(s)), make([]int, 0, len(s)+1)
	found := false
	for i := 0; i < len(s); {
		before, next := len(read), i
		if strings.IndexByte(signs, s[i]) >= 0 {
			read, next = appendUnescaped(read, s, i)
		}
		if next == i {
			next = i + 1
			read = append(read, s[i])
		} else {
			found = true
		}
		for range len(read) - before {
			at = append(at, v.place(i))
		}
		i = next
	}
	if !found {
		return nil
	}
	return &view{text: string(read), at: append(at, v.place(len(s))), escape: longestEscape}
}

// appendUnescaped appends what the escape at s[i] stands for, and returns where it
// ends; where none begins, that is i.
func appendUnescaped(dst []byte, s string, i int) (out []byte, next int) {
	switch s[i] {
	case '%':
		if c, ok := hexDigits(s, i+1, 2); ok {
			return append(dst, byte(c)), i + 3
		}
	case '&':
		end := strings.IndexByte(s[i:min(len(s), i+longestEscape)], ';')
		if end < 0 {
			break
		}
		if entity := s[i : i+end+1]; html.UnescapeString(entity) != entity {
			return append(dst, html.UnescapeString(entity)...), i + end + 1
		}
	case '\\':
		if i+1 == len(s) {
			break
		}
		switch c := s[i+1]; c {
		case '/', '\\', '"', '\'', '`':
			return append(dst, c), i + 2
		case 'n':
			return append(dst, '\n'), i + 2
		case 'r':
			return append(dst, '\r'), i + 2
		case 't':
			return append(dst, '\t'), i + 2
		case 'x':
			if c, ok := hexDigits(s, i+2, 2); ok {
				return append(dst, byte(c)), i + 4
			}
		case 'u':
			r, ok := hexDigits(s, i+2, 4)
			if !ok {
				break
			}
			if i+7 < len(s) && s[i+6] == '\\' && s[i+7] == 'u' {
				if low, ok := hexDigits(s, i+8, 4); ok {
					if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
						return utf8.AppendRune(dst, pair), i + 12
					}
				}
			}
			return utf8.AppendRune(dst, r), i + 6
		}
	}
	return dst, i
}

// hexDigits reads n of them.
func hexDigits(s string, i, n int) (rune, bool) {
	if i+n > len(s) {
		return 0, false
	}
	v, err := strconv.ParseUint(s[i:i+n], 16, 32)
	return rune(v), err == nil
}

// unfold is text without its line breaks, and the space that begins a line: base64
// and hexadecimal are written so. Without any it returns nil.
func unfold(text string) *view {
	if strings.IndexByte(text, '\n') < 0 {
		return nil
	}
	read, at := make([]byte, 0, len(text)), make([]int, 0, len(text)+1)
	begins := false
	for i := range len(text) {
		switch b := text[i]; {
		case b == '\n' || b == '\r':
			begins = true
		case begins && (b == ' ' || b == '\t'):
		default:
			begins = false
			read, at = append(read, b), append(at, i)
		}
	}
	return &view{text: string(read), at: append(at, len(text)), folded: true}
}
