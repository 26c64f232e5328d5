package pg

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// An UnstorableError says what a text or a JSON document holds that PostgreSQL
// refuses to store.
type UnstorableError struct {
	// What is a noun for it, such as `\u0000`.
	What string
	// Number is the number that numeric can't hold, if that is the reason.
	Number string
}

func (e *UnstorableError) Error() string { return e.What + " can't be stored" }

var (
	errNotUTF8 = &UnstorableError{What: "text that is not valid UTF-8"}
	errNUL     = &UnstorableError{What: "a NUL byte"}
	errNULEsc  = &UnstorableError{What: `\u0000`}
	errHalf    = &UnstorableError{What: "half of a surrogate pair"}
)

// CheckText finds what PostgreSQL doesn't store as text: bytes that are not UTF-8,
// and NUL.
//
// Errors: *UnstorableError.
func CheckText(s string) error {
	switch {
	case strings.IndexByte(s, 0) >= 0:
		return errNUL
	case !utf8.ValidString(s):
		return errNotUTF8
	}
	return nil
}

// CheckJSON finds what PostgreSQL doesn't store as jsonb in a document that is
// valid JSON by encoding/json: bytes that are not UTF-8, the escapes of NUL and of
// half a surrogate pair, and numbers beyond the type numeric. It doesn't look at
// the depth (see [Depth]).
//
// Errors: *UnstorableError.
func CheckJSON(doc []byte) error {
	if !utf8.Valid(doc) {
		return errNotUTF8
	}
	return scanJSON(doc, nil)
}

// RepairJSON is [CheckJSON] that puts U+FFFD in the place of half a surrogate
// pair, as encoding/json does. It doesn't change doc.
//
// Errors: *UnstorableError for the rest.
func RepairJSON(doc []byte) ([]byte, error) {
	if !utf8.Valid(doc) {
		return nil, errNotUTF8
	}
	repaired := doc
	err := scanJSON(doc, func(at int) {
		if &repaired[0] == &doc[0] {
			repaired = bytes.Clone(doc)
		}
		copy(repaired[at:], `\ufffd`)
	})
	if err != nil {
		return nil, err
	}
	return repaired, nil
}

// Depth returns how deep a valid JSON document is nested: 0 for a number, 1 for a
// list of numbers. PostgreSQL's stack ends at some thousands.
func Depth(doc []byte) int {
	depth, deepest := 0, 0
	for i := 0; i < len(doc); i++ {
		switch doc[i] {
		case '"':
			i = StringEnd(doc, i)
		case '{', '[':
			depth++
			deepest = max(deepest, depth)
		case '}', ']':
			depth--
		}
	}
	return deepest
}

// StringEnd returns the index of the quote that ends the JSON string which begins
// at doc[at], and len(doc) if there is none.
func StringEnd(doc []byte, at int) int {
	for at++; at < len(doc); {
		n := bytes.IndexByte(doc[at:], '"')
		if n < 0 {
			return len(doc)
		}
		escape := bytes.IndexByte(doc[at:at+n], '\\')
		if escape < 0 {
			return at + n
		}
		at += escape + 2
	}
	return len(doc)
}

// scanJSON looks at each string and number of a valid document. half is called
// with the place of each half surrogate pair, which is an error if half is nil.
func scanJSON(doc []byte, half func(at int)) error {
	inString := false
	for i := 0; i < len(doc); i++ {
		switch c := doc[i]; {
		case c == '"':
			inString = !inString
		case inString && c == '\\':
			n, err := checkEscape(doc[i:])
			if err == errHalf && half != nil { //nolint:errorlint // it is not wrapped
				half(i)
				err = nil
			}
			if err != nil {
				return err
			}
			i += n - 1
		case inString:
		case c == '-' || '0' <= c && c <= '9':
			end := i + 1
			for end < len(doc) && isNumberByte(doc[end]) {
				end++
			}
			if number := doc[i:end]; !isNumeric(number) {
				return &UnstorableError{What: "a number out of the range of numeric", Number: string(number)}
			}
			i = end - 1
		}
	}
	return nil
}

// checkEscape checks the escape that s begins with, and returns its length: 12 for
// a surrogate pair.
func checkEscape(s []byte) (length int, err error) {
	if len(s) < 2 || s[1] != 'u' {
		return 2, nil
	}
	unit := escapedUnit(s)
	switch {
	case unit == 0:
		return 6, errNULEsc
	case !utf16.IsSurrogate(unit):
		return 6, nil
	case utf16.DecodeRune(unit, escapedUnit(s[6:])) == utf8.RuneError:
		return 6, errHalf
	}
	return 12, nil
}

// escapedUnit returns the value of the escape \uXXXX that s begins with, or -1.
func escapedUnit(s []byte) rune {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return -1
	}
	n, err := strconv.ParseUint(string(s[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(n)
}

func isNumberByte(c byte) bool {
	return '0' <= c && c <= '9' || c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-'
}

// Limits of the type numeric.
const (
	maxDigitsBefore = 131_072 // of the point
	maxDigitsAfter  = 16_383
	// maxExponent is half of the largest 32-bit number.
	maxExponent = 1<<30 - 1
)

// isNumeric reports whether the type numeric holds a number of JSON.
func isNumeric(number []byte) bool {
	if len(number) <= maxDigitsAfter && !bytes.ContainsAny(number, "eE") {
		return true
	}
	number = bytes.TrimPrefix(number, []byte("-"))
	mantissa, exponent := number, 0
	if at := bytes.IndexAny(number, "eE"); at >= 0 {
		var err error
		mantissa = number[:at]
		if exponent, err = strconv.Atoi(string(number[at+1:])); err != nil || exponent >= maxExponent || exponent <= -maxExponent {
			return false
		}
	}
	whole, fraction, _ := bytes.Cut(mantissa, []byte("."))
	if len(fraction)-exponent > maxDigitsAfter {
		return false
	}
	// Only the digits from the first one on that isn't 0 take room.
	digits := bytes.TrimLeft(whole, "0")
	before := len(digits) + exponent
	if len(digits) == 0 {
		significant := bytes.TrimLeft(fraction, "0")
		if len(significant) == 0 {
			return true
		}
		before = exponent - (len(fraction) - len(significant))
	}
	return before <= maxDigitsBefore
}
