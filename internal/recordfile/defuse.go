package recordfile

import (
	"bytes"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"soniq/internal/pg"
)

// A spreadsheet runs a cell that begins with one of some characters as a
// formula, and job names and error texts can be made to hold one from outside.
// Quotes help only where the reader knows them, and cuts cells at the comma
// alone: of the text 'x;=1+2' LibreOffice makes two cells, for it takes the
// semicolon for a separator as well. So a cell is taken to begin at the start of
// a text and after each character that somebody separates cells by. Where a
// formula could begin there, a mark is put before it:
//
//	x;=1+2      x;ʼ=1+2
//	x;ʼ=1+2     x;ʼʼ=1+2
//
// The mark begins no cell, and doesn't keep the rest from being taken for a
// formula by defuse itself. So the places at which one is put in are those at
// which undefused takes one away, and any text comes back as it was.
//
// The mark is a letter that looks like an apostrophe, which no text of another
// program has before a sign. So each cell shows by itself whether it was defused,
// whichever columns a file still has and whichever program wrote it anew.

// mark is U+02BC, the modifier letter apostrophe.
const mark = "\u02bc"

// formulaSigns begin a formula: in the forms that East Asian keyboards have, too,
// which spreadsheets take for the same.
const formulaSigns = "=+-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212"

func isFormulaSign(c rune) bool { return strings.ContainsRune(formulaSigns, c) }

// separates reports whether a cell can begin after c.
func separates(c rune) bool { return c == ',' || c == ';' || c == '|' || unicode.IsSpace(c) }

// isPassedOver reports whether a reader may take c off the beginning of a cell:
// quotes, space, and what can't be seen.
func isPassedOver(c rune) bool {
	switch {
	case c == '\'' || c == '"' || c == '\u02bc' || c == '\u2800': // the last is a pattern of Braille without a dot
		return true
	case c < utf8.RuneSelf:
		return c <= ' ' || c == '\x7f'
	}
	return unicode.In(c, unicode.Z, unicode.C, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// harmless reports whether no formula can begin in s, as in most texts. It may
// say no where none does.
func harmless[T string | []byte](s T) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c == '=' || c == '+' || c == '-' || c == '@' || c >= utf8.RuneSelf:
			return false
		}
	}
	return true
}

// formulas are the places in s at which a cell can begin that is a formula, the
// last one first.
func formulas(s string) (places []int) {
	if harmless(s) {
		if defusedByOld(s) {
			return []int{0}
		}
		return nil
	}
	// From the end, so that it takes one pass: whether a formula begins at a
	// place is known from the one after it.
	formula := false
	for end := len(s); end > 0; {
		c, size := utf8.DecodeLastRuneInString(s[:end])
		if formula && separates(c) {
			places = append(places, end)
		}
		formula = isFormulaSign(c) || formula && isPassedOver(c)
		end -= size
	}
	if formula || defusedByOld(s) {
		places = append(places, 0)
	}
	return places
}

// defusedByOld reports whether s begins like a text that Soniq for Go 0.1.0
// defused. It gets a mark too, so that undefusedStart meets none of ours.
func defusedByOld(s string) bool {
	rest := strings.TrimLeft(s, "'"+mark)
	return len(rest) < len(s) && rest != "" && strings.IndexByte("=+-@\t\r\n", rest[0]) >= 0
}

// defuse returns s with a mark wherever a cell could begin that is a formula.
func defuse(s string) string {
	places := formulas(s)
	if places == nil {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + len(places)*len(mark))
	written := 0
	for n := len(places) - 1; n >= 0; n-- {
		b.WriteString(s[written:places[n]])
		b.WriteString(mark)
		written = places[n]
	}
	b.WriteString(s[written:])
	return b.String()
}

// undefused takes away the marks that defuse put there.
func undefused(cell []byte) []byte {
	s := string(cell)
	places := formulas(s)
	if places == nil {
		return cell
	}
	b := make([]byte, 0, len(s))
	written := 0
	for n := len(places) - 1; n >= 0; n-- {
		if at := places[n]; strings.HasPrefix(s[at:], mark) {
			b = append(b, s[written:at]...)
			written = at + len(mark)
		}
	}
	return append(b, s[written:]...)
}

// undefusedStart takes away the apostrophe that Soniq for Go 0.1.0 put before a
// text that began like a formula, apostrophes aside.
func undefusedStart(cell []byte) []byte {
	rest := bytes.TrimLeft(cell, "'")
	if len(rest) < len(cell) && len(rest) > 0 && strings.IndexByte("=+-@\t\r\n", rest[0]) >= 0 {
		return cell[1:]
	}
	return cell
}

// defuseJSON returns the same JSON with escapes in the place of the signs, in its
// strings, that could begin a formula: what reads the JSON finds the same value.
// Its numbers stay; none of them is more than a number.
func defuseJSON(doc []byte) []byte {
	if harmless(doc) {
		return doc
	}
	var b []byte
	written := 0
	for i := 0; i < len(doc); i++ {
		if doc[i] != '"' {
			continue
		}
		end := pg.StringEnd(doc, i)
		for before := '"'; i < end; {
			c, size := utf8.DecodeRune(doc[i:end])
			if isFormulaSign(c) && (separates(before) || isPassedOver(before)) {
				b = append(b, doc[written:i]...)
				hex := strconv.FormatInt(int64(c), 16)
				b = append(append(b, `\u`+"0000"[len(hex):]...), hex...)
				written = i + size
			}
			before = c
			i += size
		}
	}
	if b == nil {
		return doc
	}
	return append(b, doc[written:]...)
}
