package webhook

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// MaxRetryAfter bounds what Retry-After can ask for. An endpoint that asks for
// more has made a mistake, and a day is soon enough to notice it.
const MaxRetryAfter = 24 * time.Hour

// RetryAfter reads the header Retry-After: a number of seconds, or a date. A date
// is compared with the header Date, the endpoint's own clock, and without that
// with now. The delay is from 0 to [MaxRetryAfter]. ok is false where the header
// is missing or is neither of the two.
func RetryAfter(header http.Header, now time.Time) (delay time.Duration, ok bool) {
	text := strings.TrimSpace(header.Get("Retry-After"))
	if text != "" && strings.Trim(text, "0123456789") == "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil || seconds > int64(MaxRetryAfter/time.Second) {
			return MaxRetryAfter, true
		}
		return time.Duration(seconds) * time.Second, true
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0, false
	}
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		now = date
	}
	return min(max(at.Sub(now), 0), MaxRetryAfter), true
}
