package hooks

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// A sealed value is text in its column:
//
//	env:sealed:v1:KEY:BASE64:SHOWN
//
// KEY names the key. BASE64 is the nonce and the ciphertext of AES-256-GCM. SHOWN is
// what may be shown of the value: the host of a URL, the number of secrets. A sealed
// value begins like a reference to a variable that no environment has: so a dispatcher
// of release 0.1.0, which knows no sealed values, lets the hook's deliveries wait
// instead of failing them.
const sealedPrefix = "env:sealed:"

const sealedV1 = sealedPrefix + "v1:"

// isSealed reports whether a column's text is sealed.
func isSealed(text string) bool { return strings.HasPrefix(text, sealedPrefix) }

// ErrSealed is the error of a sealed value that can't be opened: this program lacks the
// key, or the value was changed since it was sealed.
var ErrSealed = errors.New("it is sealed by a key that this program does not have, or was changed since (SONIQ_HOOK_KEY)")

// A Keyring seals and opens the secrets in the table of hooks. Its first key seals,
// and every key opens. A nil Keyring has no keys.
type Keyring struct{ keys []sealKey }

type sealKey struct {
	id   string
	aead cipher.AEAD
}

// NewKey returns a fresh key: 32 random bytes as base64.
func NewKey() string {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	return base64.StdEncoding.EncodeToString(raw)
}

// ParseKeys reads keys that commas or white space separate: 32 bytes each, as base64
// or hexadecimal. Without keys it returns nil.
//
// Errors: for a person to read. They show nothing of the keys.
func ParseKeys(text string) (*Keyring, error) {
	ring := &Keyring{}
	for i, field := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' || r == '\r' }) {
		raw, err := hex.DecodeString(field)
		if err != nil {
			raw, err = base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(field), "="))
		}
		if err != nil || len(raw) != 32 {
			return nil, fmt.Errorf("key %d must be 32 bytes as base64 or hexadecimal; make one with 'soniq hooks keygen'", i+1)
		}
		block, err := aes.NewCipher(raw)
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(append([]byte("soniq hook key\x00"), raw...))
		ring.keys = append(ring.keys, sealKey{hex.EncodeToString(sum[:4]), aead})
	}
	if len(ring.keys) == 0 {
		return nil, nil
	}
	return ring, nil
}

// boundTo is the additional data that a value is sealed with. The value opens only in
// the same hook and column, and a header only for the same host: otherwise whoever may
// change the URL could have the header sent anywhere.
func boundTo(hook, column, shown, to string) []byte {
	var b []byte
	for _, part := range []string{"soniq.hook.v1", hook, column, shown, to} {
		b = fmt.Appendf(b, "%d:%s,", len(part), part)
	}
	return b
}

// seal returns value as the column of hook holds it. shown and to are not secret; see
// boundTo. Without keys it returns the value itself, and so it does for a reference.
func (k *Keyring) seal(value, hook, column, shown, to string) string {
	if k == nil || value == "" || strings.HasPrefix(value, referencePrefix) {
		return value
	}
	key := k.keys[0]
	nonce := make([]byte, key.aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	text := key.aead.Seal(nonce, nonce, []byte(value), boundTo(hook, column, shown, to))
	return sealedV1 + key.id + ":" + base64.RawStdEncoding.EncodeToString(text) + ":" + shown
}

// open returns the value of a column's text, which may be in the clear. current: the
// first key has sealed it.
//
// Errors: [ErrSealed].
func (k *Keyring) open(text, hook, column, to string) (value string, current bool, err error) {
	if !isSealed(text) {
		return text, false, nil
	}
	rest, ok := strings.CutPrefix(text, sealedV1)
	id, rest, ok2 := strings.Cut(rest, ":")
	encoded, shown, ok3 := strings.Cut(rest, ":")
	raw, err := base64.RawStdEncoding.DecodeString(encoded)
	if !ok || !ok2 || !ok3 || err != nil || k == nil {
		return "", false, ErrSealed
	}
	for i, key := range k.keys {
		if key.id != id || len(raw) < key.aead.NonceSize() {
			continue
		}
		n := key.aead.NonceSize()
		plain, err := key.aead.Open(nil, raw[:n], raw[n:], boundTo(hook, column, shown, to))
		if err == nil {
			return string(plain), i == 0, nil
		}
	}
	return "", false, ErrSealed
}
