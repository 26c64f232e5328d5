package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/pg"
)

// outbox is the tables as a dispatcher sees them.
type outbox struct {
	pool    *pg.Pool
	letters *deadletter.Queue
}

// newOutbox returns the outbox in a schema.
//
// Errors: [pg.ErrSchemaName].
func newOutbox(pool *pgxpool.Pool, name string) (o outbox, err error) {
	schema, err := pg.NewSchema(name)
	if err != nil {
		return o, err
	}
	letters, err := deadletter.NewQueue(pool, deadletter.QueueConfig{Schema: name})
	return outbox{schema.Pool(pool), letters}, err
}

// dueHook is an enabled hook with something to send.
type dueHook struct {
	ID       uuid.UUID
	Name     string
	Kind     string
	URL      string
	Secrets  string
	Settings json.RawMessage
	Failures int
	// Declared says that a configuration has it; then only those send to it
	// that have it too, and as theirs says.
	Declared bool
	// Lacks is why the hook waits, as a dispatcher that could not send has noted.
	Lacks string
	// Due is when: now or before where it is not positive.
	Due time.Duration
}

// Without hooks it reads one empty table. A day is as good as any time beyond,
// infinity too. A row that is too large comes without
// its settings; only SQL can have written one.
const outboxDueSQL = `
select h.id, h.name, h.kind, left(coalesce(h.url, ''), $4), left(coalesce(h.secrets, ''), $4),
  case
    when coalesce(octet_length(h.url), 0) <= $4
      and coalesce(octet_length(h.secrets), 0) <= $4
      and pg_column_size(h.settings) <= $4
      and octet_length(h.settings::text) <= $4
    then h.settings
  end,
  h.failures, h.declared_at is not null, coalesce(h.lacks, ''),
  extract(epoch from least(
    greatest(d.next_attempt_at, h.blocked_until, clock_timestamp() - interval '1 day'),
    clock_timestamp() + interval '1 day') - clock_timestamp())::float8
from public.soniq_hooks h
cross join lateral (
  select d.next_attempt_at
  from public.soniq_hook_deliveries d
  where d.hook_id = h.id
    and d.state = 'pending'
  order by d.next_attempt_at
  limit 1
) d
where h.enabled
  and case
    when h.declared_at is not null then h.name = any ($3)
    when h.kind = 'go' then h.name = any ($2)
    else h.kind = any ($1)
  end`

// due are the hooks of these kinds, those in Go that are registered here, and
// those of a configuration that are declared here.
func (o outbox) due(ctx context.Context, kinds, own, declared []string) ([]dueHook, error) {
	rows, _ := o.pool.Query(ctx, outboxDueSQL, kinds, own, declared, maxRow)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (h dueHook, err error) {
		var seconds float64
		err = row.Scan(&h.ID, &h.Name, &h.Kind, &h.URL, &h.Secrets, &h.Settings, &h.Failures, &h.Declared, &h.Lacks, &seconds)
		h.Due = time.Duration(seconds * float64(time.Second))
		return h, err
	})
}

const outboxLackSQL = `
update public.soniq_hooks
set lacks = nullif($2, ''),
  lacks_at = case when $2 <> '' then clock_timestamp() end
where id = $1`

// lack notes why a hook's deliveries wait; empty is that they don't.
func (o outbox) lack(ctx context.Context, hook uuid.UUID, why string) error {
	_, err := o.pool.Exec(ctx, outboxLackSQL, hook, storable(why))
	return err
}

// claimed is an outbox row under our lease.
type claimed struct {
	ID       uuid.UUID
	Event    string
	Letter   uuid.UUID
	Facts    json.RawMessage
	Group    string
	At       time.Time
	Attempts int
}

// The order is that of the lease, so the oldest come first.
var outboxClaimSQL = `
with picked as (
  select d.id
  from public.soniq_hook_deliveries d
  where d.hook_id = $1
    and d.state = 'pending'
    and d.next_attempt_at <= clock_timestamp() + $5::float8 * interval '1 second'
    and exists (
      select from public.soniq_hooks h
      where h.id = $1
        and h.enabled
        and (h.blocked_until is null or h.blocked_until <= clock_timestamp() or h.sender = $2)
    )
  order by d.next_attempt_at, d.seq
  limit $3
  for update skip locked
), leased as (
  update public.soniq_hook_deliveries d
  set lease = $2,
    attempts = d.attempts + 1,
    next_attempt_at = clock_timestamp() + $4::float8 * interval '1 second'
  from picked
  where d.id = picked.id
  returning d.id, d.event, d.dead_letter_id, d.facts, d.group_key, d.occurred_at, d.attempts, d.seq
)
select id, event, dead_letter_id, facts, group_key, ` + pg.BoundedTime("occurred_at") + `, attempts
from leased
order by occurred_at, seq`

// claim leases up to limit rows that are due, or will be within ahead. A lease
// that expires makes its row due again.
func (o outbox) claim(ctx context.Context, hook, lease uuid.UUID, limit int, d, ahead time.Duration) ([]claimed, error) {
	rows, _ := o.pool.Query(ctx, outboxClaimSQL, hook, lease, limit, d.Seconds(), ahead.Seconds())
	return pgx.CollectRows(rows, pgx.RowToStructByPos[claimed])
}

const outboxDeliveredSQL = `
update public.soniq_hook_deliveries d
set state = 'delivered',
  message_id = $3,
  last_status = nullif($4, 0),
  last_answer = $5,
  last_error = null,
  lease = null,
  delivered_at = clock_timestamp()
where d.id = any ($1)
  and d.lease = $2
  and d.state = 'pending'`

const outboxWellSQL = `
update public.soniq_hooks
set failures = 0,
  failing_since = null,
  blocked_until = case when sender is null then null else blocked_until end
where id = $1
  and (failures > 0 or failing_since is not null)`

// delivered marks rows that we still hold; it reports how many those were.
func (o outbox) delivered(ctx context.Context, hook, lease uuid.UUID, ids []uuid.UUID, d *Delivery) (int64, error) {
	tag, err := o.pool.Exec(ctx, outboxDeliveredSQL, ids, lease, d.ID, d.Status, storable(d.Answer))
	if err == nil {
		_, err = o.pool.Exec(ctx, outboxWellSQL, hook)
	}
	return tag.RowsAffected(), err
}

const outboxFailedSQL = `
update public.soniq_hook_deliveries d
set state = case when $6 then 'failed' else 'pending' end,
  last_status = nullif($3, 0),
  last_answer = $4,
  last_error = $5,
  lease = null,
  attempts = d.attempts - case when $8 then 1 else 0 end,
  next_attempt_at = clock_timestamp() + $7::float8 * interval '1 second'
where d.id = any ($1)
  and d.lease = $2
  and d.state = 'pending'`

// failed marks rows that we still hold as to be tried again in wait or, where
// final, never. refund says that the attempt is not charged.
func (o outbox) failed(ctx context.Context, lease uuid.UUID, ids []uuid.UUID, d *Delivery, why string, final bool, wait time.Duration, refund bool) error {
	_, err := o.pool.Exec(ctx, outboxFailedSQL, ids, lease, d.Status, storable(d.Answer), storable(why), final, wait.Seconds(), refund)
	return err
}

// The breaker: from the fifth failure in a row the hook is left alone for a
// minute, then twice as long each time, up to an hour.
const outboxUnwellSQL = `
update public.soniq_hooks
set failures = failures + case when $4 then 1 else 0 end,
  failing_since = coalesce(failing_since, clock_timestamp()),
  sender = null,
  blocked_until = greatest(
    clock_timestamp() + $2::float8 * interval '1 second',
    case when $4 and failures + 1 >= 5
      then clock_timestamp() + least(interval '1 hour', interval '1 minute' * power(2, least(failures - 4, 10)))
    end),
  enabled = enabled and not $3 and coalesce(failing_since > clock_timestamp() - interval '120 hours', true),
  disabled_reason = case
    when $3 then 'its endpoint answered 410: gone'
    when failing_since <= clock_timestamp() - interval '120 hours' then 'it failed for five days'
  end
where id = $1
  and enabled
returning enabled, failures, coalesce(disabled_reason, '')`

// unwell notes that the hook failed, which may disable it. Where it only asked
// for a pause, that doesn't count for the breaker.
func (o outbox) unwell(ctx context.Context, hook uuid.UUID, pause time.Duration, gone, counts bool) (enabled bool, failures int, reason string, err error) {
	err = o.pool.QueryRow(ctx, outboxUnwellSQL, hook, pause.Seconds(), gone, counts).Scan(&enabled, &failures, &reason)
	if errors.Is(err, pgx.ErrNoRows) {
		return true, 0, "", nil // somebody else's news
	}
	return enabled, failures, reason, err
}

const outboxReleaseSQL = `
update public.soniq_hook_deliveries
set lease = null,
  attempts = attempts - 1,
  next_attempt_at = clock_timestamp()
where id = any ($1)
  and lease = $2
  and state = 'pending'`

// release gives rows back that were not sent.
func (o outbox) release(ctx context.Context, lease uuid.UUID, ids []uuid.UUID) error {
	_, err := o.pool.Exec(ctx, outboxReleaseSQL, ids, lease)
	return err
}

const outboxSenderSQL = `
update public.soniq_hooks
set sender = $2,
  blocked_until = clock_timestamp() + $3::float8 * interval '1 second'
where id = $1
  and enabled
  and (blocked_until is null or blocked_until <= clock_timestamp())`

// become makes this lease the only sender of a hook's digests for d.
func (o outbox) become(ctx context.Context, hook, lease uuid.UUID, d time.Duration) (bool, error) {
	tag, err := o.pool.Exec(ctx, outboxSenderSQL, hook, lease, d.Seconds())
	return tag.RowsAffected() == 1, err
}

// Five messages a minute come a second apart, which is what Slack takes; more
// come every 20 s, as digests of all that has come together.
const outboxResignSQL = `
update public.soniq_hooks
set sender = null,
  blocked_until = case
    when not $3 then least(blocked_until, clock_timestamp())
    when burst_at > clock_timestamp() - interval '1 minute' and burst >= 4
      then clock_timestamp() + interval '20 seconds'
    else clock_timestamp() + interval '1 second'
  end,
  burst = case
    when not $3 then burst
    when burst_at > clock_timestamp() - interval '1 minute' then burst + 1
    else 1
  end,
  burst_at = case
    when $3 and coalesce(burst_at <= clock_timestamp() - interval '1 minute', true) then clock_timestamp()
    else burst_at
  end
where id = $1
  and sender = $2`

// resign ends that, and sets the pace if a message was sent.
func (o outbox) resign(ctx context.Context, hook, lease uuid.UUID, sent bool) error {
	_, err := o.pool.Exec(ctx, outboxResignSQL, hook, lease, sent)
	return err
}

const outboxHeldSQL = `
select h.group_key, extract(epoch from h.until - clock_timestamp())::float8
from (
  select g.group_key, least(g.sent_at, clock_timestamp()) + least(g.hold, interval '1 hour') as until
  from public.soniq_hook_groups g
  where g.hook_id = $1
    and g.group_key = any ($2)
    and isfinite(g.sent_at)
) h
where h.until > clock_timestamp()`

// held are the groups that were told of lately, and how long they must wait.
func (o outbox) held(ctx context.Context, hook uuid.UUID, groups []string) (map[string]time.Duration, error) {
	rows, _ := o.pool.Query(ctx, outboxHeldSQL, hook, groups)
	held := map[string]time.Duration{}
	var key string
	var seconds float64
	_, err := pgx.ForEachRow(rows, []any{&key, &seconds}, func() error {
		held[key] = time.Duration(seconds * float64(time.Second))
		return nil
	})
	return held, err
}

// A group waits $3 after its first message, and twice as long after each digest
// that had something to tell, up to an hour. One that was quiet for that long
// and a quarter of an hour begins anew.
const outboxToldSQL = `
insert into public.soniq_hook_groups as g (hook_id, group_key, sent_at, hold)
select $1, key, clock_timestamp(), $3::float8 * interval '1 second'
from unnest($2::text[]) key
on conflict (hook_id, group_key) do update
set sent_at = clock_timestamp(),
  hold = case
    when g.sent_at + g.hold < clock_timestamp() - interval '15 minutes' then excluded.hold
    else least(g.hold * 2, interval '1 hour')
  end`

func (o outbox) told(ctx context.Context, hook uuid.UUID, groups []string, hold time.Duration) error {
	_, err := o.pool.Exec(ctx, outboxToldSQL, hook, groups, hold.Seconds())
	return err
}

const outboxHoldSQL = `
update public.soniq_hook_deliveries d
set lease = null,
  attempts = attempts - 1,
  next_attempt_at = clock_timestamp() + $3::float8 * interval '1 second'
where d.id = any ($1)
  and d.lease = $2
  and d.state = 'pending'`

// hold puts rows off until their group's digest is due.
func (o outbox) hold(ctx context.Context, lease uuid.UUID, ids []uuid.UUID, wait time.Duration) error {
	_, err := o.pool.Exec(ctx, outboxHoldSQL, ids, lease, wait.Seconds())
	return err
}

const outboxStillDeclaredSQL = `
update public.soniq_hooks
set declared_at = clock_timestamp()
where name = any ($1)
  and declared_at is not null`

// A week is longer than a program is away that comes back.
const outboxUndeclaredSQL = `
with removed as (
  delete from public.soniq_hooks
  where declared_at < clock_timestamp() - interval '7 days'
  returning id, name
), groups as (
  delete from public.soniq_hook_groups
  where hook_id in (select id from removed)
), deliveries as (
  delete from public.soniq_hook_deliveries
  where hook_id in (select id from removed)
)
select name from removed`

// declared says that these hooks still stand in a configuration, and removes
// those that have stood in none for a week. It returns their names.
func (o outbox) declared(ctx context.Context, names []string) (removed []string, err error) {
	if len(names) > 0 {
		if _, err := o.pool.Exec(ctx, outboxStillDeclaredSQL, names); err != nil {
			return nil, err
		}
	}
	rows, _ := o.pool.Query(ctx, outboxUndeclaredSQL)
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// event reads what happened: the dead letter as it is now, or what is known of
// it.
func (o outbox) event(ctx context.Context, c claimed) (Event, error) {
	e := Event{Type: c.Event, At: c.At.UTC()}
	letter, err := o.letters.Get(ctx, c.Letter)
	if err == nil {
		e.Letter = letter
		return e, nil
	}
	if !errors.Is(err, deadletter.ErrNotFound) {
		return e, fmt.Errorf("read the dead letter: %w", err)
	}
	facts, err := deadletter.ParseEvent(string(c.Facts))
	if err != nil {
		// Not written by the trigger: there is still the id.
		facts = deadletter.Event{ID: c.Letter, MovedAt: c.At}
	}
	e.Gone = true
	e.Letter = deadletter.Job{
		ID: facts.ID, JobName: facts.JobName, Queue: facts.Queue, Reason: facts.Reason, Attempts: facts.Attempts,
		ErrorKind: facts.Kind, Fingerprint: facts.Fingerprint, MovedAt: facts.MovedAt, ReplayOf: facts.ReplayOf,
	}
	return e, nil
}
