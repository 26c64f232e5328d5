package hooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
)

// The columns that can be sealed. A header's is headersColumn and its name.
const (
	urlColumn     = "url"
	secretsColumn = "secrets"
	headersColumn = "headers."
)

// sealAll seals what is in the clear or sealed by another key than the first. changed:
// there was something to seal.
//
// Errors: [ErrSealed].
func (k *Keyring) sealAll(s secrets, hook string) (sealed secrets, changed bool, err error) {
	one := func(text, column, to string, shown func(string) string) string {
		value, current, openErr := k.open(text, hook, column, to)
		if openErr != nil {
			err = cmp.Or(err, openErr)
			return text
		}
		if current || value == "" || text == value && strings.HasPrefix(text, referencePrefix) {
			return text
		}
		changed = true
		return k.seal(value, hook, column, shown(value), to)
	}
	address, _, openErr := k.open(s.url, hook, urlColumn, "")
	if openErr != nil {
		return s, false, openErr
	}
	to := originOf(address)
	nothing := func(string) string { return "" }
	sealed.url = one(s.url, urlColumn, "", originOf)
	sealed.signing = one(s.signing, secretsColumn, "", func(text string) string { return fmt.Sprint(len(strings.Fields(text))) })
	if len(s.headers) > 0 {
		sealed.headers = map[string]string{}
	}
	for name, value := range s.headers {
		sealed.headers[name] = one(value, headersColumn+name, to, nothing)
	}
	return sealed, changed, err
}

// sealIf is sealAll if there are keys.
func (k *Keyring) sealIf(s secrets, hook string) (sealed secrets, changed bool, err error) {
	if k == nil {
		return s, false, nil
	}
	return k.sealAll(s, hook)
}

// openAll opens what is sealed.
//
// Errors: [ErrSealed], with the part's name.
func (k *Keyring) openAll(s secrets, hook string) (open secrets, err error) {
	if open.url, _, err = k.open(s.url, hook, urlColumn, ""); err != nil {
		return open, fmt.Errorf("url: %w", err)
	}
	if open.signing, _, err = k.open(s.signing, hook, secretsColumn, ""); err != nil {
		return open, fmt.Errorf("secrets: %w", err)
	}
	if len(s.headers) > 0 {
		open.headers = map[string]string{}
	}
	for name, value := range s.headers {
		if open.headers[name], _, err = k.open(value, hook, headersColumn+name, originOf(open.url)); err != nil {
			return open, fmt.Errorf("header %s: %w", name, err)
		}
	}
	return open, nil
}

// SealResult says what [Store.Seal] did.
type SealResult struct {
	// Sealed are the names of the hooks that were sealed.
	Sealed []string `json:"sealed"`
	// Kept is how many hooks had nothing to seal: no secret, or one that the first key
	// has sealed.
	Kept int `json:"kept"`
	// Failed are the names of the hooks that none of the keys opens.
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

// Seal seals the URLs, secrets and header values that stand in the table in the clear,
// and those that another key than the store's first has sealed. Declared hooks have no
// secrets in the table. Each hook is sealed in a transaction of its own.
//
// Errors: those of the database; the result then says which hooks were sealed. A store
// without keys.
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
		err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) (err error) {
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
	var row secrets
	var raw []byte
	if err := tx.QueryRow(ctx, sealReadSQL, name).Scan(&row.url, &row.signing, &raw); err != nil {
		return false, err
	}
	// Settings that can't be read have no headers that could be sent.
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
	_, err = tx.Exec(ctx, sealWriteSQL, name, sealed.url, sealed.signing, headers)
	return true, err
}
