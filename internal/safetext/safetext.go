// Package safetext makes what jobs wrote safe to show: names, arguments, errors, tags.
//
// Such text must not control the terminal or the page that shows it: move the cursor, set
// the title, hide text or change its direction. There are two layers. Fields pass OneLine
// when they are laid out. All that is shown passes a Writer, so a field that was forgotten
// only looks wrong.
package safetext

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"soniq/internal/command"
)

// Unsafe reports whether r must not be shown as it is: C0 and C1 controls and DEL, the
// invisible format characters (bidirectional overrides and isolates, zero-width marks,
// tags) and the line and paragraph separators. The two joiners stay: Persian, Indic
// scripts and emoji are written with them.
func Unsafe(r rune) bool {
	switch {
	case r == '\u200c' || r == '\u200d':
		return false
	case unicode.IsControl(r):
		return true
	default:
		return unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
	}
}

// appendEscaped writes r in Go's notation, such as \x1b or \u202e.
func appendEscaped(dst []byte, r rune) []byte {
	switch {
	case r == '\n':
		return append(dst, `\n`...)
	case r == '\t':
		return append(dst, `\t`...)
	case r == '\r':
		return append(dst, `\r`...)
	case r < utf8.RuneSelf:
		return fmt.Appendf(dst, `\x%02x`, r)
	case r <= 0xffff:
		return fmt.Appendf(dst, `\u%04x`, r)
	default:
		return fmt.Appendf(dst, `\U%08x`, r)
	}
}

// appendEscapedJSON writes r as JSON's \uXXXX, which any JSON reader turns
// back into r.
func appendEscapedJSON(dst []byte, r rune) []byte {
	if high, low := utf16.EncodeRune(r); high != unicode.ReplacementChar {
		return fmt.Appendf(dst, `\u%04x\u%04x`, high, low)
	}
	return fmt.Appendf(dst, `\u%04x`, r)
}

// OneLine makes s safe within a line of text or a cell of a table: line
// breaks and tabs are escaped too.
func OneLine(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r == utf8.RuneError || Unsafe(r) }) < 0 {
		return s
	}
	out := make([]byte, 0, len(s)+16)
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			out = fmt.Appendf(out, `\x%02x`, s[i])
		case Unsafe(r):
			out = appendEscaped(out, r)
		default:
			out = append(out, s[i:i+size]...)
		}
		i += size
	}
	return string(out)
}

// FirstLine is the first line of s that is not empty, made safe.
func FirstLine(s string) string {
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			return OneLine(line)
		}
	}
	return ""
}

// ErrorLine returns the most useful line of an error text. It is the last line of a
// Python traceback, or of output that was cut off at its beginning; else the first line.
func ErrorLine(s string) string {
	head := FirstLine(s)
	if strings.HasPrefix(head, "Traceback (most recent call last)") || head == strings.TrimSpace(command.CutOff) {
		lines := strings.Split(strings.TrimSpace(s), "\n")
		return OneLine(strings.TrimSpace(lines[len(lines)-1]))
	}
	return head
}

// A Writer passes text on with everything unsafe escaped. Line breaks and tabs pass. A
// character that is split between two writes is held until its end arrives.
type Writer struct {
	w       io.Writer
	escape  func(dst []byte, r rune) []byte
	pending []byte // the beginning of a character, less than utf8.UTFMax bytes
}

// NewWriter returns a Writer of text to w.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: w, escape: appendEscaped}
}

// NewJSONWriter is for JSON: escapes are JSON's own, so the document means the same.
func NewJSONWriter(w io.Writer) *Writer {
	return &Writer{w: w, escape: appendEscapedJSON}
}

// Write implements [io.Writer]. It reports len(p) when all went well, however
// many bytes were written for it.
func (s *Writer) Write(p []byte) (int, error) {
	in := p
	if len(s.pending) > 0 {
		in = append(s.pending, p...)
		s.pending = nil
	}
	out := make([]byte, 0, len(in)+16)
	for len(in) > 0 {
		if !utf8.FullRune(in) {
			s.pending = append([]byte(nil), in...)
			break
		}
		r, size := utf8.DecodeRune(in)
		switch {
		case r == utf8.RuneError && size == 1:
			out = s.escape(out, rune(in[0]))
		case r != '\n' && r != '\t' && Unsafe(r):
			out = s.escape(out, r)
		default:
			out = append(out, in[:size]...)
		}
		in = in[size:]
	}
	if _, err := s.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}
