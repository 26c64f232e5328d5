package hooks

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"soniq/internal/redact"
	"soniq/internal/webhook"
)

var webhookKind = kind{
	fields:      []Field{FieldURL, FieldSecret, FieldHeaders, FieldArgs, FieldAllow},
	check:       checkEndpoint,
	target:      urlTarget,
	preemptible: true,
	open: func(_ *Dispatcher, p prepared) (Hook, *redact.Set, error) {
		known := secretsIn(p.secrets)
		hook, err := newWebhook(p.secrets, p.settings, known)
		return hook, known, err
	},
}

// webhookHook posts events after Standard Webhooks.
type webhookHook struct {
	*endpoint
	secrets [][]byte
	header  http.Header
	args    bool
}

// newWebhook takes secrets whose references are resolved.
func newWebhook(of secrets, s settings, known *redact.Set) (*webhookHook, error) {
	e, err := newEndpoint(of.url, s.Allow, known)
	if err != nil {
		return nil, err
	}
	w := &webhookHook{endpoint: e, header: http.Header{}, args: s.Args}
	if w.secrets, err = webhook.ParseSecrets(of.signing); err != nil {
		return nil, err
	}
	for name, value := range of.headers {
		// SQL can write what Add refuses.
		if name = http.CanonicalHeaderKey(name); !ownHeader(name) {
			w.header.Set(name, value)
		}
	}
	return w, nil
}

// Deliver implements Hook.
func (w *webhookHook) Deliver(ctx context.Context, d *Delivery) error {
	b, err := marshalEvent(d.Event, w.args)
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
	d.TraceContext.Into(header)
	return w.post(ctx, d, header, b)
}

// NewSecret returns a fresh secret for [Spec].Secrets: 'whsec_' and 32 random
// bytes as base64.
func NewSecret() string { return webhook.NewSecret() }

// ownHeader reports whether Soniq sets the header itself, or the header is about the
// connection rather than the request. name is canonical.
func ownHeader(name string) bool {
	return strings.HasPrefix(name, "Webhook-") || slices.Contains([]string{
		"Content-Type", "Content-Encoding", "Content-Length", "User-Agent", "Host", "Transfer-Encoding", "Trailer", "Connection", "Keep-Alive",
		"Proxy-Connection", "Te", "Upgrade", "Expect", "Accept-Encoding",
	}, name)
}

// CheckHeader returns what is wrong with a header of a hook. name is in its
// canonical form.
//
// Errors: for a person to read. They show nothing of the value.
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
