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

// What an endpoint or a command answers is kept, logged and shown. It may be an
// echo of the request: so what this hook is known to hold of secrets is taken
// out before, and what looks like one.

// knownOf are the secrets of a hook that sends requests.
func knownOf(s secretsOf) *redact.Set {
	values := redact.URLParts(s.url)
	for secret := range strings.FieldsSeq(s.secrets) {
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

// secretWords are in the names of variables that hold a secret.
var secretWords = []string{
	"PASS", "SECRET", "TOKEN", "KEY", "CREDENTIAL", "AUTH", "DSN", "COOKIE", "PRIVATE", "SIGNATURE", "SALT", "WEBHOOK",
}

// minVariable is the shortest value of a variable with such a name that is
// taken for a secret: 'true' and '8080' are none.
const minVariable = 6

// knownIn are the secrets in an environment that a command may print: what
// hooks were given, what is called a secret, and the passwords of URLs.
func knownIn(environ, given []string) *redact.Set {
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

// clean is text without what is known, and without what looks like a secret.
func clean(known *redact.Set, text string) string {
	return deadletter.RedactText(known.Text(text))
}

// cleanError is err with such a text. Of its type only what [AnswerError] says
// is kept: what is wrapped has the text as it was.
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
