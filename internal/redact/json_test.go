package redact

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestJSON_hidesWhatKeysAndTextsCallASecret(t *testing.T) {
	t.Parallel()
	for doc, want := range map[string]string{
		`{"user_id": 42, "password": "x"}`:                         `{"user_id": 42, "password": "[redacted]"}`,
		`{"API-Key":{"a":[1,{"b":2}]},"after":1}`:                  `{"API-Key":"[redacted]","after":1}`,
		`{"a":{"client_secret":"x","n":12345678901234567890}}`:     `{"a":{"client_secret":"[redacted]","n":12345678901234567890}}`,
		`{"has_token":true,"token":null,"pin":1234,"secret":""}`:   `{"has_token":true,"token":null,"pin":"[redacted]","secret":""}`,
		`{"spinner":"<b>","z":1.50,"a":[],"é":"\u00e9"}`:           `{"spinner":"<b>","z":1.50,"a":[],"é":"\u00e9"}`,
		`{"max_tokens":4096,"tokens":["a"],"pass":3}`:              `{"max_tokens":4096,"tokens":"[redacted]","pass":3}`,
		`{"dbPassword":"x","userPassword2":"y","user-pin":7}`:      `{"dbPassword":"[redacted]","userPassword2":"[redacted]","user-pin":"[redacted]"}`,
		`[{"name":"password","value":"x"},{"value":1,"key":"pw"}]`: `[{"name":"password","value":"[redacted]"},{"value":"[redacted]","key":"pw"}]`,
		`[{"name":"user","value":"x"}]`:                            `[{"name":"user","value":"x"}]`,
		`{"headers":{"Authorization":["Bearer x"],"A":["b"]}}`:     `{"headers":{"Authorization":"[redacted]","A":["b"]}}`,
		`{"headers":[["X-Api-Key","x"],["Host","y"]]}`:             `{"headers":[["X-Api-Key","[redacted]"],["Host","y"]]}`,
		`{"rawHeaders":["Cookie","x","Host","y"]}`:                 `{"rawHeaders":["Cookie","[redacted]","Host","y"]}`,
		`{"required":["password","email"]}`:                        `{"required":["password","email"]}`,
		`{"cmd":["mysql","--password","x","-h","db"]}`:             `{"cmd":["mysql","--password","[redacted]","-h","db"]}`,
		`{"env":["PGPASSWORD=x"]}`:                                 `{"env":["PGPASSWORD=[redacted]"]}`,
		`{"body":"{\"password\": \"x\", \"n\": 1.0}"}`:             `{"body":"{\"password\": \"[redacted]\", \"n\": 1.0}"}`,
		`{"a":"{\"b\":\"{\\\"token\\\":\\\"x\\\"}\"}"}`:            `{"a":"{\"b\":\"{\\\"token\\\":\\\"[redacted]\\\"}\"}"}`,
		`{"a":"{\"password\":\"x"}`:                                `{"a":"{\"password\":\"[redacted]"}`,
		`{"card":4111111111111111,"order_id":4111111111111111}`:    `{"card":"[redacted]","order_id":4111111111111111}`,
		`{"password=x":1}`:                                         `{"password=[redacted]":"[redacted]"}`,
		`{"password":"env:DB_PASSWORD"}`:                           `{"password":"env:DB_PASSWORD"}`,
		`["Bearer abcdefgh.ijk"]`:                                  `["Bearer [redacted]"]`,
		` null `:                                                   ` null `,
		`"password=x"`:                                             `"password=[redacted]"`,
		`not JSON, password=x`:                                     `not JSON, password=[redacted]`,
		``:                                                         ``,
	} {
		if got := JSON(json.RawMessage(doc)); string(got) != want {
			t.Errorf("JSON(%s)\n = %s\nnot %s", doc, got, want)
		}
	}
}

func TestKey_isThatOfASecret(t *testing.T) {
	t.Parallel()
	for _, key := range []string{
		"password", "Password", "db_password", "userPassword2", "password_2", "passwd", "PGPASSWORD", "SMTP_PASS", "dbPass", "passphrase",
		"secret", "client_secret", "clientSecret", "AWS_SECRET_ACCESS_KEY", "secret_id", "token", "accessToken", "x-auth-token", "csrftoken",
		"api_key", "API-Key", "apiKey", "X-Api-Key", "private.key", "signing_key", "AccountKey", "SharedAccessKey", "Authorization",
		"Proxy-Authorization", "Cookie", "set-cookie", "credentials", "card_number", "cardNumber", "cvv", "cvc2", "card_pin", "userPIN", "pin",
		"ssn", "jwt", "otp", "SENTRY_DSN", "auth", "Pwd", "connectionString", "[password]",
	} {
		if !Key(key) {
			t.Errorf("Key(%q) = false", key)
		}
	}
	for _, key := range []string{
		"", "a", "key", "id", "user_id", "name", "author", "authority", "spinner", "pinned", "shopping", "compass", "bypass", "passenger",
		"monkey", "primary_key", "public_key", "cache_key", "keyword", "secretary", "tokenizer", "tokenized", "passwordless", "token_type",
		"password_changed_at", "passwordChangedAt", "token_expires_in", "tokenCount", "dedup_key", "state", "code", "signature", "span", "japan",
		"cookie_policy", "token_url", "description", "zip", "keys", "turkey",
	} {
		if Key(key) {
			t.Errorf("Key(%q) = true", key)
		}
	}
}

// FuzzText: redacting again changes nothing, and makes no text much longer.
func FuzzText(f *testing.F) {
	for _, s := range []string{
		`{"password":"x"}`, `a: b=c; d`, "postgres://a:b@c/d?token=e", "-----BEGIN PRIVATE KEY-----\nMIIB", `\"secret\": \"x\"`, "Cookie: a=b",
		"--token 'x'", "4111 1111 1111 1111", "[redacted]", "token: [redacted].", "<secret>a</secret>", "('password', 'x')", "password=a[redacted]",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		once := Text(s)
		if twice := Text(once); twice != once {
			t.Fatalf("%q became %q, then %q", s, once, twice)
		}
		if len(once) > len(s)*(len(Placeholder)+1) {
			t.Fatalf("%d bytes became %d", len(s), len(once))
		}
		if once == Placeholder && len(s) > 100 && !strings.Contains(s, "PRIVATE KEY") && scansTo(s) == maxRounds {
			t.Fatalf("%q never came to rest", s)
		}
	})
}

// scansTo is how many rounds a text takes.
func scansTo(s string) int {
	for n := range maxRounds {
		next, _ := scanText(s)
		if next == s {
			return n
		}
		s = next
	}
	return maxRounds
}

// FuzzJSON: what was JSON stays JSON, redacting again changes nothing, and what
// a key calls a secret never survives.
func FuzzJSON(f *testing.F) {
	f.Add(`{"a":[1,2,{"password":"x"}],"b":"\u0000"}`, "hunter2hunter2hunter2")
	f.Add(`{}`, "$ECRETSECRETSECRET")
	f.Add(`[["Cookie","x"],{"name":"token","value":[1]},"{\"a\":\"{}\"}"]`, `"\`)
	f.Fuzz(func(t *testing.T, doc, secret string) {
		once := JSON(json.RawMessage(doc))
		if json.Valid([]byte(doc)) && !json.Valid(once) {
			t.Fatalf("%q became %q", doc, once)
		}
		if twice := JSON(once); string(twice) != string(once) {
			t.Fatalf("%q became %q, then %q", doc, once, twice)
		}
		text, err := json.Marshal(map[string]any{"db_password": secret, "headers": map[string][]string{"Authorization": {secret}}})
		if err != nil {
			t.Fatal(err)
		}
		if out := JSON(text); len(secret) > 16 && !reference(secret) && strings.Contains(string(out), secret) {
			t.Fatalf("%q is still in %q", secret, out)
		}
	})
}
