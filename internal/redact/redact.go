// Package redact takes secrets out of what people and logs get to see: the one
// redactor for every way out of this program.
//
// A secret is known by its name (the key of a JSON object, of a header, of a
// URL's query, of an assignment such as password=x) or by its look (a token with
// a known beginning, the password of a URL, a PEM block, a card number). Its
// place is taken by [Placeholder]. A secret under an innocent name that looks
// like nothing in particular is not found: this is for eyes and logs, and no
// replacement for access control.
//
//	text.go    the scanner: one pass over a text, from left to right
//	value.go   where the value of an assignment begins and ends
//	url.go     passwords of URLs and of DSNs
//	shape.go   tokens with a known beginning
//	pem.go     private keys, whole or cut
//	card.go    card numbers
//	key.go     which names are those of secrets
//	json.go    documents
//	slog.go    a handler that redacts all that is logged
package redact

// Placeholder stands where a secret was.
const Placeholder = "[redacted]"

// maxRounds bounds how often a text is redacted until it stays as it is. The
// second round changes hardly any: what a secret hid before it was gone.
const maxRounds = 8

// settle returns f(f(...f(s))), as soon as f changes nothing any more. That
// makes each redaction idempotent whatever f does; a text that would never come
// to rest is hidden as a whole.
func settle(s string, f func(string) (string, bool)) string {
	for range maxRounds {
		next, changed := f(s)
		if !changed || next == s {
			return s
		}
		s = next
	}
	return Placeholder
}
