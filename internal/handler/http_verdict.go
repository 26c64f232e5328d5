package handler

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"soniq/engine"
	"soniq/internal/httpverdict"
	"soniq/internal/pg"
	"soniq/internal/redact"
	"soniq/internal/webhook"
)

const (
	// httpMaxError is how much of a failure's body becomes the error.
	httpMaxError = 2 << 10
	// minPause is the shortest pause of a job. Attempts before a pause are not
	// counted, so without it an endpoint that answers 'Retry-After: 0' would be called
	// in a busy loop.
	minPause = time.Second
)

// httpError is a response that is no success.
type httpError struct {
	status int
	text   string
}

func (e *httpError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("HTTP %d", e.status)
	}
	return fmt.Sprintf("HTTP %d: %s", e.status, e.text)
}

// ErrorCode is recorded with a dead letter.
func (e *httpError) ErrorCode() string { return strconv.Itoa(e.status) }

// ErrorType is the name of this type in 0.1.0; see commandError.
func (e *httpError) ErrorType() string { return "*main.httpError" }

// verdict is the error of a response whose status is not 2xx. What each status
// means stands in package httpverdict. stop aborts the request.
func (h *httpHandler) verdict(ctx context.Context, job *engine.Job, req *http.Request, resp *http.Response, stop context.CancelFunc) error {
	failed := &httpError{status: resp.StatusCode, text: h.errorText(resp, h.secretsOf(req), stop)}
	row := httpverdict.Of(failed.status)
	if row.Paused {
		if pause, ok := retryAfter(resp.Header, h.now()); ok {
			traced(ctx, h.log).Info("an endpoint asks for a pause", "job", job.ID, "job_name", job.Name, "status", failed.status, "pause", pause.String())
			return engine.Snooze(pause)
		}
	}
	if row.Misconfigured {
		traced(ctx, h.log).Warn("an endpoint is missing or refuses the worker: its jobs fail until that is mended",
			"job_name", job.Name, "endpoint", h.endpoint, "status", failed.status)
	}
	switch row.Endpoint {
	case httpverdict.InvalidArguments:
		return engine.InvalidArguments(failed)
	case httpverdict.Permanent:
		return engine.Permanent(failed)
	default:
		return failed
	}
}

// errorText is the beginning of the body, or the name of the status. A body that is
// missing or cut is no failure of its own. Secrets of the request that the body
// repeats are hidden.
func (h *httpHandler) errorText(resp *http.Response, secrets *redact.Set, stop context.CancelFunc) string {
	meaning := http.StatusText(resp.StatusCode)
	switch {
	case resp.StatusCode < 200:
		// After 101 the body is the connection itself, which no context ends.
		return meaning
	case resp.StatusCode < 400:
		return strings.TrimSpace(meaning + secrets.Text(redirection(resp.Header)))
	}
	late := time.AfterFunc(h.bodyGrace, stop)
	defer late.Stop()
	// So that a secret which begins within the limit is read to its end.
	limit := httpMaxError + secrets.Longest()
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	text := []byte(secrets.Cut(string(body), false, err != nil || len(body) > limit))
	if len(text) <= httpMaxError && len(body) <= httpMaxError {
		return cmp.Or(validText(text), meaning)
	}
	_, _ = io.CopyN(io.Discard, resp.Body, httpDrain)
	// Half a token has not the look of one.
	return validText([]byte(redact.Head(string(text), httpMaxError))) + "..."
}

// redirection says to which host a redirect leads. The rest of its URL may be secret.
func redirection(header http.Header) string {
	const refused = "; redirects are not followed"
	const longestHost = 255 // of DNS, and a port
	to, err := url.Parse(header.Get("Location"))
	if err != nil || to.Host == "" || len(to.Host) > longestHost {
		return refused
	}
	return refused + ", this one leads to " + validText([]byte((&url.URL{Scheme: to.Scheme, Host: to.Host}).String()))
}

// validText is text with valid UTF-8, and without space around it.
func validText(text []byte) string {
	return strings.TrimSpace(strings.ToValidUTF8(string(text), "\ufffd"))
}

// retryAfter is [webhook.RetryAfter] with minPause as its least.
func retryAfter(header http.Header, now time.Time) (pause time.Duration, ok bool) {
	if pause, ok = webhook.RetryAfter(header, now); ok {
		pause = max(pause, minPause)
	}
	return pause, ok
}

// readAtMost reads one byte more than the limit, so that the caller sees that a body
// is longer.
func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	var body bytes.Buffer
	_, err := io.Copy(&body, io.LimitReader(r, limit+1))
	return body.Bytes(), err
}

// result is the body of a success if that is JSON which can be stored, else nil. The
// work is done: its output must not make it fail. But a body that is too long does,
// since nobody could tell what was lost; and for good, since it would be as long the
// next time.
func (h *httpHandler) result(ctx context.Context, job *engine.Job, resp *http.Response, body []byte) (any, error) {
	if int64(len(body)) > h.maxResult {
		return nil, engine.Permanent(&httpError{
			status: resp.StatusCode,
			text:   fmt.Sprintf("the work was done, but the response is longer than %d bytes, the most that is kept as a result", h.maxResult),
		})
	}
	result, refused := storableJSON(body)
	if refused != "" {
		traced(ctx, h.log).Warn("the response of an endpoint can't be stored as the job's result: it holds "+refused, "job", job.ID, "job_name", job.Name)
	}
	if result == nil {
		return nil, nil
	}
	return result, nil
}

// storableJSON returns raw as PostgreSQL takes it, or nil if it is not JSON. Half of
// a surrogate pair is replaced. refused says what it holds that can't be stored.
func storableJSON(raw []byte) (clean json.RawMessage, refused string) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || !utf8.Valid(raw) || !json.Valid(raw) {
		return nil, ""
	}
	clean, err := pg.RepairJSON(raw)
	if unstorable := (*pg.UnstorableError)(nil); errors.As(err, &unstorable) {
		return nil, unstorable.What
	}
	return clean, ""
}
