package handler

import (
	"encoding/base64"
	"log/slog"
	"strings"
	"testing"

	"soniq/internal/webhook"
)

func TestHTTP_signature_isTheStandardsOwn(t *testing.T) {
	t.Parallel()
	sign := func(secret string) string {
		secrets, err := webhook.ParseSecrets(secret)
		if err != nil {
			t.Fatal(err)
		}
		return webhook.Sign(secrets, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, []byte(`{"test": 2432232314}`))
	}
	const want = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	if got := sign(vectorSecret); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	// While the secret is being replaced, either is good.
	other := "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("o", 64)))
	if got := sign(other + " " + vectorSecret); got != sign(other)+" "+want {
		t.Errorf("both: %s", got)
	}
	if unsigned := sign(""); unsigned != "" {
		t.Errorf("none: %s", unsigned)
	}
}

func TestHTTP_spec_mistakesAreNamed(t *testing.T) {
	t.Parallel()
	const good = "https://example.com/hook"
	header := func(name, value string) HTTP {
		return HTTP{URL: good, Headers: map[string]string{name: value}}
	}
	secret := func(n int) string {
		return "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("hunter2 ", 20)[:n]))
	}
	for _, test := range []struct {
		spec HTTP
		want string // empty: good
	}{
		{HTTP{URL: good}, ""},
		{HTTP{URL: "http://user:word@[::1]:8080?a=b"}, ""},
		{HTTP{URL: "HTTP://example.com"}, ""},
		{HTTP{}, "the URL is missing"},
		{HTTP{URL: "example.com/hook"}, "the URL must begin with http:// or https://"},
		{HTTP{URL: "localhost:8080/hook"}, "the URL must begin with http:// or https://, not localhost://"},
		{HTTP{URL: "ftp://example.com"}, "the URL must begin with http:// or https://, not ftp://"},
		{HTTP{URL: "file:///etc/passwd"}, "not file://"},
		{HTTP{URL: "http://"}, "the URL has no host"},
		{HTTP{URL: "http:example.com"}, "the URL has no host"},
		{HTTP{URL: "http://:80/"}, "the URL has no host"},
		{HTTP{URL: "http://example.com:0/"}, "the URL's port must be from 1 to 65535"},
		{HTTP{URL: "http://example.com:65536/"}, "the URL's port must be from 1 to 65535"},
		{HTTP{URL: "http://example.com/a#b"}, "the URL has a '#'"},
		{HTTP{URL: "http://example.com/#"}, "the URL has a '#'"},
		{HTTP{URL: "http://user:hunter2/@example.com"}, "the URL is not valid"},
		{HTTP{URL: "http://user:hunter2%zz@example.com"}, "the URL is not valid"},
		{HTTP{URL: good + "\nhunter2"}, "the URL is not valid"},
		{HTTP{URL: good, MaxResponseBytes: -1}, "max response bytes must not be negative: -1"},

		{header("Authorization", "Bearer hunter2"), ""},
		{header("x-ünicode", "hunter2"), `header "x-ünicode": not a header name`},
		{header("", "hunter2"), `header "": not a header name`},
		{header("X A", "hunter2"), `header "X A": not a header name`},
		{header("X-A", "hunter2\r\nX-B: 1"), `header "X-A": the value has a line break`},
		{header("X-A", "hunter2\x00"), `header "X-A": the value has a line break or another control character`},
		{header("X-A", "tab\tand é"), ""},
		{header("host", "hunter2"), `header "host": set by soniq`},
		{header("Content-Length", "1"), "set by soniq"},
		{header("content-type", "text/plain"), "set by soniq"},
		{header("Transfer-Encoding", "chunked"), "set by soniq"},
		{header("Connection", "close"), "set by soniq"},
		{header("user-agent", "me"), "set by soniq"},
		{header("Idempotency-Key", "1"), "set by soniq"},
		{header("soniq-anything", "1"), "set by soniq"},
		{header("webhook-signature", "v1,hunter2"), "set by soniq"},
		{header("Accept-Encoding", "br"), "set by soniq"},
		{HTTP{URL: good, Headers: map[string]string{"X-A": "1", "x-a": "2"}}, `header "x-a": given twice`},
		{HTTP{URL: "http://user:hunter2@example.com", Headers: map[string]string{"authorization": "1"}}, "the URL has a user name"},

		{HTTP{URL: good, Secret: secret(24)}, ""},
		{HTTP{URL: good, Secret: secret(64)}, ""},
		{HTTP{URL: good, Secret: secret(24) + " " + secret(32)}, ""},
		{HTTP{URL: good, Secret: secret(23)}, "the secret must be 24 to 64 bytes, not 23"},
		{HTTP{URL: good, Secret: secret(65)}, "the secret must be 24 to 64 bytes, not 65"},
		{HTTP{URL: good, Secret: "whsec_"}, "the secret must be 24 to 64 bytes, not 0"},
		{HTTP{URL: good, Secret: "hunter2"}, "the secret must begin with whsec_"},
		{HTTP{URL: good, Secret: "whsk_hunter2"}, "the secret must begin with whsec_"},
		{HTTP{URL: good, Secret: "whsec_hunter2!"}, "the secret must be base64 after whsec_"},
		{HTTP{URL: good, Secret: secret(24) + " hunter2"}, "the secret must begin with whsec_"},
		{HTTP{URL: good, Secret: " "}, "the secret is blank"},

		{
			HTTP{URL: "ftp://x", Secret: "hunter2", Headers: map[string]string{"Host": "h", "A B": "hunter2"}, MaxResponseBytes: -1},
			"the URL must begin with http:// or https://, not ftp://\n" +
				"header \"A B\": not a header name; use letters, digits and '-'\n" +
				"header \"Host\": set by soniq, and can't be changed\n" +
				"the secret must begin with whsec_\nmax response bytes must not be negative: -1",
		},
	} {
		_, err := newHTTPHandler(test.spec, slog.New(slog.DiscardHandler))
		switch {
		case test.want == "" && err != nil, test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%+v: %v, want %q", test.spec, err, test.want)
		case err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "aHVudGVy")):
			t.Errorf("%v shows a secret", err)
		}
	}
}
