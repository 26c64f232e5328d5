package webhook

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// SecretPrefix begins the text form of a secret.
const SecretPrefix = "whsec_"

// The bounds of a secret, in bytes, are Standard Webhooks': a shorter one can be
// guessed, and a longer one is probably something else.
const minSecret, maxSecret = 24, 64

// NewSecret returns a fresh secret of 32 random bytes in its text form: 'whsec_'
// and base64.
func NewSecret() string {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	return SecretPrefix + base64.StdEncoding.EncodeToString(raw)
}

// ParseSecrets decodes the secrets in text, which spaces separate. The empty text
// has none.
//
// Errors: what is wrong with the first invalid secret. They show nothing of it.
func ParseSecrets(text string) (secrets [][]byte, err error) {
	for _, secret := range strings.Fields(text) {
		encoded, ok := strings.CutPrefix(secret, SecretPrefix)
		if !ok {
			return nil, errors.New("the secret must begin with " + SecretPrefix)
		}
		raw, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if err != nil {
			return nil, errors.New("the secret must be base64 after " + SecretPrefix + ", with the standard alphabet and padding")
		}
		if len(raw) < minSecret || len(raw) > maxSecret {
			return nil, fmt.Errorf("the secret must be %d to %d bytes, not %d; make one with: echo %s$(openssl rand -base64 32)",
				minSecret, maxSecret, len(raw), SecretPrefix)
		}
		secrets = append(secrets, raw)
	}
	if text != "" && secrets == nil {
		return nil, errors.New("the secret is blank")
	}
	return secrets, nil
}

// Sign returns the value of the header webhook-signature: one signature for each
// secret, so that a receiver accepts the request while secrets are rotated. id
// must not contain a dot: a dot separates it from the rest of what is signed.
// timestamp is in seconds since 1970.
func Sign(secrets [][]byte, id string, timestamp int64, body []byte) string {
	signed := make([]string, len(secrets))
	for i, secret := range secrets {
		mac := hmac.New(sha256.New, secret)
		_, _ = fmt.Fprintf(mac, "%s.%d.", id, timestamp)
		_, _ = mac.Write(body)
		signed[i] = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	return strings.Join(signed, " ")
}
