package pg

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"soniq/internal/redact"
)

// replacement is in the place of what PostgreSQL can't store.
const replacement = "\uFFFD"

// Storable returns s as PostgreSQL stores it as text and in JSON: valid UTF-8
// without NUL, at most max bytes long. U+FFFD replaces what can't be stored. Of a
// longer text it keeps the head, which names the operation, and the tail, where
// Go's wrapped errors name the cause. Between them is a mark with the number of
// missing bytes. A text that can be stored comes back unchanged.
//
// It reads about max bytes of s, however long that is.
func Storable(s string, max int) string {
	if max <= 0 {
		return ""
	}
	if len(s) <= max {
		// Cleaning can make it longer: one bad byte becomes three.
		s = CleanText(s)
		if len(s) <= max {
			return s
		}
	}

	// Short texts have no room for the mark.
	mark := cutMark(len(s))
	room := max - len(mark)
	if room < len(mark) {
		return HeadText(CleanText(HeadText(s, max)), max)
	}
	// What is cut is cut between words: half a token can't be told for one, and
	// would be shown where whole ones are redacted.
	h := HeadText(CleanText(redact.Head(s, room-room/2)), room-room/2)
	t := tailText(CleanText(redact.Tail(s, room/2)), room/2)
	// Recount: the mark must tell what is missing. It can't grow.
	mark = cutMark(len(s) - len(h) - len(t))
	return h + mark + t
}

func cutMark(bytes int) string { return fmt.Sprintf(" ...[%d bytes cut]... ", bytes) }

// CleanText returns s with U+FFFD in the place of what PostgreSQL can't store.
func CleanText(s string) string {
	if strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(s, "\x00", replacement)
	}
	return strings.ToValidUTF8(s, replacement)
}

// HeadText returns at most n bytes from the start of s, without half a rune.
func HeadText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	// A rune has at most three continuation bytes; more are not UTF-8 anyway.
	for i := n; i >= 0 && i > n-utf8.UTFMax; i-- {
		if utf8.RuneStart(s[i]) {
			return s[:i]
		}
	}
	return s[:n]
}

// tailText returns at most n bytes from the end of s, without half a rune.
func tailText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	start := len(s) - n
	for i := start; i < len(s) && i < start+utf8.UTFMax; i++ {
		if utf8.RuneStart(s[i]) {
			return s[i:]
		}
	}
	return s[start:]
}
