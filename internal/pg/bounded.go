package pg

import (
	"fmt"
	"strconv"
	"time"
)

// Limits for columns whose size is decided by whoever may insert a job. A jsonb
// value has up to 255 MB, and a few bytes of it can be gigabytes as text: 1e131071
// is stored as a digit and an exponent.
const (
	// ListedBytes limits the arguments of each job in a list.
	ListedBytes = 256 << 10
	// SingleBytes limits the arguments of a job that is read alone.
	SingleBytes = 16 << 20
	// PlainBytes is the limit for a second try, after a statement has failed
	// because of a value in some row (see [IsTooLarge]). With it a statement reads
	// only values that are small and not compressed in the table.
	PlainBytes = 2000
)

// indexedBytes is the longest text that is surely short enough for an index. An
// entry of an index has at most 2,704 bytes, and here also holds a time and an id.
const indexedBytes = 2000

// BoundedJSON returns an expression for a column of type jsonb: its value, or a
// JSON string with the size where it has more than limit bytes. NULL stays NULL.
// what is the noun for that string, such as 'arguments'.
//
// The expression compares three sizes, the cheap ones first: that of the stored
// value, that of the decompressed one, and that of its text.
func BoundedJSON(column, what string, limit int) string {
	most := strconv.Itoa(limit)
	note := func(size string) string {
		return "to_jsonb('" + what + " of ' || " + size + " || ' bytes are not shown'::text)"
	}
	stored, raw, text := "pg_column_size("+column+")", "pg_column_size(array["+column+"])", "octet_length("+column+"::text)"
	tooRaw := raw + " > " + most
	if limit <= PlainBytes {
		// Nothing is decompressed.
		tooRaw = "pg_column_compression(" + column + ") is not null"
	}
	return "case when " + stored + " > " + most + " then " + note(stored) +
		" when " + tooRaw + " then " + note(raw) +
		" when " + text + " > " + strconv.Itoa(max(limit, ListedBytes)) + " then " + note(text) +
		" else " + column + " end"
}

// BoundedHistory returns an expression for a column of failures: NULL where it is
// larger than any history that Soniq writes.
func BoundedHistory(column string) string {
	return "case when pg_column_size(" + column + ") <= 262144 and pg_column_size(array[" + column + "]) <= 1048576 then " + column + " end"
}

// LastWord is a regular expression, as an SQL literal, for the word at the end of a
// text that was cut: what a token may consist of, up to 510 characters.
const LastWord = `'([0-9A-Za-z_./+=~%:@$!-]{1,255}){1,2}$'`

// BoundedText returns an expression for the first n characters of a column of type
// text. A longer text loses its last word too, up to 510 characters of it: half a
// token would not be recognised as a secret (see package redact). NULL stays NULL.
func BoundedText(column string, n int) string {
	// Only the end is searched: the search takes the square of its length.
	const end = 510
	kept := max(n-end, 0)
	return "case when length(left(" + column + ", " + strconv.Itoa(n+1) + ")) > " + strconv.Itoa(n) +
		" then left(" + column + ", " + strconv.Itoa(kept) + ") || regexp_replace(substr(" + column + ", " + strconv.Itoa(kept+1) + ", " +
		strconv.Itoa(n-kept) + "), " + LastWord + ", '')" +
		" else " + column + " end"
}

// IndexedText returns an expression for a column of type text that fits into an
// index. A longer text becomes its beginning and a hash of the whole, so that two
// different texts stay different.
func IndexedText(column string) string {
	return "case when octet_length(" + column + ") <= " + strconv.Itoa(indexedBytes) + " then " + column +
		" else left(" + column + ", 200) || '...' || lpad(to_hex(hashtextextended(" + column + ", 0)), 16, '0') end"
}

// IsShortened reports whether [IndexedText] shortens the text.
func IsShortened(text string) bool { return len(text) > indexedBytes }

// WholeText returns an expression for the text that [IndexedText] shortens, and
// NULL for one that it keeps.
func WholeText(column string) string {
	return "case when octet_length(" + column + ") > " + strconv.Itoa(indexedBytes) + " then " + column + " end"
}

// Times that both Go and JSON can represent. Anybody may write other times, and
// infinity, into a row. Such a row must not hide the others.
const (
	EarliestTime = "timestamptz '0001-01-01 00:00:00+00'"
	LatestTime   = "timestamptz '9999-12-31 23:59:59+00'"
)

// TimeProblem says what is wrong with a time that a caller gives, and completes a
// sentence that begins with what it is. It is empty for a time from [EarliestTime] to
// [LatestTime]: what is far outside pgx would send as another time, since its count of
// microseconds overflows.
func TimeProblem(t time.Time) string {
	if year := t.UTC().Year(); year < 1 || year > 9999 {
		return "must be in a year from 1 to 9999, not " + strconv.Itoa(year)
	}
	return ""
}

// CheckWindow checks the ends of a window. The zero time is no end.
//
// Errors: one that begins with what has the window, and names the field, From or To.
func CheckWindow(what string, from, to time.Time) error {
	if problem := TimeProblem(from); problem != "" {
		return fmt.Errorf("%s: From: %s", what, problem)
	}
	if problem := TimeProblem(to); problem != "" {
		return fmt.Errorf("%s: To: %s", what, problem)
	}
	return nil
}

// BoundedTime returns an expression for a column of type timestamptz: its value,
// or the nearest time that Go and JSON can represent. NULL stays NULL.
func BoundedTime(column string) string {
	return "case when " + column + " is not null then " + nearestTime(column) + " end"
}

// FiniteTime is [BoundedTime] with NULL for a time at infinity.
func FiniteTime(column string) string {
	return "case when isfinite(" + column + ") then " + nearestTime(column) + " end"
}

func nearestTime(column string) string {
	return "least(greatest(" + column + ", " + EarliestTime + "), " + LatestTime + ")"
}
