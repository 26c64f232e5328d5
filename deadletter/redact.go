package deadletter

import (
	"bytes"
	"encoding/json"
	"io"
	"regexp"
	"slices"
	"strings"
)

// Redacted stands in for a value that Redact took out.
const Redacted = "[redacted]"

// secretParts are what the keys of secrets contain, in lower case and without
// what separates words.
var secretParts = []string{
	"password", "passwd", "passphrase", "secret", "token", "authorization", "apikey", "accesskey",
	"privatekey", "signingkey", "credential", "cookie", "cardnumber", "bearer",
}

// secretNames are keys that are too short to be looked for inside of others.
var secretNames = []string{"auth", "cvc", "cvv", "dsn", "jwt", "pan", "pin", "pwd", "ssn"}

var separators = strings.NewReplacer("_", "", "-", "", ".", "", " ", "")

func secretKey(key string) bool {
	k := separators.Replace(strings.ToLower(key))
	return slices.Contains(secretNames, k) ||
		slices.ContainsFunc(secretParts, func(part string) bool { return strings.Contains(k, part) })
}

// Redact returns a JSON document with "[redacted]" in the place of each value
// whose key is that of a secret (password, api_key, authorization ...), and
// with the texts of the others as RedactText makes them. Order and digits stay
// as they are. It is for people's eyes, and no guarantee: a secret under an
// innocent name is shown. What isn't JSON comes back through RedactText.
func Redact(doc json.RawMessage) json.RawMessage {
	if len(doc) == 0 {
		return doc
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	var out bytes.Buffer
	if err := redactValue(dec, &out, false); err != nil {
		return json.RawMessage(RedactText(string(doc)))
	}
	if _, err := dec.Token(); err != io.EOF {
		return json.RawMessage(RedactText(string(doc)))
	}
	return out.Bytes()
}

// redactValue copies the next value. hide takes out all that it says, but for
// null, true and false.
func redactValue(dec *json.Decoder, out *bytes.Buffer, hide bool) error {
	token, err := dec.Token()
	if err != nil {
		return err
	}
	delim, nested := token.(json.Delim)
	if !nested {
		return redactScalar(out, token, hide)
	}
	if hide {
		for depth := 1; depth > 0; {
			inner, err := dec.Token()
			if err != nil {
				return err
			}
			switch inner {
			case json.Delim('{'), json.Delim('['):
				depth++
			case json.Delim('}'), json.Delim(']'):
				depth--
			}
		}
		return encodeTo(out, Redacted)
	}
	out.WriteRune(rune(delim))
	for first := true; dec.More(); first = false {
		if !first {
			out.WriteByte(',')
		}
		secret := false
		if delim == '{' {
			key, err := dec.Token()
			if err != nil {
				return err
			}
			name, _ := key.(string)
			if err := encodeTo(out, name); err != nil {
				return err
			}
			out.WriteByte(':')
			secret = secretKey(name)
		}
		if err := redactValue(dec, out, secret); err != nil {
			return err
		}
	}
	end, err := dec.Token()
	if err != nil {
		return err
	}
	if d, ok := end.(json.Delim); ok {
		out.WriteRune(rune(d))
	}
	return nil
}

func redactScalar(out *bytes.Buffer, token json.Token, hide bool) error {
	switch v := token.(type) {
	case string:
		if hide {
			return encodeTo(out, Redacted)
		}
		return encodeTo(out, RedactText(v))
	case json.Number:
		if hide {
			return encodeTo(out, Redacted)
		}
		out.WriteString(v.String())
		return nil
	default:
		return encodeTo(out, token)
	}
}

// encodeTo writes v as JSON, without a line break and not for HTML.
func encodeTo(out *bytes.Buffer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	out.Truncate(out.Len() - 1)
	return nil
}

// What is a secret by its own look: the password of a URL, a token of a header,
// a JSON web token, keys of clouds and chat webhooks, a PEM block.
var secretTexts = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://[^\s/:@?#"']*):[^\s/@"']+@`), "$1:" + Redacted + "@"},
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[a-z0-9._~+/-]{8,}=*`), "$1 " + Redacted},
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`), Redacted},
	{regexp.MustCompile(`\b(AKIA|ASIA)[A-Z0-9]{16}\b`), Redacted},
	{regexp.MustCompile(`\b(sk|rk)_(live|test)_[A-Za-z0-9]{8,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bxox[abprs]-[A-Za-z0-9-]{8,}`), Redacted},
	{regexp.MustCompile(`(https://hooks\.slack\.com/)[A-Za-z0-9/_-]+`), "$1" + Redacted},
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`), Redacted},
	{regexp.MustCompile(`(?i)\b(password|passwd|pwd|secret|token|api[_-]?key)=[^\s&"',;]+`), "$1=" + Redacted},
}

// RedactText returns s without what looks like a secret, such as the password
// of a URL or a bearer token.
func RedactText(s string) string {
	for _, t := range secretTexts {
		s = t.pattern.ReplaceAllString(s, t.instead)
	}
	return s
}

// Redacted returns the dead letter for people's eyes: arguments and tags as
// Redact makes them, errors and stacks as RedactText does.
func (j Job) Redacted() Job {
	j.Args, j.Tags = Redact(j.Args), Redact(j.Tags)
	j.LastError = RedactText(j.LastError)
	failures := slices.Clone(j.Errors)
	for i := range failures {
		failures[i].Message = RedactText(failures[i].Message)
		failures[i].Stack = RedactText(failures[i].Stack)
	}
	j.Errors = failures
	return j
}
