package webhook

import (
	"net/http"
	"testing"
	"time"
)

// The example that Standard Webhooks publishes.
func TestSign_publishedVector(t *testing.T) {
	t.Parallel()
	secrets, err := ParseSecrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	got := Sign(secrets, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		text, date string
		want       time.Duration
		ok         bool
	}{
		{text: ""},
		{text: "soon"},
		{text: "1.5"},
		{text: "-1"},
		{text: "0", ok: true},
		{text: " 120 ", want: 2 * time.Minute, ok: true},
		{text: "86401", want: MaxRetryAfter, ok: true},
		{text: "99999999999999999999", want: MaxRetryAfter, ok: true},
		{text: "Mon, 30 Nov 2026 12:05:00 GMT", want: 5 * time.Minute, ok: true},
		{text: "Mon, 30 Nov 2026 11:00:00 GMT", ok: true},
		{text: "Mon, 30 Nov 2037 11:00:00 GMT", want: MaxRetryAfter, ok: true},
		// The endpoint's clock is three hours behind.
		{text: "Mon, 30 Nov 2026 09:01:00 GMT", date: "Mon, 30 Nov 2026 09:00:00 GMT", want: time.Minute, ok: true},
		{text: "Mon, 30 Nov 2026 12:05:00 GMT", date: "no date", want: 5 * time.Minute, ok: true},
	} {
		header := http.Header{}
		if c.text != "" {
			header.Set("Retry-After", c.text)
		}
		if c.date != "" {
			header.Set("Date", c.date)
		}
		if got, ok := RetryAfter(header, now); got != c.want || ok != c.ok {
			t.Errorf("Retry-After %q, Date %q: %s, %t, want %s, %t", c.text, c.date, got, ok, c.want, c.ok)
		}
	}
}

func TestIsHeaderName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{"X-Token": true, "a.b~1": true, "": false, "X Token": false, "X:": false, "é": false, "X\r": false} {
		if got := IsHeaderName(name); got != want {
			t.Errorf("%q: %t", name, got)
		}
	}
}
