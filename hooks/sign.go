package hooks

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

const (
	secretPrefix = "whsec_"
	// The bounds are Standard Webhooks': below, a secret can be guessed; above,
	// it is probably something else.
	minSecret, maxSecret = 24, 64
)

// NewSecret returns a fresh secret in its text form, 'whsec_' and base64.
func NewSecret() string {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	return secretPrefix + base64.StdEncoding.EncodeToString(raw)
}

// ParseSecrets decodes the Standard Webhooks secrets in text, which spaces
// separate; without any it returns none. Its errors show nothing of them.
func ParseSecrets(text string) (secrets [][]byte, err error) {
	for _, secret := range strings.Fields(text) {
		encoded, ok := strings.CutPrefix(secret, secretPrefix)
		if !ok {
			return nil, errors.New("the secret must begin with " + secretPrefix)
		}
		raw, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if err != nil {
			return nil, errors.New("the secret must be base64 after " + secretPrefix + ", with the standard alphabet and padding")
		}
		if len(raw) < minSecret || len(raw) > maxSecret {
			return nil, fmt.Errorf("the secret must be %d to %d bytes, not %d; make one with: echo %s$(openssl rand -base64 32)",
				minSecret, maxSecret, len(raw), secretPrefix)
		}
		secrets = append(secrets, raw)
	}
	if text != "" && secrets == nil {
		return nil, errors.New("the secret is blank")
	}
	return secrets, nil
}

// Sign returns the value of the header webhook-signature after Standard
// Webhooks: a signature for each secret, so that they can be rotated. id must
// have no dot, which parts it from the rest; timestamp is in seconds.
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
