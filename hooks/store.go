package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/pg"
)

// ErrNotFound is returned for a hook or delivery that does not exist.
var ErrNotFound = errors.New("no such hook or delivery")

// ErrExists is returned by Add for a name that is taken.
var ErrExists = errors.New("a hook of that name exists already")

// Info is a hook as it may be shown, a row of the view soniq_hook_status: its
// target is the host alone, or the reference, and there is no secret in it.
type Info struct {
	ID   uuid.UUID `json:"id"`
	Name string    `json:"name"`
	Kind string    `json:"kind"`
	// Target is of a command what the table says, for those who may read it,
	// without what looks like a secret.
	Target string `json:"target"`
	Signed bool   `json:"signed"`
	// SecretFrom is where the secrets are: 'database', 'sealed' (in the database,
	// by a key), 'configuration', 'env:NAME', or empty where there is none.
	SecretFrom string `json:"secret_from"`
	// Secrets is how many the database holds: two while a receiver changes
	// over.
	Secrets int `json:"secrets"`
	// Headers have their values only where these are references.
	Headers map[string]string `json:"headers"`
	Args    bool              `json:"include_args"`
	Allow   []string          `json:"allow"`
	BaseURL string            `json:"base_url"`
	Events  []string          `json:"events"`
	Jobs    []string          `json:"jobs"`
	Queues  []string          `json:"queues"`
	Reasons []string          `json:"reasons"`
	Tags    json.RawMessage   `json:"tags"`

	Enabled        bool       `json:"enabled"`
	DisabledReason string     `json:"disabled_reason"`
	Failures       int        `json:"failures"`
	FailingSince   *time.Time `json:"failing_since"`
	BlockedUntil   *time.Time `json:"blocked_until"`
	CreatedAt      time.Time  `json:"created_at"`
	// DeclaredAt is when a dispatcher last said that its configuration has it;
	// nil for a hook that is in none.
	DeclaredAt *time.Time `json:"declared_at"`
	// Lacks is why the hook's deliveries wait, as a dispatcher that could not
	// send them has noted: a flag that it needs, a variable, a key. Empty where
	// none has, or another has sent since.
	Lacks   string     `json:"lacks"`
	LacksAt *time.Time `json:"lacks_at"`
	// Dropped is how many deliveries were dropped because too many waited.
	Dropped   int64 `json:"dropped"`
	Pending   int64 `json:"pending"`
	Delivered int64 `json:"delivered"`
	Failed    int64 `json:"failed"`
}

// Needs are the flags that a dispatcher must be started with to send to the
// hook: of a row, for the variables and networks that it names. A hook of a
// configuration needs none.
func (h *Info) Needs() []string {
	if h.DeclaredAt != nil {
		return nil
	}
	return needs(h.Kind, secretsOf{h.Target, h.SecretFrom, h.Headers}, h.Allow)
}

// What the view says in the place of a header's value.
const (
	// Hidden is a value that stands in the table.
	Hidden = "(hidden)"
	// Sealed is one that is sealed there.
	Sealed = "(sealed)"
)

// DeliveryInfo is a row of the outbox.
type DeliveryInfo struct {
	ID           uuid.UUID `json:"id"`
	Hook         string    `json:"hook"`
	Event        string    `json:"event"`
	DeadLetterID uuid.UUID `json:"dead_letter_id"`
	State        string    `json:"state"`
	// Sending says that a dispatcher is at it.
	Sending       bool       `json:"sending"`
	Attempts      int        `json:"attempts"`
	LastStatus    *int       `json:"last_status"`
	LastAnswer    string     `json:"last_answer"`
	LastError     string     `json:"last_error"`
	NextAttemptAt *time.Time `json:"next_attempt_at"`
	DeliveredAt   *time.Time `json:"delivered_at"`
	CreatedAt     time.Time  `json:"created_at"`
}

// Store keeps the hooks.
type Store struct {
	pool *pg.Pool
	keys *Keyring
}

// StoreConfig configures a [Store]. Its zero value works.
type StoreConfig struct {
	// Schema is the schema of Soniq's tables, spelled as the catalog has it.
	// Default "public".
	Schema string
	// Keys seal the secrets that the store writes: the first seals, every one
	// opens. Default none, which leaves secrets in the clear.
	Keys *Keyring
}

// NewStore returns a store on pool, which stays the caller's. It does not
// connect.
//
// Errors: what is wrong with a field of config.
func NewStore(pool *pgxpool.Pool, config StoreConfig) (*Store, error) {
	schema, err := pg.NewSchema(config.Schema)
	if err != nil {
		return nil, fmt.Errorf("new store of hooks: Schema: %w", err)
	}
	return &Store{schema.Pool(pool), config.Keys}, nil
}

const storeAddSQL = `
insert into public.soniq_hooks (name, kind, url, secrets, settings, events, jobs, queues, reasons, tags)
values ($1, $2, nullif($3, ''), nullif($4, ''), $5, $6, $7, $8, $9, $10)
on conflict (name) do nothing
returning id`

const storeCountSQL = `select count(*) from public.soniq_hooks`

// Add adds a hook; it hears of what happens from then on. It returns
// [ErrExists] for a name that is taken. show, if it isn't nil, is called before
// the hook is there for anybody: its error undoes all, so that a secret which
// nobody was shown is nobody's. A failure after it is a [*VoidError].
func (s *Store) Add(ctx context.Context, spec Spec, show func() error) (uuid.UUID, error) {
	if err := spec.Check(); err != nil {
		return uuid.Nil, fmt.Errorf("add hook: %w", err)
	}
	sealed, _, err := s.keys.sealIf(secretsOf{spec.URL, spec.Secrets, spec.Headers}, spec.Name)
	if err != nil {
		return uuid.Nil, fmt.Errorf("add hook: %w", err)
	}
	spec.URL, spec.Secrets, spec.Headers = sealed.url, sealed.secrets, sealed.headers
	var id uuid.UUID
	err = s.showing(ctx, show, func(tx pgx.Tx) error {
		var n int
		if err := tx.QueryRow(ctx, storeCountSQL).Scan(&n); err != nil {
			return err
		}
		if n >= maxHooks {
			return fmt.Errorf("there are %d hooks already, and no more are told of anything", n)
		}
		err := tx.QueryRow(ctx, storeAddSQL, spec.row()...).Scan(&id)
		if errors.Is(err, pgx.ErrNoRows) {
			err = ErrExists
		}
		return err
	})
	if err != nil {
		return uuid.Nil, fmt.Errorf("add hook: %w", err)
	}
	return id, nil
}

// VoidError says that a secret was shown and then could not be kept.
type VoidError struct{ Err error }

func (e *VoidError) Error() string {
	return "the secret that was shown is void, as it could not be kept: " + e.Err.Error()
}

// Unwrap returns Err.
func (e *VoidError) Unwrap() error { return e.Err }

// showing runs change in a transaction, shows, and commits.
func (s *Store) showing(ctx context.Context, show func() error, change func(pgx.Tx) error) error {
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() {
		// After a commit it does nothing. What made us fail may be ctx's end.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handOver)
		defer cancel()
		_ = tx.Rollback(ctx)
	}()
	if err := change(tx); err != nil {
		return err
	}
	if show != nil {
		if err := show(); err != nil {
			return err
		}
	}
	if err := tx.Commit(ctx); err != nil {
		if show != nil {
			return &VoidError{err}
		}
		return err
	}
	return nil
}

var storeListSQL = `
select id, name, kind, target, signed, secret_from, secrets, headers, include_args, allow, base_url,
  events, jobs, queues, reasons, tags,
  enabled, disabled_reason, failures, ` + pg.BoundedTime("failing_since") + `, ` + pg.BoundedTime("blocked_until") + `,
  ` + pg.BoundedTime("created_at") + `, ` + pg.BoundedTime("declared_at") + `,
  lacks, ` + pg.BoundedTime("lacks_at") + `, dropped, pending, delivered, failed
from public.soniq_hook_status
where $1 = '' or name = $1
order by name`

// A viewer may have the view alone, and no right to the table.
const storeCommandsSQL = `
select name, coalesce(settings ->> 'command', '')
from public.soniq_hooks
where kind = 'exec'`

const storeMayReadSQL = `select has_column_privilege('public.soniq_hooks', 'settings', 'select') and has_column_privilege('public.soniq_hooks', 'kind', 'select') and has_column_privilege('public.soniq_hooks', 'name', 'select')`

// List returns the hooks by name.
func (s *Store) List(ctx context.Context) ([]Info, error) { return s.list(ctx, "") }

// Get returns one hook, or [ErrNotFound].
func (s *Store) Get(ctx context.Context, name string) (Info, error) {
	found, err := s.list(ctx, name)
	if err == nil && (name == "" || len(found) == 0) {
		err = ErrNotFound
	}
	if err != nil {
		return Info{}, err
	}
	return found[0], nil
}

func (s *Store) list(ctx context.Context, name string) ([]Info, error) {
	rows, _ := s.pool.Query(ctx, storeListSQL, name)
	infos, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Info])
	if err != nil {
		return nil, fmt.Errorf("list hooks: %w", err)
	}
	var commands map[string]string
	if slices.ContainsFunc(infos, func(h Info) bool { return h.Kind == "exec" }) {
		if commands, err = s.commands(ctx); err != nil {
			return nil, fmt.Errorf("list hooks: %w", err)
		}
	}
	for i := range infos {
		h := &infos[i]
		switch {
		case h.Kind == "exec":
			h.Target = commands[h.Name]
		case strings.HasPrefix(h.Target, "http"):
			h.Target += "/…"
		}
	}
	return infos, nil
}

// commands are what the exec hooks run, for who may know, without what looks
// like a secret.
func (s *Store) commands(ctx context.Context) (map[string]string, error) {
	var may bool
	if err := s.pool.QueryRow(ctx, storeMayReadSQL).Scan(&may); err != nil || !may {
		return nil, err
	}
	commands := map[string]string{}
	rows, _ := s.pool.Query(ctx, storeCommandsSQL)
	var name, command string
	_, err := pgx.ForEachRow(rows, []any{&name, &command}, func() error {
		commands[name] = cut(deadletter.RedactText(command), maxAnswer)
		return nil
	})
	return commands, err
}

// Target is what may be shown of an address: the rest of a Slack URL is its
// secret.
func Target(address string) string {
	origin := Origin(address)
	switch {
	case address == "" || strings.HasPrefix(origin, "env:"):
		return origin
	case origin == "":
		return "(unreadable)"
	default:
		return origin + "/…"
	}
}

// Origin is scheme and host of an address, a reference as it is, or empty for
// what can't be read.
func Origin(address string) string {
	if strings.HasPrefix(address, "env:") {
		return address
	}
	u, err := ParseURL(address)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

const storeEnableSQL = `
update public.soniq_hooks
set enabled = $2,
  disabled_reason = case when $2 then null else 'by hand' end,
  failures = 0,
  failing_since = null,
  blocked_until = null
where name = $1`

const storeWakeSQL = `select pg_notify('soniq_hook', '')`

// Enable lets a hook go on, with what waits for it, or stops it: then nothing
// is sent, and what happens meanwhile is not kept for it. It returns
// [ErrNotFound] for a name that no hook has.
func (s *Store) Enable(ctx context.Context, name string, enabled bool) error {
	tag, err := s.pool.Exec(ctx, storeEnableSQL, name, enabled)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrNotFound
	}
	if err == nil && enabled {
		_, err = s.pool.Exec(ctx, storeWakeSQL)
	}
	if err != nil {
		return fmt.Errorf("change hook: %w", err)
	}
	return nil
}

const storeRemoveSQL = `
with removed as (
  delete from public.soniq_hooks
  where name = $1
  returning id
), groups as (
  delete from public.soniq_hook_groups
  where hook_id in (select id from removed)
), deliveries as (
  delete from public.soniq_hook_deliveries
  where hook_id in (select id from removed)
)
select count(*) from removed`

// Remove deletes a hook and its deliveries, or returns [ErrNotFound].
func (s *Store) Remove(ctx context.Context, name string) error {
	var n int
	err := s.pool.QueryRow(ctx, storeRemoveSQL, name).Scan(&n)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("remove hook: %w", err)
	}
	return nil
}

const storeSecretsSQL = `
select coalesce(secrets, '')
from public.soniq_hooks
where name = $1
  and kind = 'webhook'
  and declared_at is null
for update`

const storeRotateSQL = `
update public.soniq_hooks
set secrets = $2
where name = $1`

// Rotate gives a webhook a new secret. Until the next rotation it is signed by
// the one before too, so that a receiver can change over; not if drop is set.
// show is as in Add: its error leaves the secret as it was. Rotate returns
// [ErrNotFound] for a hook that keeps no secret in the table, or is declared by
// a configuration, and [ErrSealed] for a secret that none of the store's keys
// opens.
func (s *Store) Rotate(ctx context.Context, name, secret string, drop bool, show func() error) error {
	err := s.showing(ctx, show, func(tx pgx.Tx) error {
		var kept string
		err := tx.QueryRow(ctx, storeSecretsSQL, name).Scan(&kept)
		if _, refers := reference(kept); errors.Is(err, pgx.ErrNoRows) || err == nil && refers {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		secrets := secret
		if !drop {
			was, _, err := s.keys.open(kept, name, secretsColumn, "")
			if err != nil {
				return err
			}
			if fields := strings.Fields(was); len(fields) > 0 {
				secrets += " " + fields[0]
			}
		}
		if isSealed(kept) && s.keys == nil {
			return ErrSealed // the new one would stand there in the clear
		}
		sealed := s.keys.seal(secrets, name, secretsColumn, fmt.Sprint(len(strings.Fields(secrets))), "")
		_, err = tx.Exec(ctx, storeRotateSQL, name, sealed)
		return err
	})
	if err != nil {
		return fmt.Errorf("rotate secret: %w", err)
	}
	return nil
}

var storeDeliveriesSQL = `
select d.id, coalesce(h.name, ''), d.event, d.dead_letter_id, d.state,
  d.state = 'pending' and d.lease is not null and d.next_attempt_at > clock_timestamp(), d.attempts, d.last_status,
  coalesce(d.last_answer, ''), coalesce(d.last_error, ''),
  case when d.state = 'pending' then ` + pg.BoundedTime("d.next_attempt_at") + ` end,
  ` + pg.BoundedTime("d.delivered_at") + `, ` + pg.BoundedTime("d.created_at") + `
from public.soniq_hook_deliveries d
left join public.soniq_hook_status h on h.id = d.hook_id
where ($1 = '' or h.name = $1)
  and ($2 = '' or d.state = $2)
order by d.created_at desc, d.seq desc
limit $3`

// Deliveries returns the newest deliveries, of one hook and in one state where
// they are not empty.
func (s *Store) Deliveries(ctx context.Context, hook, state string, limit int) ([]DeliveryInfo, error) {
	rows, _ := s.pool.Query(ctx, storeDeliveriesSQL, hook, state, limit)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[DeliveryInfo])
	if err != nil {
		return nil, fmt.Errorf("list deliveries: %w", err)
	}
	for i := range found {
		// Rows of release 0.1.0 have what was answered as it was.
		found[i].LastAnswer, found[i].LastError = deadletter.RedactText(found[i].LastAnswer), deadletter.RedactText(found[i].LastError)
	}
	return found, nil
}

const storeRetrySQL = `
update public.soniq_hook_deliveries d
set state = 'pending',
  attempts = 0,
  next_attempt_at = clock_timestamp()
where d.lease is null
  and d.state <> 'delivered'
  and (d.id = any ($1) or d.state = 'failed' and d.hook_id = (select h.id from public.soniq_hooks h where h.name = $2))`

// Retry makes deliveries due now that failed or wait: those with these ids and,
// where hook is not empty, all that failed of that hook. It returns how many.
func (s *Store) Retry(ctx context.Context, ids []uuid.UUID, hook string) (int64, error) {
	tag, err := s.pool.Exec(ctx, storeRetrySQL, ids, hook)
	if err == nil && tag.RowsAffected() > 0 {
		_, err = s.pool.Exec(ctx, storeWakeSQL)
	}
	if err != nil {
		return 0, fmt.Errorf("retry deliveries: %w", err)
	}
	return tag.RowsAffected(), nil
}

const storeOpenSQL = `
select id, name, kind, left(coalesce(url, ''), $2), left(coalesce(secrets, ''), $2),
  case when octet_length(settings::text) <= $2 then settings end, declared_at is not null
from public.soniq_hooks
where name = $1`

// ErrDeclared is returned by [Store.Test] for a hook that another program's
// configuration declares: the table does not hold what is needed to send to it.
var ErrDeclared = errors.New("it is in the configuration of a dispatcher, and can be sent to only from there")

// Test sends a sample, marked as one, from this process and past the outbox.
// The delivery has the answer. d is a dispatcher that grants what a row needs.
// declared are the hooks of the configuration here: one that is declared is
// sent to as it says there. The error is the hook's, [ErrNotFound],
// [ErrDeclared], a [*NeedsError] or, for a command that d may not run,
// [ErrExecNotAllowed].
func (s *Store) Test(ctx context.Context, d *Dispatcher, name string, declared ...Spec) (*Delivery, error) {
	var h dueHook
	err := s.pool.QueryRow(ctx, storeOpenSQL, name, maxRow).Scan(&h.ID, &h.Name, &h.Kind, &h.URL, &h.Secrets, &h.Settings, &h.Declared)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("test hook: %w", err)
	}
	if h.Declared {
		i := slices.IndexFunc(declared, func(spec Spec) bool { return spec.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("test hook: %w", ErrDeclared)
		}
		d.mu.Lock()
		d.declared[name] = declared[i]
		d.mu.Unlock()
	}
	hook, err := d.open(h)
	defer hook.close()
	switch {
	case err != nil:
		return nil, fmt.Errorf("test hook: %w", err)
	case hook.Hook == nil:
		return nil, errors.New("test hook: it is written in Go; only its own program can send to it")
	}
	now := time.Now().UTC()
	e := Event{Type: Dead, At: now, Sample: true, Letter: deadletter.Job{
		ID: uuid.New(), JobName: "soniq.sample", Args: json.RawMessage(`{}`), Queue: "default", Attempts: 3, MaxAttempts: 3,
		LastError: "this is a sample: no job has died", Reason: deadletter.MaxRetriesExceeded, MovedAt: now, OriginalCreatedAt: now,
	}}
	delivery := &Delivery{
		ID: uuid.New(), Hook: name, Attempt: 1, Event: e,
		Groups: []Group{{Event: e, Count: 1, First: now, Last: now}},
	}
	if err := deliver(ctx, hook, delivery); err != nil {
		return delivery, fmt.Errorf("test hook: %w", err)
	}
	return delivery, nil
}
