package hooks

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"soniq/internal/redact"
	"soniq/internal/webhook"
)

// maxErrorText is how much of the error a webhook has: the whole should stay
// below Standard Webhooks' 20 KB.
const maxErrorText = 4 << 10

// webhookHook posts events after Standard Webhooks.
type webhookHook struct {
	*endpoint
	secrets [][]byte
	header  http.Header
	args    bool
}

// newWebhook takes what references stand for.
func newWebhook(of secretsOf, s settings, known *redact.Set) (*webhookHook, error) {
	e, err := newEndpoint(of.url, s.Allow, known)
	if err != nil {
		return nil, err
	}
	w := &webhookHook{endpoint: e, header: http.Header{}, args: s.Args}
	if w.secrets, err = webhook.ParseSecrets(of.secrets); err != nil {
		return nil, err
	}
	for name, value := range of.headers {
		// A row that was written by SQL may have what Add refuses.
		if name = http.CanonicalHeaderKey(name); !ownHeader(name) {
			w.header.Set(name, value)
		}
	}
	return w, nil
}

// NewSecret returns a fresh secret for [Spec].Secrets: 'whsec_' and 32 random
// bytes as base64.
func NewSecret() string { return webhook.NewSecret() }

// ownHeader reports whether a header, by its canonical name, is Soniq's to set,
// or speaks of the connection and not of the request.
func ownHeader(name string) bool {
	return strings.HasPrefix(name, "Webhook-") || slices.Contains([]string{
		"Content-Type", "Content-Encoding", "Content-Length", "User-Agent", "Host", "Transfer-Encoding", "Trailer", "Connection", "Keep-Alive",
		"Proxy-Connection", "Te", "Upgrade", "Expect", "Accept-Encoding",
	}, name)
}

// CheckHeader returns what is wrong with a header of a hook, whose name is in
// its canonical form. Its errors show nothing of the value.
func CheckHeader(name, value string) error {
	switch {
	case !webhook.IsHeaderName(name) || len(name) > maxName:
		return fmt.Errorf("%q can't be the name of a header", name)
	case strings.ContainsAny(value, "\r\n\x00"):
		return fmt.Errorf("the value of %s has a line break or NUL", name)
	case len(value) > maxHeader:
		return fmt.Errorf("the value of %s is longer than %d bytes", name, maxHeader)
	case ownHeader(name):
		return fmt.Errorf("%s is set by Soniq itself", name)
	}
	return nil
}

// webhookBody is the body of a webhook; docs/hooks.md describes it.
type webhookBody struct {
	Type      string      `json:"type"`
	Timestamp time.Time   `json:"timestamp"`
	Data      webhookData `json:"data"`
}

type webhookData struct {
	ID                string          `json:"id"`
	JobName           string          `json:"job_name"`
	Queue             string          `json:"queue"`
	Reason            string          `json:"reason"`
	Error             string          `json:"error,omitempty"`
	ErrorKind         string          `json:"error_kind,omitempty"`
	ErrorType         string          `json:"error_type,omitempty"`
	Fingerprint       string          `json:"fingerprint,omitempty"`
	Attempts          int             `json:"attempts"`
	MaxAttempts       int             `json:"max_attempts,omitempty"`
	MovedAt           time.Time       `json:"moved_at"`
	OriginalCreatedAt *time.Time      `json:"original_created_at,omitempty"`
	ResurrectionCount int             `json:"resurrection_count"`
	Tags              json.RawMessage `json:"tags,omitempty"`
	Args              json.RawMessage `json:"args,omitempty"`
	Gone              bool            `json:"gone,omitempty"`
	Sample            bool            `json:"sample,omitempty"`
}

// body is the event as JSON, without what looks like a secret: it leaves the
// house.
func body(e Event, args bool) ([]byte, error) {
	l := e.Letter.Redacted()
	data := webhookData{
		ID: l.ID.String(), JobName: l.JobName, Queue: l.Queue, Reason: string(l.Reason),
		Error: cut(l.LastError, maxErrorText), ErrorKind: string(l.ErrorKind), ErrorType: l.ErrorType,
		Fingerprint: l.Fingerprint, Attempts: l.Attempts, MaxAttempts: l.MaxAttempts, MovedAt: l.MovedAt,
		ResurrectionCount: l.ResurrectionCount, Tags: l.Tags, Gone: e.Gone, Sample: e.Sample,
	}
	if !l.OriginalCreatedAt.IsZero() {
		data.OriginalCreatedAt = &l.OriginalCreatedAt
	}
	if args {
		data.Args = l.Args
	}
	return json.Marshal(webhookBody{Type: e.Type, Timestamp: e.At, Data: data})
}

// Deliver implements Hook.
func (w *webhookHook) Deliver(ctx context.Context, d *Delivery) error {
	b, err := body(d.Event, w.args)
	if err != nil {
		return fmt.Errorf("write the webhook's body: %w", err)
	}
	header := w.header.Clone()
	id, timestamp := d.ID.String(), time.Now().Unix()
	header.Set("Webhook-Id", id)
	header.Set("Webhook-Timestamp", strconv.FormatInt(timestamp, 10))
	if len(w.secrets) > 0 {
		header.Set("Webhook-Signature", webhook.Sign(w.secrets, id, timestamp, b))
	}
	return w.post(ctx, d, header, b)
}

// cut is at most limit bytes of s, with an ellipsis where something is missing.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return redact.Head(s, limit-len("…")) + "…"
}
