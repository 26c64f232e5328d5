package hooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/jsondoc"
	"soniq/internal/pg"
)

var (
	// ErrNotFound: there is no such hook.
	ErrNotFound = errors.New("no such hook or delivery")
	// ErrExists: another hook has the name.
	ErrExists = errors.New("a hook of that name exists already")
)

// Store adds, lists and changes the hooks of soniq_hooks and their deliveries.
type Store struct {
	pool *pg.Pool
	keys *Keyring
}

// StoreConfig configures a [Store]. Its zero value works.
type StoreConfig struct {
	// Schema is the schema of Soniq's tables, spelled as the catalog has it: case
	// counts. The role's search_path doesn't matter. Default "public".
	Schema string
	// Keys seal the secrets that the store writes. Default none: they stand in the
	// table in the clear.
	Keys *Keyring
}

// NewStore returns a store on pool, which stays the caller's. It does not connect.
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

// $1 to $10 are those of storeAddSQL.
const storeReplaceSQL = `
update public.soniq_hooks
set url = nullif($3, ''),
  secrets = coalesce(nullif($4, ''), secrets),
  settings = $5,
  events = $6,
  jobs = $7,
  queues = $8,
  reasons = $9,
  tags = $10,
  failures = 0,
  failing_since = null,
  last_failed_at = null,
  blocked_until = case when sender is null then null else blocked_until end
where name = $1
  and kind = $2
  and declared_at is null
returning id`

// Replace changes the hook of spec's name, which must be of the same kind, to what spec
// says. Its deliveries that wait are sent as spec says; its failures are forgotten. It
// keeps its secrets unless spec has some, and stays disabled if it is.
//
// Errors: [ErrNotFound] if there is no such hook of that kind, or a configuration declares
// it; what [Spec.Check] returns; else those of the database.
func (s *Store) Replace(ctx context.Context, spec Spec) error {
	if err := spec.Check(); err != nil {
		return fmt.Errorf("replace hook: %w", err)
	}
	sealed, _, err := s.keys.sealIf(spec.secrets(), spec.Name)
	if err != nil {
		return fmt.Errorf("replace hook: %w", err)
	}
	spec.URL, spec.Secrets, spec.Headers = sealed.url, sealed.signing, sealed.headers
	var id uuid.UUID
	err = s.pool.QueryRow(ctx, storeReplaceSQL, spec.row()...).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("replace hook: %w", err)
	}
	return nil
}

const storeCountSQL = `select count(*) from public.soniq_hooks`

// Add adds a hook, which receives events from then on. show is called before the
// hook is committed, to show its secret: if it returns an error, nothing is added. It
// may be nil.
//
// Errors: [ErrExists]; a [*VoidError] if the commit failed after show; what
// [Spec.Check] or show returns; else those of the database.
func (s *Store) Add(ctx context.Context, spec Spec, show func() error) (uuid.UUID, error) {
	if err := spec.Check(); err != nil {
		return uuid.Nil, fmt.Errorf("add hook: %w", err)
	}
	sealed, _, err := s.keys.sealIf(spec.secrets(), spec.Name)
	if err != nil {
		return uuid.Nil, fmt.Errorf("add hook: %w", err)
	}
	spec.URL, spec.Secrets, spec.Headers = sealed.url, sealed.signing, sealed.headers
	var id uuid.UUID
	err = s.showing(ctx, show, func(tx pgx.Tx) error {
		var n int
		if err := tx.QueryRow(ctx, storeCountSQL).Scan(&n); err != nil {
			return err
		}
		if n >= maxHooks {
			return fmt.Errorf("there are %d hooks already, and no more receive events", n)
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

// VoidError says that a secret was shown and then could not be stored: it is not
// valid.
type VoidError struct{ Err error }

func (e *VoidError) Error() string {
	return "the secret that was shown is void, as it could not be kept: " + e.Err.Error()
}

// Unwrap returns Err.
func (e *VoidError) Unwrap() error { return e.Err }

// showing runs change in a transaction, calls show, and commits. It does so again where a
// pooler has refused a statement for how it was sent.
func (s *Store) showing(ctx context.Context, show func() error, change func(pgx.Tx) error) error {
	err := s.tryShowing(ctx, show, change)
	if pg.IsLostStatement(err) {
		err = s.tryShowing(ctx, show, change)
	}
	return err
}

func (s *Store) tryShowing(ctx context.Context, show func() error, change func(pgx.Tx) error) error {
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() {
		// It does nothing after a commit. ctx may have ended.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
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
  events, jobs, queues, reasons, convert_to(` + pg.BoundedJSON("tags", "tags", pg.ListedBytes) + `::text, 'UTF8'),
  enabled, disabled_reason, failures, ` + pg.BoundedTime("failing_since") + `, ` + pg.BoundedTime("blocked_until") + `,
  ` + pg.BoundedTime("created_at") + `, ` + pg.BoundedTime("declared_at") + `,
  lacks, ` + pg.BoundedTime("lacks_at") + `, dropped, pending, delivered, failed,
  ` + pg.BoundedTime("oldest_pending_at") + `, ` + pg.BoundedTime("due_at") + `, sending
from public.soniq_hook_status
where $1 = '' or name = $1
order by name`

// A viewer may read the view and not the table.
const storeCommandsSQL = `
select name, coalesce(settings ->> 'command', '')
from public.soniq_hooks
where kind = any ($1)`

const storeMayReadSQL = `
select has_column_privilege('public.soniq_hooks', 'settings', 'select')
  and has_column_privilege('public.soniq_hooks', 'kind', 'select')
  and has_column_privilege('public.soniq_hooks', 'name', 'select')`

// List returns the hooks, ordered by name.
//
// Errors: those of the database.
func (s *Store) List(ctx context.Context) ([]Info, error) { return s.list(ctx, "") }

// Get returns one hook.
//
// Errors: [ErrNotFound]; else those of the database.
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
	if slices.ContainsFunc(infos, func(h Info) bool { return h.Kind.Uses(FieldCommand) }) {
		if commands, err = s.commands(ctx); err != nil {
			return nil, fmt.Errorf("list hooks: %w", err)
		}
	}
	for i := range infos {
		h := &infos[i]
		switch {
		case h.Kind.Uses(FieldCommand):
			h.Target = commands[h.Name]
		case strings.HasPrefix(h.Target, "http"):
			h.Target += "/…"
		}
		// SQL can write anything there.
		h.Tags = jsondoc.Shown(h.Tags, "tags")
		h.DisabledReason, h.Unavailable = deadletter.RedactText(h.DisabledReason), deadletter.RedactText(h.Unavailable)
	}
	return infos, nil
}

// commands returns the commands by the hooks' names, if the role may read them.
func (s *Store) commands(ctx context.Context) (map[string]string, error) {
	var may bool
	if err := s.pool.QueryRow(ctx, storeMayReadSQL).Scan(&may); err != nil || !may {
		return nil, err
	}
	commands := map[string]string{}
	rows, _ := s.pool.Query(ctx, storeCommandsSQL, KindsWith(FieldCommand))
	var name, command string
	_, err := pgx.ForEachRow(rows, []any{&name, &command}, func() error {
		commands[name] = cut(deadletter.RedactText(command), maxAnswer)
		return nil
	})
	return commands, err
}

const storeEnableSQL = `
update public.soniq_hooks
set enabled = $2,
  disabled_reason = case when $2 then null else 'by hand' end,
  failures = 0,
  failing_since = null,
  last_failed_at = null,
  blocked_until = null
where name = $1`

const storeWakeSQL = `select pg_notify('soniq_hook', '')`

// Enable lets a hook receive events again. Deliveries that wait for it are sent, and
// its failures are forgotten.
//
// Errors: [ErrNotFound]; else those of the database.
func (s *Store) Enable(ctx context.Context, name string) error { return s.setEnabled(ctx, name, true) }

// Disable stops a hook. Its deliveries wait. Events that happen meanwhile are not
// kept for it.
//
// Errors: [ErrNotFound]; else those of the database.
func (s *Store) Disable(ctx context.Context, name string) error {
	return s.setEnabled(ctx, name, false)
}

func (s *Store) setEnabled(ctx context.Context, name string, enabled bool) error {
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
), ` + removeRestSQL + `
select count(*) from removed`

// removeRestSQL deletes what belongs to the hooks of the CTE removed.
const removeRestSQL = `groups as (
  delete from public.soniq_hook_groups
  where hook_id in (select id from removed)
), deliveries as (
  delete from public.soniq_hook_deliveries
  where hook_id in (select id from removed)
)`

// Remove deletes a hook and its deliveries.
//
// Errors: [ErrNotFound]; else those of the database.
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
  and kind = any ($2)
  and declared_at is null
for update`

const storeRotateSQL = `
update public.soniq_hooks
set secrets = $2
where name = $1`

// RotateSecret gives a webhook a new secret, such as [NewSecret] returns. Until the
// next rotation requests are signed by the old one too, so that the receiver can
// change over; with drop they are not. show is as in [Store.Add].
//
// Errors: [ErrNotFound] for a hook whose secret does not stand in the table, or that
// a configuration declares; [ErrSealed] if none of the store's keys opens the old
// secret; a [*VoidError] if the commit failed after show; what show returns; else
// those of the database.
func (s *Store) RotateSecret(ctx context.Context, name, secret string, drop bool, show func() error) error {
	err := s.showing(ctx, show, func(tx pgx.Tx) error {
		var kept string
		err := tx.QueryRow(ctx, storeSecretsSQL, name, KindsWith(FieldSecret)).Scan(&kept)
		if _, refers := reference(kept); errors.Is(err, pgx.ErrNoRows) || err == nil && refers {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		secrets := secret
		if !drop {
			old, _, err := s.keys.open(kept, name, secretsColumn, "")
			if err != nil {
				return err
			}
			if fields := strings.Fields(old); len(fields) > 0 {
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
select d.id, coalesce(h.name, ''), coalesce(h.kind, ''), d.event, d.dead_letter_id, d.state,
  d.state = 'pending' and d.lease is not null and d.next_attempt_at > clock_timestamp(), d.attempts, d.last_status,
  coalesce(` + pg.BoundedText("d.last_answer", 4000) + `, ''), coalesce(` + pg.BoundedText("d.last_error", 4000) + `, ''),
  case when d.state = 'pending' then ` + pg.BoundedTime("d.next_attempt_at") + ` end,
  ` + pg.BoundedTime("d.delivered_at") + `, ` + pg.BoundedTime("d.created_at") + `,
  left(coalesce(case when jsonb_typeof(d.facts) = 'object' then d.facts ->> 'job_name' end, ''), 2000)
from public.soniq_hook_deliveries d
left join public.soniq_hook_status h on h.id = d.hook_id
where ($1 = '' or h.name = $1)
  and ($2 = '' or d.state = $2)
  and ($4::uuid[] is null or d.id = any ($4))
order by d.created_at desc, d.seq desc
limit $3`

// DeliveryFilter chooses deliveries.
type DeliveryFilter struct {
	// Hook is the name of their hook. Default all.
	Hook string
	// State is theirs. Default all.
	State DeliveryState
	// IDs are theirs. Default all.
	IDs []uuid.UUID
	// Limit is how many are returned at most, the newest. Negative is an error.
	// Default 1,000.
	Limit int
}

// Deliveries returns the newest deliveries.
//
// Errors: a negative Limit; those of the database.
func (s *Store) Deliveries(ctx context.Context, f DeliveryFilter) ([]DeliveryInfo, error) {
	if f.Limit < 0 {
		return nil, fmt.Errorf("list deliveries: Limit: %d is negative", f.Limit)
	}
	f.Limit = cmp.Or(f.Limit, 1000)
	rows, _ := s.pool.Query(ctx, storeDeliveriesSQL, f.Hook, f.State, f.Limit, f.IDs)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[DeliveryInfo])
	if err != nil {
		return nil, fmt.Errorf("list deliveries: %w", err)
	}
	for i := range found {
		// Release 0.1.0 has kept answers as they were.
		found[i].LastAnswer, found[i].LastError = deadletter.RedactText(found[i].LastAnswer), deadletter.RedactText(found[i].LastError)
	}
	return found, nil
}

// A hook's pause ends too, or they would wait for it: after failures for an hour, after
// Retry-After for a day. What keeps messages apart, 20 s at most, is no such pause.
const storeRetrySQL = `
with due as (
  update public.soniq_hook_deliveries d
  set state = 'pending',
    attempts = 0,
    next_attempt_at = clock_timestamp()
  where d.lease is null
    and d.state <> 'delivered'
    and (d.id = any ($1) or d.hook_id = (select h.id from public.soniq_hooks h where h.name = $2))
  returning d.hook_id
), awake as (
  update public.soniq_hooks h
  set blocked_until = null
  where h.id in (select hook_id from due)
    and h.sender is null
    and (h.failures > 0 or h.blocked_until > clock_timestamp() + interval '20 seconds')
)
select count(*) from due`

// RetryDeliveries makes deliveries due now that failed or wait for their next
// attempt: those with these ids, and all of hook unless it is empty. It returns how
// many. Their hooks' pauses end, after failures or a Retry-After; what is disabled stays so.
//
// Errors: those of the database.
func (s *Store) RetryDeliveries(ctx context.Context, ids []uuid.UUID, hook string) (n int64, err error) {
	err = s.pool.QueryRow(ctx, storeRetrySQL, ids, hook).Scan(&n)
	if err == nil && n > 0 {
		_, err = s.pool.Exec(ctx, storeWakeSQL)
	}
	if err != nil {
		return 0, fmt.Errorf("retry deliveries: %w", err)
	}
	return n, nil
}
