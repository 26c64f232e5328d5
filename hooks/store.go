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
)

// ErrNotFound is returned for a hook or delivery that does not exist.
var ErrNotFound = errors.New("no such hook or delivery")

// ErrExists is returned by Add for a name that is taken.
var ErrExists = errors.New("a hook of that name exists already")

// Spec is a hook to be added.
type Spec struct {
	// Name is unique. Required.
	Name string
	// Kind is webhook, slack, log or exec. Required.
	Kind string
	// URL is where a webhook or Slack message goes, or env:NAME.
	URL string
	// Secrets sign a webhook: whsec_..., separated by spaces, or env:NAME.
	Secrets string
	// Headers are sent with a webhook. Values may be env:NAME.
	Headers map[string]string
	// Command is what an exec hook runs, by /bin/sh -c. It is shown: a secret
	// belongs into the environment of the dispatcher.
	Command string
	// Args says that a webhook or command gets the job's arguments.
	Args bool
	// Allow are private networks that the hook may reach, as CIDRs.
	Allow []string
	// BaseURL is where a Slack message links to.
	BaseURL string
	// Events the hook hears of. Default Dead alone.
	Events []string
	// Jobs are names, or globs with * and ?. Empty is all, as for the others.
	Jobs, Queues, Reasons []string
	// Tags that a dead letter must have.
	Tags map[string]string
}

// Check returns what is wrong with s, without connecting. A reference to the environment is not
// looked up: it may be set where the dispatcher runs only.
func (s *Spec) Check() error {
	if strings.TrimSpace(s.Name) == "" {
		return errors.New("the name is empty")
	}
	if !slices.Contains([]string{"webhook", "slack", "log", "exec"}, s.Kind) {
		return fmt.Errorf("the kind must be webhook, slack, log or exec, not %q", s.Kind)
	}
	if s.Kind == "exec" && strings.TrimSpace(s.Command) == "" {
		return errors.New("the command is empty")
	}
	if s.Kind == "webhook" || s.Kind == "slack" {
		if !strings.HasPrefix(s.URL, "env:") {
			if _, err := ParseURL(s.URL); err != nil {
				return err
			}
		}
		if _, err := newGuard(s.Allow); err != nil {
			return err
		}
	}
	if !strings.HasPrefix(s.Secrets, "env:") {
		if _, err := ParseSecrets(s.Secrets); err != nil {
			return err
		}
	}
	if s.BaseURL != "" {
		u, err := ParseURL(s.BaseURL)
		if err != nil || strings.ContainsAny(u.String(), "|<>") {
			return errors.New("the base URL must be an address such as https://soniq.example.com/dead-letters")
		}
	}
	return nil
}

// Info is a hook as it may be shown: its target is the host alone, or the
// reference, or the command, and there is no secret in it.
type Info struct {
	ID     uuid.UUID `json:"id"`
	Name   string    `json:"name"`
	Kind   string    `json:"kind"`
	Target string    `json:"target"`
	Signed bool      `json:"signed"`
	// SecretFrom is where the secrets are: 'database', 'env:NAME', or empty
	// where there is none.
	SecretFrom string `json:"secret_from"`
	// Secrets is how many the database holds: two while a receiver changes
	// over.
	Secrets        int             `json:"secrets"`
	Events         []string        `json:"events"`
	Jobs           []string        `json:"jobs"`
	Queues         []string        `json:"queues"`
	Reasons        []string        `json:"reasons"`
	Tags           json.RawMessage `json:"tags"`
	Enabled        bool            `json:"enabled"`
	DisabledReason string          `json:"disabled_reason"`
	Failures       int             `json:"failures"`
	FailingSince   *time.Time      `json:"failing_since"`
	BlockedUntil   *time.Time      `json:"blocked_until"`
	CreatedAt      time.Time       `json:"created_at"`
	// DeclaredAt is when a dispatcher last said that its configuration has it;
	// nil for a hook that is in none.
	DeclaredAt *time.Time      `json:"declared_at"`
	Pending    int64           `json:"pending"`
	Delivered  int64           `json:"delivered"`
	Failed     int64           `json:"failed"`
	Settings   json.RawMessage `json:"-"`
	// Headers have their values only where these are references.
	Headers map[string]string `json:"headers" db:"-"`
	Args    bool              `json:"include_args" db:"-"`
	Allow   []string          `json:"allow" db:"-"`
	BaseURL string            `json:"base_url" db:"-"`
}

// Hidden stands for a header's value.
const Hidden = "(hidden)"

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
type Store struct{ pool *pgxpool.Pool }

// NewStore returns a store on pool, which stays the caller's.
func NewStore(pool *pgxpool.Pool) *Store { return &Store{pool} }

const storeAddSQL = `
insert into soniq_hooks (name, kind, url, secrets, settings, events, jobs, queues, reasons, tags)
values ($1, $2, nullif($3, ''), nullif($4, ''), $5, $6, $7, $8, $9, $10)
on conflict (name) do nothing
returning id`

// Add adds a hook; it hears of what happens from then on. It returns
// [ErrExists] for a name that is taken.
func (s *Store) Add(ctx context.Context, spec Spec) (uuid.UUID, error) {
	if err := spec.Check(); err != nil {
		return uuid.Nil, fmt.Errorf("add hook: %w", err)
	}
	var id uuid.UUID
	err := s.pool.QueryRow(ctx, storeAddSQL, spec.row()...).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrExists
	}
	if err != nil {
		return uuid.Nil, fmt.Errorf("add hook: %w", err)
	}
	return id, nil
}

// row has the values of the columns name to tags.
func (s *Spec) row() []any {
	events := s.Events
	if len(events) == 0 {
		events = []string{Dead}
	}
	var tags any
	if len(s.Tags) > 0 {
		tags = s.Tags
	}
	return []any{s.Name, s.Kind, s.URL, s.Secrets, s.settings(), events, all(s.Jobs), all(s.Queues), all(s.Reasons), tags}
}

func (s *Spec) settings() settings {
	return settings{Headers: s.Headers, Args: s.Args, Allow: s.Allow, BaseURL: s.BaseURL, Command: s.Command}
}

// all is nil, which matches all, for an empty list.
func all(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	return list
}

const storeListSQL = `
select h.id, h.name, h.kind, coalesce(case h.kind when 'exec' then h.settings ->> 'command' else h.url end, ''), h.secrets is not null,
  case when h.secrets like 'env:%' then h.secrets when h.secrets is not null then 'database' else '' end,
  case when h.secrets like 'env:%' then 0 else coalesce(array_length(string_to_array(h.secrets, ' '), 1), 0) end,
  h.events, h.jobs, h.queues, h.reasons, h.tags,
  h.enabled, coalesce(h.disabled_reason, ''), h.failures, h.failing_since, h.blocked_until, h.created_at, h.declared_at,
  (select count(*) from soniq_hook_deliveries d where d.hook_id = h.id and d.state = 'pending'),
  (select count(*) from soniq_hook_deliveries d where d.hook_id = h.id and d.state = 'delivered'),
  (select count(*) from soniq_hook_deliveries d where d.hook_id = h.id and d.state = 'failed'),
  h.settings
from soniq_hooks h
where $1 = '' or h.name = $1
order by h.name`

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
	for i := range infos {
		h := &infos[i]
		if h.Kind != "exec" {
			h.Target = Target(h.Target)
		}
		set, err := readSettings(h.Settings)
		if err != nil {
			continue // its deliveries say so
		}
		h.Args, h.Allow, h.BaseURL, h.Headers = set.Args, set.Allow, set.BaseURL, set.Headers
		for name, value := range h.Headers {
			if !strings.HasPrefix(value, "env:") {
				h.Headers[name] = Hidden
			}
		}
	}
	return infos, nil
}

// Target is what may be shown of an address: the rest of a Slack URL is its
// secret.
func Target(address string) string {
	if address == "" || strings.HasPrefix(address, "env:") {
		return address
	}
	u, err := ParseURL(address)
	if err != nil {
		return "(unreadable)"
	}
	return u.Scheme + "://" + u.Host + "/…"
}

const storeEnableSQL = `
update soniq_hooks
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
  delete from soniq_hooks
  where name = $1
  returning id
), groups as (
  delete from soniq_hook_groups
  where hook_id in (select id from removed)
), deliveries as (
  delete from soniq_hook_deliveries
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

const storeRotateSQL = `
update soniq_hooks
set secrets = $2 || case when $3 then '' else coalesce(' ' || split_part(secrets, ' ', 1), '') end
where name = $1
  and kind = 'webhook'
  and declared_at is null
  and coalesce(secrets, '') not like 'env:%'`

// Rotate gives a webhook a new secret. Until the next rotation it is signed by
// the one before too, so that a receiver can change over; not if drop is set.
// It returns [ErrNotFound] for a hook that keeps no secret in the table, or is
// declared by a configuration.
func (s *Store) Rotate(ctx context.Context, name, secret string, drop bool) error {
	tag, err := s.pool.Exec(ctx, storeRotateSQL, name, secret, drop)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("rotate secret: %w", err)
	}
	return nil
}

const storeDeliveriesSQL = `
select d.id, coalesce(h.name, ''), d.event, d.dead_letter_id, d.state,
  d.state = 'pending' and d.lease is not null and d.next_attempt_at > clock_timestamp(), d.attempts, d.last_status,
  coalesce(d.last_answer, ''), coalesce(d.last_error, ''),
  case when d.state = 'pending' then d.next_attempt_at end, d.delivered_at, d.created_at
from soniq_hook_deliveries d
left join soniq_hooks h on h.id = d.hook_id
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
	return found, nil
}

const storeRetrySQL = `
update soniq_hook_deliveries d
set state = 'pending',
  attempts = 0,
  next_attempt_at = clock_timestamp()
where d.lease is null
  and d.state <> 'delivered'
  and (d.id = any ($1) or d.state = 'failed' and d.hook_id = (select h.id from soniq_hooks h where h.name = $2))`

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
select id, name, kind, coalesce(url, ''), coalesce(secrets, ''), settings
from soniq_hooks
where name = $1`

// Test sends a sample, marked as one, from this process and past the outbox.
// The delivery has the answer. The error is the hook's, [ErrNotFound], or, for
// a command that d may not run, [ErrExecNotAllowed].
func (s *Store) Test(ctx context.Context, d *Dispatcher, name string) (*Delivery, error) {
	var h dueHook
	err := s.pool.QueryRow(ctx, storeOpenSQL, name).Scan(&h.ID, &h.Name, &h.Kind, &h.URL, &h.Secrets, &h.Settings)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("test hook: %w", err)
	}
	hook, _, err := d.open(h)
	if c, ok := hook.(interface{ close() }); ok {
		defer c.close()
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("test hook: %w", err)
	case hook == nil:
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
