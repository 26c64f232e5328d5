package deadletter

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"soniq/internal/redact"
)

// MaxErrorBytes is how much of an error's text is kept, in bytes. 8 KiB holds
// a wrapped error with a remote answer in it and stays near the limit above
// which Postgres moves a value out of the row.
const MaxErrorBytes = 8 << 10

// replacement stands for what Postgres can't store.
const replacement = "\uFFFD"

// Storable returns s as Postgres takes it, in text and in JSON: valid UTF-8
// without NUL and at most max bytes long. What it can't keep becomes U+FFFD;
// of a longer text it keeps the head, where the operation is named, and the
// tail, where Go's wrapped errors name the cause, around a mark that says how
// much is missing. A storable text comes back unchanged.
//
// It reads about max bytes of s, however long that is.
func Storable(s string, max int) string {
	if max <= 0 {
		return ""
	}
	if len(s) <= max {
		// Cleaning can make it longer: one bad byte becomes three.
		s = clean(s)
		if len(s) <= max {
			return s
		}
	}

	// Short texts have no room for the mark.
	mark := cutMark(len(s))
	room := max - len(mark)
	if room < len(mark) {
		return head(clean(head(s, max)), max)
	}
	// What is cut is cut between words: half a token can't be told for one, and
	// would be shown where whole ones are redacted.
	h := head(clean(redact.Head(s, room-room/2)), room-room/2)
	t := tail(clean(redact.Tail(s, room/2)), room/2)
	// Recount: the mark must tell what is missing. It can't grow.
	mark = cutMark(len(s) - len(h) - len(t))
	return h + mark + t
}

func cutMark(bytes int) string { return fmt.Sprintf(" ...[%d bytes cut]... ", bytes) }

func clean(s string) string {
	if strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(s, "\x00", replacement)
	}
	return strings.ToValidUTF8(s, replacement)
}

// head returns at most n bytes from the start of s, without half a rune.
func head(s string, n int) string {
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

// tail returns at most n bytes from the end of s, without half a rune.
func tail(s string, n int) string {
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
