package redact

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestText_hidesWhatIsASecretByNameOrLook(t *testing.T) {
	t.Parallel()
	const x = "Zk3vQ9pL7w" // the secret in each
	jwt := "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ." + x + x
	for text, want := range map[string]string{
		// Names.
		`{"password":"Zk3vQ9pL7w"}`:                                   `{"password":"[redacted]"}`,
		`{'password': 'Zk3vQ9pL7w', 'user': 'ann'}`:                   `{'password': '[redacted]', 'user': 'ann'}`,
		`{"password":"Zk3v\"Q9pL7w","n":1}`:                           `{"password":"[redacted]","n":1}`,
		`{\"password\":\"Zk3vQ9pL7w\",\"n\":1}`:                       `{\"password\":\"[redacted]\",\"n\":1}`,
		`{\\\"password\\\":\\\"Zk3vQ9pL7w\\\"}`:                       `{\\\"password\\\":\\\"[redacted]\\\"}`,
		`{"password":"Zk3vQ9p`:                                        `{"password":"[redacted]`,
		`body: {"card_pin": 1234, "n": 1}`:                            `body: {"card_pin": [redacted], "n": 1}`,
		`{"credentials": {"user": "a", "key": "b"}, "n": 1}`:          `{"credentials": {[redacted]}, "n": 1}`,
		`password: Zk3vQ9pL7w`:                                        `password: [redacted]`,
		`password: correct horse battery`:                             `password: [redacted]`,
		`  - password: correct horse battery` + "\n  - user: a b":     "  - password: [redacted]\n  - user: a b",
		`password: Zk3v Q9 user: ann`:                                 `password: [redacted] user: ann`,
		`login failed with password: swordfish for ann`:               `login failed with password: [redacted] for ann`,
		`password=Zk3vQ9pL7w`:                                         `password=[redacted]`,
		`password = Zk3vQ9pL7w, user = ann`:                           `password = [redacted], user = ann`,
		`Password = "x y" and on`:                                     `Password = "[redacted]" and on`,
		`password='it''s' user='ann'`:                                 `password='[redacted]' user='ann'`,
		`password="Zk3v;Q9",x`:                                        `password="[redacted]",x`,
		`ConfigError(password='Zk3vQ9', n=2)`:                         `ConfigError(password='[redacted]', n=2)`,
		`password=b'Zk3v'`:                                            `password=b'[redacted]'`,
		`{Password:Zk3vQ9 User:ann}`:                                  `{Password:[redacted] User:ann}`,
		`map[password:Zk3vQ9 user:ann]`:                               `map[password:[redacted] user:ann]`,
		`map[Authorization:[Bearer Zk3vQ9] Accept:[*/*]]`:             `map[Authorization:[[redacted]] Accept:[*/*]]`,
		`:password=>"Zk3v", :user=>"ann"`:                             `:password=>"[redacted]", :user=>"ann"`,
		`config['password'] = 'Zk3v'`:                                 `config['password'] = '[redacted]'`,
		`user[password]=Zk3v&user[name]=ann`:                          `user[password]=[redacted]&user[name]=ann`,
		`assert password == 'Zk3v'`:                                   `assert password == '[redacted]'`,
		`access_token=Zk3vQ9`:                                         `access_token=[redacted]`,
		`refresh_token: Zk3vQ9`:                                       `refresh_token: [redacted]`,
		`client_secret=Zk3vQ9&grant=x`:                                `client_secret=[redacted]&grant=x`,
		`client_secret=a,b;c`:                                         `client_secret=[redacted];c`,
		`PGPASSWORD=Zk3v psql -h db`:                                  `PGPASSWORD=[redacted] psql -h db`,
		`AWS_SECRET_ACCESS_KEY=wJalr/XUtn+FEMI`:                       `AWS_SECRET_ACCESS_KEY=[redacted]`,
		`SMTP_PASS=Zk3v`:                                              `SMTP_PASS=[redacted]`,
		`X-Api-Key: Zk3vQ9`:                                           `X-Api-Key: [redacted]`,
		`API key: Zk3vQ9 is disabled`:                                 `API key: [redacted] is disabled`,
		"Authorization: Basic YW5uOng=\r\nHost: a":                    "Authorization: [redacted]\r\nHost: a",
		`Authorization: Bearer abc.def-ghi=`:                          `Authorization: [redacted]`,
		`Authorization: Digest username="a", response="b"`:            `Authorization: [redacted]`,
		`Authorization: AWS4-HMAC-SHA256 Credential=A/b, Signature=c`: `Authorization: [redacted]`,
		`Proxy-Authorization: Negotiate abc`:                          `Proxy-Authorization: [redacted]`,
		`Authorization: Zk3vQ9`:                                       `Authorization: [redacted]`,
		`curl -H "Authorization: Bearer Zk3v" https://a`:              `curl -H "Authorization: [redacted]" https://a`,
		`GET / HTTP/1.1\r\nCookie: a=b; c=d\r\nHost: x`:               `GET / HTTP/1.1\r\nCookie: [redacted]\r\nHost: x`,
		`Set-Cookie: sid=Zk3v; Path=/`:                                `Set-Cookie: [redacted]`,
		`token: Bearer Zk3v next`:                                     `token: [redacted] next`,
		`<password>Zk3v</password>`:                                   `<password>[redacted]</password>`,
		`<add key="password" value="Zk3v"/>`:                          `<add key="password" value="[redacted]"/>`,
		`[{"name": "password", "value": "Zk3v"}]`:                     `[{"name": "password", "value": "[redacted]"}]`,
		`[('Authorization', 'Bearer Zk3v')]`:                          `[('Authorization', '[redacted]')]`,
		`exec: mysql --password Zk3v -h db`:                           `exec: mysql --password [redacted] -h db`,
		`['mysql', '--password', 'Zk3v', '-h']`:                       `['mysql', '--password', '[redacted]', '-h']`,
		`["mysql", \"--password\", \"Zk3v\"]`:                         `["mysql", \"--password\", \"[redacted]\"]`,
		`first\nbearer Zk3vQ9pL7w\nghp_Zk3vQ9pL7wZk3vQ9pL7w\nx`:       `first\nbearer [redacted]\n[redacted]\nx`,
		`curl -u ann:Zk3v https://a`:                                  `curl -u ann:[redacted] https://a`,
		`ALTER ROLE ann PASSWORD 'Zk3v'`:                              `ALTER ROLE ann PASSWORD '[redacted]'`,
		// URLs and other ways to name a server.
		`dial postgres://ann:Zk3v@db:5432/app: refused`:    `dial postgres://ann:[redacted]@db:5432/app: refused`,
		`redis://:Zk3v@cache:6379/0`:                       `redis://:[redacted]@cache:6379/0`,
		`amqp://ann:p%40ss%2Fw@mq/v`:                       `amqp://ann:[redacted]@mq/v`,
		`postgres://ann:p@ss@db/app`:                       `postgres://ann:[redacted]@db/app`,
		`parse "postgres://ann:p/w#x@db/app": bad port`:    `parse "postgres://ann:[redacted]@db/app": bad port`,
		`postgres://ann:Zk3vQ`:                             `postgres://ann:[redacted]`,
		`https://Zk3vQ9pL7w@github.com/a/b.git`:            `https://[redacted]@github.com/a/b.git`,
		`postgres://a:b@h1,h2:5433/x?password=c&d=e`:       `postgres://a:[redacted]@h1,h2:5433/x?password=[redacted]&d=e`,
		`GET /?token=abc&user=7`:                           `GET /?token=[redacted]&user=7`,
		`https://a/b?sig=x%2By&sv=2020#f`:                  `https://a/b?sig=[redacted]&sv=2020#f`,
		`https://a/?X-Amz-Credential=A%2F2&X-Amz-Date=d`:   `https://a/?X-Amz-Credential=[redacted]&X-Amz-Date=d`,
		`https://a/?a=b&X-Amz-Signature=0af&x=y`:           `https://a/?a=b&X-Amz-Signature=[redacted]&x=y`,
		`https://a/?key=abc&amp;code=def`:                  `https://a/?key=[redacted]&amp;code=[redacted]`,
		`/cb?next=https%3A%2F%2Fb%3Ftoken%3Dabc%26n%3D1`:   `/cb?next=https%3A%2F%2Fb%3Ftoken%3D[redacted]%26n%3D1`,
		`jdbc:postgresql://db/app?user=ann&password=Zk3v`:  `jdbc:postgresql://db/app?user=ann&password=[redacted]`,
		`jdbc:sqlserver://db;user=sa;password=Zk3v;x=y`:    `jdbc:sqlserver://db;user=sa;password=[redacted];x=y`,
		`jdbc:oracle:thin:ann/Zk3v@//db:1521/x`:            `jdbc:oracle:thin:ann/[redacted]@//db:1521/x`,
		`root:Zk3v@tcp(db:3306)/app`:                       `root:[redacted]@tcp(db:3306)/app`,
		`host=db user=ann password='a \'b' dbname=x`:       `host=db user=ann password='[redacted]' dbname=x`,
		`host=db password=a\ b dbname=x`:                   `host=db password=[redacted] dbname=x`,
		`Server=db;User Id=sa;Password=Zk3v;Encrypt=true`:  `Server=db;User Id=sa;Password=[redacted];Encrypt=true`,
		`Server=db;Uid=sa;Pwd=Zk3v`:                        `Server=db;Uid=sa;Pwd=[redacted]`,
		`AccountName=a;AccountKey=abc+/==;EndpointSuffix=`: `AccountName=a;AccountKey=[redacted];EndpointSuffix=`,
		`SharedAccessKeyName=Root;SharedAccessKey=abc=`:    `SharedAccessKeyName=Root;SharedAccessKey=[redacted]`,
		// Looks.
		`POST https://hooks.slack.com/services/T0/B0/x: 404`:                            `POST https://hooks.slack.com/[redacted]: 404`,
		`https://discord.com/api/webhooks/123/abc`:                                      `https://discord.com/api/webhooks/[redacted]`,
		`https://x.webhook.office.com/webhookb2/a@b/I/c/d`:                              `https://x.webhook.office.com/[redacted]`,
		`key AKIAABCDEFGHIJKLMNOP is disabled`:                                          `key [redacted] is disabled`,
		`bad ` + jwt + `.`:                                                              `bad [redacted].`,
		`Bearer abcdefgh.ijk`:                                                           `Bearer [redacted]`,
		`whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw`:                                        `[redacted]`,
		`4111 1111 1111 1111 was declined`:                                              `[redacted] was declined`,
		`card 4111-1111-1111-1111, amex 378282246310005`:                                `card [redacted], amex [redacted]`,
		`-----BEGIN RSA PRIVATE KEY-----` + "\nMIIB\n":                                  "[redacted]\n",
		`key: -----BEGIN PRIVATE KEY-----\nMIIB\nAA==\n-----END PRIVATE KEY-----\nnext`: `key: [redacted]\nnext`,
		"read: MIIBxyz\nAAAA/+==\n-----END EC PRIVATE KEY----- x":                       "read: [redacted] x",
		`"MIIBxyz\nAAAA/+==\n-----END EC PRIVATE KEY-----\n"`:                           `"[redacted]\n"`,
		"RSA PRIVATE KEY-----\nMIIB\nAAAA":                                              "[redacted]",
	} {
		if got := Text(text); got != want {
			t.Errorf("Text(%s)\n = %s\nnot %s", text, got, want)
		}
	}
}

func TestText_leavesAloneWhatIsNoSecret(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "a", ":", "=", "\x00\xff", "[redacted]",
		// Errors as programs write them.
		"get https://example.com:8080/x: connection refused",
		"basic idea: a bearer of news", "Basic authentication failed", "bearer token-based auth",
		`pq: password authentication failed for user "ann"`,
		`failed to connect to host=db user=ann database=app: dial tcp 10.0.0.1:5432: connect: connection refused`,
		`json: unknown field "password"`, `json: cannot unmarshal string into Go struct field Login.password of type int`,
		"invalid token: unexpected end of input", "password: must be at least 8 characters", "token: expired",
		"get token: dial tcp 10.0.0.1:443: connect: connection refused", "decode token: unexpected EOF", "read password: EOF",
		"refresh token: Post \"https://a/oauth/token\": context deadline exceeded",
		"POST https://a/oauth/token: 401 Unauthorized", "open /run/secrets/db_password: no such file or directory",
		"Unexpected token '<', \"<!DOCTYPE \"... is not valid JSON", "SyntaxError: Unexpected token } in JSON at position 4",
		"lookup secret-service:8080: no such host", "dial tcp token-service.prod:443: i/o timeout",
		"panic: runtime error: index out of range [5] with length 3",
		"main.(*Tokenizer).Next(0xc000012345, 0x1)\n\t/app/token.go:42 +0x1f",
		"goroutine 1 [running]:\nmain.main()\n\t/tmp/x.go:5 +0x1d",
		"ERROR: duplicate key value violates unique constraint \"users_pkey\" (SQLSTATE 23505)",
		"Key (id)=(42) already exists.", "exit status 1", "signal: killed", "Token::Error", "std::secret",
		"use --password to set one", `header "Authorization": the URL has a user name`, "flag --token is required", "--api-key must be set",
		`File "/app/token.py", line 12, in password`, "KeyError: 'user_id'", "secrets \"db\" not found",
		"PWD=/home/ann HOME=/home/ann", "STRIPE_KEY=env:STRIPE_KEY", "token=%s", "password=${DB_PASSWORD}",
		"has_token=true", `"password": null`, "password=", `password: ""`, "token_type=bearer", "password_changed_at=2024-01-02",
		"max_tokens=4096 is too many", "spinner=fast", "key=value", "primary_key: id", "cache key: user:42", "keys: [a b]",
		"code=404", "status code: 500", "author: ann", "monkey=see", "compass=north", "secretary: ann", "tokenizer: bpe",
		// Ids, times, numbers.
		"01890a5d-ac96-774b-bcce-b302099a8057", "4111111111111112", "1712345678901", "1712345678901234567",
		"12345678-1234-1234-1234-123456789012", "order-4111111111111111", "0.4111111111111111", "v4111111111111111",
		"2024-01-02T15:04:05.123456789Z", "+49 170 1234567", "4f2a9c0d1e3b5a77", "192.168.1.1:5432", "deadbeefdeadbeefdeadbeefdeadbeef",
		"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "1.2.3-rc.4",
		"ann@example.com", "git@github.com:a/b.git", "ssh://git@host/x", "https://example.com/@ann", "postgres://ann@db/app",
		"http://host:port/x", "http://[::1]:8080/x", "https://a/b?page=2&sort=name#top", "s3://bucket/key",
		"sk-learn", "npm_config_registry", "eyJhbGciOiJIUzI1NiJ9", "ghp_short", "AKIA", "SG.a", "key-1", "pypi-attestation-models",
		"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----", "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
		"----- Captured log -----",
	} {
		if got := Text(text); got != text {
			t.Errorf("Text(%q)\n = %q", text, got)
		}
	}
}

// A text of 256 KB takes some milliseconds. What took the square of its length
// would take many seconds.
func TestText_timeIsLinear(t *testing.T) {
	t.Parallel()
	for _, unit := range fragments {
		text := strings.Repeat(unit, 1<<18/len(unit))
		for _, text := range []string{text, text + "@"} {
			began := time.Now()
			_ = JSON([]byte(text))
			if d := time.Since(began); d > 5*time.Second {
				t.Errorf("%q, again and again: %s", unit, d)
			}
		}
	}
}

// fragments are what the scanner looks at, and what stands around it.
var fragments = []string{
	"a", "Z9", "0", ":", "=", " ", "\"", "'", "\\", "\n", "-", "@", ",", ";", "&", "?", "/", "%3D", "%26", "(", ")", "[", "]", "{", "}", "<", ">", "|", "#", "!=", "=>", "$A",
	"eyJ", "eyJ-", "eyJ.", "eyJhbGciOiJI.abcdefghij.k", "://", "a://b:x/", "a://b:x ", "https://x@", "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "PRIVATE KEY-----",
	"-----BEGIN ", "MIIBabcdefghijklmnopqrstuvw\n", "password", "password=", "password: ", "password=[", "token: ", "/token:", "token:/", "token:a)", "pwd=/", "a=b,", "name=\"",
	`"name":"token",`, `"value":"x"`, "4111 ", "4111111111111111", "1-", "<password>", "(\"password\",\"", "--token -", "--token ", "-u a:b ", "\\\"password\\\":", "bearer ", "Basic YWJjOmRlZg==",
	"@tcp(", "&amp;", "a@//", "\\n", "hooks.slack.com/", "Cookie: ", "Authorization: ", "PASSWORD '", "[redacted]", "[redacted", "redacted]", "ghp_abcdefghijklmnopqrstuvwxyz", "expired", "true", "AKIAABCDEFGHIJKLMNOP", "é",
	"%22", "%3A", "%2522", "&quot;", "&#61;", "%", "]=", "[]=", "; name=\"password\"", "\n\n", "password: |\n", "\n  ", "<a key=\"password\">", "<password a=\"b\">", "<![CDATA[", "PASSWORD('", "--user=a:b",
}

// Whatever stands beside whatever: redacting again changes nothing, and no text
// is hidden as a whole because it does not come to rest.
func TestText_settles(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	most := 0
	for range 50_000 {
		var b strings.Builder
		for range 2 + r.IntN(10) {
			b.WriteString(fragments[r.IntN(len(fragments))])
		}
		text := b.String()
		rounds := scansTo(text)
		if most = max(most, rounds); rounds >= maxRounds {
			t.Fatalf("%q does not come to rest", text)
		}
		once := Text(text)
		if twice := Text(once); twice != once {
			t.Fatalf("%q became %q, then %q", text, once, twice)
		}
	}
	t.Logf("at most %d rounds", most)
}

func BenchmarkText_ofALog(b *testing.B) {
	s := strings.Repeat("get https://example.com:8080/x: connection refused, id 01890a5d-ac96-774b-bcce-b302099a8057 at 12:00\n", 10_000)
	b.SetBytes(int64(len(s)))
	for b.Loop() {
		Text(s)
	}
}

func BenchmarkText_ofAnError(b *testing.B) {
	for b.Loop() {
		Text("dial tcp 10.0.0.1:5432: connect: connection refused")
	}
}
