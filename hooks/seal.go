package hooks

import (
	"cmp"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A sealed value is text in its column:
//
//	env:sealed:v1:KEY:BASE64:SHOWN
//
// KEY names the key, BASE64 is nonce and ciphertext of AES-256-GCM, SHOWN is
// what may be shown of the value: the host of a URL, the number of secrets. The
// beginning is that of a reference to a variable whose name no environment has:
// a dispatcher of release 0.1.0, which knows no seals, then leaves the hook's
// deliveries to others instead of failing them.
const sealedPrefix = "env:sealed:"

const sealedV1 = sealedPrefix + "v1:"

func isSealed(text string) bool { return strings.HasPrefix(text, sealedPrefix) }

// ErrSealed is wrapped where a value is sealed by a key that isn't here, or was
// changed since it was sealed.
var ErrSealed = errors.New("it is sealed by a key that this program does not have, or was changed since (SONIQ_HOOK_KEY)")

// A Keyring seals what the table of hooks holds of secrets, and opens it. The
// first key seals, every one opens. Nil has no keys.
type Keyring struct{ keys []sealKey }

type sealKey struct {
	id   string
	aead cipher.AEAD
}

// NewKey returns a fresh key in its text form, 32 random bytes as base64.
func NewKey() string {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	return base64.StdEncoding.EncodeToString(raw)
}

// ParseKeys reads keys, which commas or white space separate: 32 bytes each, as
// base64 or hexadecimal. Without any it returns nil. Its errors show nothing of
// them.
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

// bound is what a value is sealed with, so that it opens there alone: the hook,
// the column, and of a header where it is sent to, so that whoever may change
// the URL can't have the header sent to himself.
func bound(hook, column, shown, to string) []byte {
	var b []byte
	for _, part := range []string{"soniq.hook.v1", hook, column, shown, to} {
		b = fmt.Appendf(b, "%d:%s,", len(part), part)
	}
	return b
}

// seal returns value as the column of hook holds it. shown and to are not
// secret; see bound. Without keys, and of a reference, it is the value.
func (k *Keyring) seal(value, hook, column, shown, to string) string {
	if k == nil || value == "" || strings.HasPrefix(value, "env:") {
		return value
	}
	key := k.keys[0]
	nonce := make([]byte, key.aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	text := key.aead.Seal(nonce, nonce, []byte(value), bound(hook, column, shown, to))
	return sealedV1 + key.id + ":" + base64.RawStdEncoding.EncodeToString(text) + ":" + shown
}

// open is the value that stands in a column. What isn't sealed is returned as
// it is; current says that the first key has sealed it.
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
		plain, err := key.aead.Open(nil, raw[:n], raw[n:], bound(hook, column, shown, to))
		if err == nil {
			return string(plain), i == 0, nil
		}
	}
	return "", false, ErrSealed
}

// Columns of a hook that can be sealed; a header is headersColumn and its name.
const (
	urlColumn     = "url"
	secretsColumn = "secrets"
	headersColumn = "headers."
)

// secretsOf is what the table holds of a hook that may be secret.
type secretsOf struct {
	url, secrets string
	headers      map[string]string
}

// sealAll seals all that is in the clear or under another key than the first.
// changed says whether anything was.
func (k *Keyring) sealAll(s secretsOf, hook string) (sealed secretsOf, changed bool, err error) {
	one := func(text, column, to string, shown func(string) string) string {
		value, current, openErr := k.open(text, hook, column, to)
		if openErr != nil {
			err = cmp.Or(err, openErr)
			return text
		}
		if current || value == "" || text == value && strings.HasPrefix(text, "env:") {
			return text
		}
		changed = true
		return k.seal(value, hook, column, shown(value), to)
	}
	address, _, openErr := k.open(s.url, hook, urlColumn, "")
	if openErr != nil {
		return s, false, openErr
	}
	to := Origin(address)
	nothing := func(string) string { return "" }
	sealed.url = one(s.url, urlColumn, "", Origin)
	sealed.secrets = one(s.secrets, secretsColumn, "", func(text string) string { return fmt.Sprint(len(strings.Fields(text))) })
	if len(s.headers) > 0 {
		sealed.headers = map[string]string{}
	}
	for name, value := range s.headers {
		sealed.headers[name] = one(value, headersColumn+name, to, nothing)
	}
	return sealed, changed, err
}

// sealIf is sealAll where there are keys, and else changes nothing.
func (k *Keyring) sealIf(s secretsOf, hook string) (sealed secretsOf, changed bool, err error) {
	if k == nil {
		return s, false, nil
	}
	return k.sealAll(s, hook)
}

// openAll opens what is sealed.
func (k *Keyring) openAll(s secretsOf, hook string) (open secretsOf, err error) {
	if open.url, _, err = k.open(s.url, hook, urlColumn, ""); err != nil {
		return open, fmt.Errorf("url: %w", err)
	}
	if open.secrets, _, err = k.open(s.secrets, hook, secretsColumn, ""); err != nil {
		return open, fmt.Errorf("secrets: %w", err)
	}
	if len(s.headers) > 0 {
		open.headers = map[string]string{}
	}
	for name, value := range s.headers {
		if open.headers[name], _, err = k.open(value, hook, headersColumn+name, Origin(open.url)); err != nil {
			return open, fmt.Errorf("header %s: %w", name, err)
		}
	}
	return open, nil
}

// SealResult tells what [Store.Seal] did.
type SealResult struct {
	// Sealed are the hooks that were sealed, or sealed by another key than the
	// first before.
	Sealed []string `json:"sealed"`
	// Kept is how many had nothing to seal: no secret, or one under the first
	// key.
	Kept int `json:"kept"`
	// Failed are the hooks that none of the keys opens.
	Failed []string `json:"failed"`
}

const sealNamesSQL = `
select name
from public.soniq_hooks
where declared_at is null
order by name`

const sealReadSQL = `
select coalesce(url, ''), coalesce(secrets, ''), settings
from public.soniq_hooks
where name = $1
  and declared_at is null
for update`

const sealWriteSQL = `
update public.soniq_hooks
set url = nullif($2, ''),
  secrets = nullif($3, ''),
  settings = case when $4::jsonb is null then settings else settings || jsonb_build_object('headers', $4::jsonb) end
where name = $1`

// Seal seals URLs, secrets and header values that stand in the table in the
// clear, and again those that another key than the store's first has sealed. A
// hook that a configuration declares has none in the table. Each hook is a
// transaction of its own.
func (s *Store) Seal(ctx context.Context) (SealResult, error) {
	result := SealResult{Sealed: []string{}, Failed: []string{}}
	if s.keys == nil {
		return result, errors.New("seal hooks: there is no key")
	}
	rows, _ := s.pool.Query(ctx, sealNamesSQL)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return result, fmt.Errorf("seal hooks: %w", err)
	}
	for _, name := range names {
		var changed bool
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) (err error) {
			changed, err = s.sealOne(ctx, tx, name)
			return err
		})
		switch {
		case errors.Is(err, pgx.ErrNoRows): // removed meanwhile
		case errors.Is(err, ErrSealed):
			result.Failed = append(result.Failed, name)
		case err != nil:
			return result, fmt.Errorf("seal hook %q: %w", name, err)
		case changed:
			result.Sealed = append(result.Sealed, name)
		default:
			result.Kept++
		}
	}
	return result, nil
}

func (s *Store) sealOne(ctx context.Context, tx pgx.Tx, name string) (changed bool, err error) {
	var row secretsOf
	var raw []byte
	if err := tx.QueryRow(ctx, sealReadSQL, name).Scan(&row.url, &row.secrets, &raw); err != nil {
		return false, err
	}
	// Of settings that can't be read nobody could send a header.
	if set, err := readSettings(raw); err == nil {
		row.headers = set.Headers
	}
	sealed, changed, err := s.keys.sealAll(row, name)
	if err != nil || !changed {
		return false, err
	}
	var headers any // not changed
	if len(sealed.headers) > 0 {
		headers = sealed.headers
	}
	_, err = tx.Exec(ctx, sealWriteSQL, name, sealed.url, sealed.secrets, headers)
	return true, err
}
