package redact

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// url hides the password in the URL whose "://" is at s[i], and returns where to
// go on: a secret in its query is an assignment like others.
func (x *scanner) url(i int) (next int) {
	s := x.s
	from := i + len("://")
	// The authority, its first colon and its last '@'.
	end, colon, at := from, -1, -1
	if end < len(s) && s[end] == '[' { // an IPv6 address
		for end < len(s) && urlChar(s[end]) && s[end] != ']' {
			end++
		}
	}
	for end < len(s) && urlChar(s[end]) && s[end] != '/' && s[end] != '?' && s[end] != '#' {
		switch s[end] {
		case ':':
			if colon < 0 {
				colon = end
			}
		case '@':
			at = end
		}
		end++
	}
	switch {
	case at < 0 && (colon < 0 || colon+1 == end || port(s[colon+1:end]) || x.portOfSentence(colon+1, end)):
		return from
	case at < 0:
		// No host follows: the text was cut, or there is in the password what
		// should have been escaped.
		to := end
		if k := x.nextAt(end); k < len(s) && k < end+maxURL && !strings.ContainsAny(s[end:k], "\n\"'") {
			to = k
		}
		x.hideUser(colon+1, to)
		return to
	case colon >= 0 && colon < at:
		x.hideUser(colon+1, at)
	case secretUser(s[i-min(i, 10):i], s[from:at]):
		x.hideUser(from, at)
	}
	return at + 1
}

// portOfSentence reports whether s[from:end] is a port and what a sentence puts
// behind it: 'POST http://127.0.0.1:8080: EOF'. If a host follows in the same
// word, it is a password.
func (x *scanner) portOfSentence(from, end int) bool {
	s, digits := x.s, from
	for digits < end && isDigit(s[digits]) {
		digits++
	}
	if digits == from || digits-from > 5 || isAlnum(s[digits]) {
		return false
	}
	for k := digits; k < end; k++ {
		if s[k] < utf8.RuneSelf && strings.IndexByte(`:,.;!)]}*|`, s[k]) < 0 {
			return false
		}
	}
	host := x.nextAt(end)
	return host == len(s) || strings.IndexFunc(s[end:min(host, end+maxHost)], unicode.IsSpace) >= 0
}

func urlChar(b byte) bool {
	return b > ' ' && b != '"' && b != '\'' && b != '`' && b != '<' && b != '>' && b != '\\'
}

// nextAt returns where the next '@' from s[i] on is, or the end. To look for it
// anew for each URL would cost the square of their number.
func (x *scanner) nextAt(i int) int {
	if x.at < i {
		if x.at = strings.IndexByte(x.s[i:], '@'); x.at < 0 {
			x.at = len(x.s)
		} else {
			x.at += i
		}
	}
	return x.at
}

// maxHost bounds how far a word is followed to the host of a URL, in bytes.
const maxHost = 512

// maxURL bounds how far the end of a user's part is looked for, in bytes.
const maxURL = 4 << 10

func (x *scanner) hideUser(from, end int) {
	if from < end && !placeholderAt(x.s, from) && !standIn(x.s[from:end]) {
		x.hide(from, end)
	}
}

// standIn reports whether a password is what stands in for one, in a text about
// URLs or where another program has hidden it.
func standIn(s string) bool {
	return s == "PASSWORD" || s == "xxxxx" || strings.Trim(s, "*") == ""
}

// port reports whether s is what stands for a port: digits, nothing, or the name
// of a placeholder.
func port(s string) bool {
	return every(s, isDigit) || strings.EqualFold(s, "port") || strings.ContainsAny(s, "${}%*")
}

// secretUser reports whether a user without a password is a secret: the token
// of a repository's URL.
func secretUser(scheme, user string) bool {
	return user != "" && (strings.HasSuffix(scheme, "http") || strings.HasSuffix(scheme, "https") ||
		len(user) >= 20 && mixed(user))
}

// dsn hides the password before the @ at s[i] of what has no scheme: that of
// Go's MySQL driver, ann:x@tcp(db:3306)/app, and Oracle's ann/x@//db.
func (x *scanner) dsn(i int) {
	s := x.s
	separator := byte(':')
	switch rest := s[i+1:]; {
	case strings.HasPrefix(rest, "tcp("), strings.HasPrefix(rest, "unix("), strings.HasPrefix(rest, "tcp6("):
	case strings.HasPrefix(rest, "//"), strings.HasPrefix(rest, "(DESCRIPTION"):
		separator = '/'
	default:
		return
	}
	from := i
	for from > x.done && i-from < 256 && s[from-1] > ' ' && s[from-1] != separator {
		from--
	}
	if from > x.done && s[from-1] == separator {
		x.hideUser(from, i)
	}
}
