package deadletter

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestRedact_hidesWhatKeysCallASecret(t *testing.T) {
	t.Parallel()
	for doc, want := range map[string]string{
		`{"user_id": 42, "password": "hunter2"}`:               `{"user_id": 42, "password": "[redacted]"}`,
		`{"API-Key":{"a":[1,{"b":2}]},"after":1}`:              `{"API-Key":"[redacted]","after":1}`,
		`{"a":{"client_secret":"x","n":12345678901234567890}}`: `{"a":{"client_secret":"[redacted]","n":12345678901234567890}}`,
		`{"has_token":true,"token":null,"pin":1234}`:           `{"has_token":true,"token":null,"pin":"[redacted]"}`,
		`{"spinner":"<b>","z":1.50,"a":[]}`:                    `{"spinner":"<b>","z":1.50,"a":[]}`,
		`["Bearer abcdefgh.ijk"]`:                              `["Bearer [redacted]"]`,
		`null`:                                                 `null`,
		`not JSON, password=hunter2`:                           `not JSON, password=[redacted]`,
	} {
		if got := Redact(json.RawMessage(doc)); string(got) != want {
			t.Errorf("Redact(%s) = %s, want %s", doc, got, want)
		}
	}
}

func TestRedactText_hidesWhatLooksLikeASecret(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"dial postgres://ann:s3cr3t@db:5432/app: refused":      "dial postgres://ann:[redacted]@db:5432/app: refused",
		"get https://example.com:8080/x: connection refused":   "get https://example.com:8080/x: connection refused",
		"Authorization: Bearer abc.def-ghi=":                   "Authorization: [redacted]",
		"POST https://hooks.slack.com/services/T0/B0/xyz: 404": "POST https://hooks.slack.com/[redacted]: 404",
		"key AKIAABCDEFGHIJKLMNOP is disabled":                 "key [redacted] is disabled",
		"GET /?token=abc&user=7":                               "GET /?token=[redacted]&user=7",
		"basic idea: a bearer of news":                         "basic idea: a bearer of news",
		"-----BEGIN RSA PRIVATE KEY-----\nMIIB\n":              "[redacted]\n",
	} {
		if got := RedactText(text); got != want {
			t.Errorf("RedactText(%q) = %q, want %q", text, got, want)
		}
	}
}

// FuzzRedact: what was JSON stays JSON, redacting again changes nothing, and a
// password never survives.
func FuzzRedact(f *testing.F) {
	f.Add(`{"a":[1,2,{"password":"x"}],"b":"\u0000"}`, "hunter2hunter2")
	f.Fuzz(func(t *testing.T, doc, secret string) {
		once := Redact(json.RawMessage(doc))
		if json.Valid([]byte(doc)) && !json.Valid(once) {
			t.Fatalf("%q became %q", doc, once)
		}
		if twice := Redact(once); string(twice) != string(once) {
			t.Fatalf("%q became %q, then %q", doc, once, twice)
		}
		text, err := json.Marshal(map[string]string{"db_password": secret})
		if err != nil {
			t.Fatal(err)
		}
		if out := Redact(text); len(secret) > 16 && strings.Contains(string(out), secret) {
			t.Fatalf("%q is still in %q", secret, out)
		}
	})
}
