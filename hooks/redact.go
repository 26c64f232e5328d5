package hooks

import (
	"encoding/base64"
	"errors"
	"net/url"
	"slices"
	"strings"

	"soniq/deadletter"
	"soniq/internal/redact"
	"soniq/internal/webhook"
)

// What an endpoint or a command answers is kept, logged and shown. It may echo the
// request. So the secrets that the hook holds are taken out first, and then what
// looks like a secret.

// secretsIn are the secrets of a hook that sends requests.
func secretsIn(s secrets) *redact.Set {
	values := redact.URLParts(s.url)
	for secret := range strings.FieldsSeq(s.signing) {
		encoded := strings.TrimPrefix(secret, webhook.SecretPrefix)
		values = append(values, secret, encoded)
		if raw, err := base64.StdEncoding.DecodeString(encoded); err == nil {
			values = append(values, string(raw))
		}
	}
	for _, value := range s.headers {
		values = append(values, redact.HeaderParts(value)...)
	}
	set := redact.NewSet(values...)
	if u, err := ParseURL(s.url); err == nil {
		set.Keep(u.Host, u.Hostname())
	}
	return set
}

// secretWords occur in the names of variables that hold a secret.
var secretWords = []string{
	"PASS", "SECRET", "TOKEN", "KEY", "CREDENTIAL", "AUTH", "DSN", "COOKIE", "PRIVATE", "SIGNATURE", "SALT", "WEBHOOK",
}

// minVariable is the shortest value, in bytes, that counts as a secret because of its
// variable's name. 'true' and '8080' are no secrets.
const minVariable = 6

// secretsInEnv are the secrets in an environment, which a command may print: the
// variables given to hooks, those whose name says so, and the passwords of URLs.
func secretsInEnv(environ, given []string) *redact.Set {
	var values []string
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		upper := strings.ToUpper(name)
		switch {
		case slices.Contains(reserved, name) && name != "SONIQ_HOOK_KEY":
		case strings.HasPrefix(name, OwnPrefix), slices.Contains(given, name):
			values = append(values, value)
		case len(value) >= minVariable && slices.ContainsFunc(secretWords, func(word string) bool { return strings.Contains(upper, word) }) &&
			!strings.HasPrefix(value, "/"): // the path of a file that has it
			values = append(values, value)
		}
		if u, err := url.Parse(value); err == nil && u.User != nil {
			if password, ok := u.User.Password(); ok {
				values = append(values, password)
			}
		}
	}
	return redact.NewSet(values...)
}

// clean returns text without the known secrets and without what looks like one.
func clean(known *redact.Set, text string) string {
	return deadletter.RedactText(known.Text(text))
}

// cleanError returns err with a cleaned text. It keeps an [AnswerError] and drops
// everything else that err wraps, whose text is not cleaned.
func cleanError(known *redact.Set, err error) error {
	if err == nil {
		return nil
	}
	var refused *AnswerError
	if errors.As(err, &refused) {
		theirs := *refused
		theirs.Answer = clean(known, theirs.Answer)
		return &theirs
	}
	return errors.New(clean(known, err.Error()))
}

// cut returns at most limit bytes of s, with an ellipsis if something is missing.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return redact.Head(s, limit-len("…")) + "…"
}

// storable returns s as text that the database can hold, at most maxAnswer bytes.
func storable(s string) string {
	return cut(strings.ReplaceAll(strings.ToValidUTF8(s, "�"), "\x00", "�"), maxAnswer)
}
