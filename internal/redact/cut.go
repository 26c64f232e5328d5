package redact

import "unicode/utf8"

// cutSpan is how far a cut moves to the edge of a word, in bytes. It is longer than the
// tokens that [Text] recognises by their form. It recognises web tokens, which are longer,
// by their beginning.
const cutSpan = 512

// Head returns the beginning of text, at most n bytes. It cuts between characters, and
// between words if a word ends within the last 512 bytes: [Text] doesn't recognise half a
// token, so half a token would be shown.
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

// Tail returns the end of text, at most n bytes, cut as [Head] cuts.
func Tail(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return LaterHalf(text, len(text)-max(n, 0))
}

// LaterHalf returns text from the byte start on. If that cuts a word, it starts after the
// word. At 0 a word counts as cut, since what was before is not known.
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
