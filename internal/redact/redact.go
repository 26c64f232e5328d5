// Package redact replaces secrets in what people and logs get to see. All output of the
// program goes through it.
//
// It recognises a secret in three ways: by its name (the key of a JSON object, of a
// header, of a URL's query, of an assignment such as password=x), by its form (a token
// with a known beginning, the password of a URL, a PEM block, a card number), or by its
// value, if the caller knows it ([Set]). [Placeholder] replaces it. It doesn't find a
// secret under an innocent name in no known form: redaction protects screens and logs,
// and does not replace access control.
//
//	text.go    the scanner: one pass over a text, from left to right
//	value.go   where the value of an assignment begins and ends
//	url.go     passwords of URLs and of DSNs
//	shape.go   tokens with a known beginning
//	pem.go     private keys, whole or cut
//	card.go    card numbers
//	key.go     which names are those of secrets
//	known.go   values that the caller knows, in any encoding
//	json.go    documents
//	slog.go    a handler that redacts all that is logged
package redact

// Placeholder replaces a secret.
const Placeholder = "[redacted]"

// maxRounds limits how often a text is redacted until it stays the same. The second round
// seldom changes anything: a secret that the first round replaced had hidden another.
const maxRounds = 8

// settle applies f to s until f changes nothing any more, so that redacting twice is
// redacting once. A text that doesn't settle is replaced as a whole.
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
