package redact

import "unicode/utf8"

// cutSpan is how far a cut moves to the edge of a word, in bytes: further than
// the tokens that [Text] knows by their look are long, but for web tokens, which
// it knows by their beginning.
const cutSpan = 512

// Head is the beginning of text, at most n bytes: whole characters, and whole
// words where one ends within the last 512 bytes. Half a token has not the look
// of one, and would be shown.
func Head(text string, n int) string {
	if len(text) <= n {
		return text
	}
	end := max(n, 0)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	for at := end; at > 0 && end-at <= cutSpan; at-- {
		if !isWord(text[at-1]) || !isWord(text[at]) {
			return text[:at]
		}
	}
	return text[:end]
}

// Tail is the end of text, at most n bytes, as [Head] is its beginning.
func Tail(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return LaterHalf(text, len(text)-max(n, 0))
}

// LaterHalf is text from the byte start on or, if a word is cut there, from the
// end of that word on. At 0 it counts as cut: what was before is not known.
func LaterHalf(text string, start int) string {
	for start < len(text) && !utf8.RuneStart(text[start]) {
		start++
	}
	for at := start; at < len(text) && at-start <= cutSpan; at++ {
		if !isWord(text[at]) || at > 0 && !isWord(text[at-1]) {
			return text[at:]
		}
	}
	return text[start:]
}

// isWord reports whether a token may have b in it.
func isWord(b byte) bool {
	switch b {
	case '_', '-', '.', '/', '+', '=', '~', '%', ':', '@', '$', '!':
		return true
	}
	return '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z'
}
