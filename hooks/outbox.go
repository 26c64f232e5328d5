package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/byindex"
	"soniq/internal/pg"
)

// outbox has the statements of a dispatcher.
type outbox struct {
	pool    *pg.Pool
	letters *deadletter.Queue
	// clock watches the database's.
	clock *pg.Clock
}

// trustsLeases reports whether an expired lease is one: a database's clock that was set
// forward ends every lease at once, and what another dispatcher is sending would be sent
// twice. After a step nobody's lease is taken until it has passed by our own clock.
func (o outbox) trustsLeases() bool { return o.clock.Steady(leaseTime) }

// newOutbox returns the outbox in a schema.
//
// Errors: [pg.ErrSchemaName].
func newOutbox(pool *pgxpool.Pool, name string) (o outbox, err error) {
	schema, err := pg.NewSchema(name)
	if err != nil {
		return o, err
	}
	letters, err := deadletter.NewQueue(pool, deadletter.QueueConfig{Schema: name})
	return outbox{schema.Pool(pool), letters, &pg.Clock{}}, err
}

// dueHook is an enabled hook with something to send.
type dueHook struct {
	ID       uuid.UUID
	Name     string
	Kind     Kind
	URL      string
	Secrets  string
	Settings json.RawMessage
	Failures int
	// Declared: a configuration has it. Only dispatchers that declare it send to it.
	Declared bool
	// Unavailable is why its deliveries wait, as some dispatcher recorded.
	Unavailable string
	// Due is the time until it is due: 0 or less for now.
	Due time.Duration
	// Server is when the server was started, which read it.
	Server time.Time
}

// Without hooks it reads one empty table, and returns a row with the time alone. Times
// are cut to a day from now: they may be infinite. A row that is too large, which SQL can
// write, comes without settings. Parameter: $5 whether expired leases count.
const outboxDueSQL = `
select clock_timestamp(), due.*
from (select) always
left join lateral (
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
    clock_timestamp() + interval '1 day') - clock_timestamp())::float8,
  pg_postmaster_start_time()
from public.soniq_hooks h
cross join lateral (
  select d.next_attempt_at
  from public.soniq_hook_deliveries d
  where d.hook_id = h.id
    and d.state = 'pending'
    and (d.lease is null or $5::boolean or d.next_attempt_at > clock_timestamp())
  order by d.next_attempt_at
  limit 1
) d
where h.enabled
  and case
    when h.declared_at is not null then h.name = any ($3)
    when h.kind = 'go' then h.name = any ($2)
    else h.kind = any ($1)
  end
) due on true`

// due returns the hooks of these kinds, the program's own ones and the declared ones
// that have something to send, and by how much the database's clock was set since the
// last call.
func (o outbox) due(ctx context.Context, kinds []Kind, own, declared []string) (due []dueHook, step time.Duration, err error) {
	clocked := false
	sent, trusted := time.Now(), o.trustsLeases()
	rows, err := o.pool.Query(ctx, outboxDueSQL, kinds, own, declared, maxRow, trusted)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var at time.Time
		var id *uuid.UUID
		var name, url, secrets, unavailable pgtype.Text
		var kind *Kind
		var settings json.RawMessage
		var failures pgtype.Int4
		var declared pgtype.Bool
		var seconds pgtype.Float8
		var server pgtype.Timestamptz
		if err := rows.Scan(&at, &id, &name, &kind, &url, &secrets, &settings, &failures, &declared, &unavailable, &seconds, &server); err != nil {
			return nil, 0, err
		}
		if !clocked {
			step, clocked = o.clock.Note(at, sent, time.Now()), true
		}
		if id != nil {
			due = append(due, dueHook{
				ID: *id, Name: name.String, Kind: *kind, URL: url.String, Secrets: secrets.String, Settings: settings,
				Failures: int(failures.Int32), Declared: declared.Bool, Unavailable: unavailable.String,
				Due: time.Duration(seconds.Float64 * float64(time.Second)), Server: server.Time,
			})
		}
	}
	return due, step, rows.Err()
}

const outboxUnavailableSQL = `
update public.soniq_hooks
set lacks = nullif($2, ''),
  lacks_at = case when $2 <> '' then clock_timestamp() end
where id = $1`

// recordUnavailable records why a hook's deliveries wait. Empty: they don't.
func (o outbox) recordUnavailable(ctx context.Context, hook uuid.UUID, reason string) error {
	_, err := o.pool.Exec(ctx, outboxUnavailableSQL, hook, storable(reason))
	return err
}

// claimed is a row under our lease.
type claimed struct {
	ID       uuid.UUID
	Event    EventType
	Letter   uuid.UUID
	Facts    json.RawMessage
	Group    string
	At       time.Time
	Attempts int
}

// The oldest come first.
var outboxClaimSQL = `
with picked as (
  select d.id
  from public.soniq_hook_deliveries d
  where d.hook_id = $1
    and d.state = 'pending'
    and d.next_attempt_at <= clock_timestamp() + $5::float8 * interval '1 second'
    and (d.lease is null or $6::boolean)
    and pg_postmaster_start_time() = $7
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

// claim leases up to limit rows for d: those that are due, or will be within ahead. A
// row is due again when its lease expires. It takes none on another server than the one that the hook was
// read on, which may be a copy.
func (o outbox) claim(ctx context.Context, h dueHook, lease uuid.UUID, limit int, d, ahead time.Duration) ([]claimed, error) {
	return byindex.Collect(ctx, o.pool, pgx.RowToStructByPos[claimed], outboxClaimSQL, h.ID, lease, limit, d.Seconds(), ahead.Seconds(), o.trustsLeases(), h.Server)
}

// What a clock that was set back by $1 seconds since has put off becomes due by as much
// earlier: what waits, and leases that end later than any can. A delivery that was made in
// the future is due now. With 0 seconds only that.
const outboxAheadSQL = `
with ahead as (
  update public.soniq_hook_deliveries d
  set next_attempt_at = case
    when d.created_at > clock_timestamp() then clock_timestamp()
    else greatest(d.next_attempt_at - $1::float8 * interval '1 second', clock_timestamp())
  end
  where d.state = 'pending'
    and isfinite(d.next_attempt_at)
    and d.next_attempt_at > clock_timestamp() + interval '1 second'
    and (
      d.lease is null and (d.created_at > clock_timestamp() + interval '1 second' or $1::float8 > 0)
      or $1::float8 > 0 and d.next_attempt_at > clock_timestamp() + $2::float8 * interval '1 second'
    )
)
update public.soniq_hooks
set blocked_until = greatest(blocked_until - $1::float8 * interval '1 second', clock_timestamp())
where $1::float8 > 0
  and isfinite(blocked_until)
  and blocked_until > clock_timestamp()`

// The tasks of clockBack, after a step and at the start.
const (
	backTask   = "deliveries after a step of the clock"
	futureTask = "deliveries from the future"
)

// clockBack mends what a clock that was set back by step has put off: one dispatcher of
// all that see the step takes the turn of task. With 0 it looks for what was put off
// before it began.
func (o outbox) clockBack(ctx context.Context, task string, step time.Duration) error {
	leads, err := pg.TakeTurn(ctx, o.pool, task, clockTurn)
	if err == nil && leads {
		_, err = o.pool.Exec(ctx, outboxAheadSQL, step.Seconds(), leaseTime.Seconds())
	}
	return err
}

// The outcomes find their rows by their ids. The sub-select hides from the planner that the
// index of pending rows has them: after a storm it takes that for empty.
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
  and d.state = (select 'pending')`

const outboxSuccessSQL = `
update public.soniq_hooks
set failures = 0,
  failing_since = null,
  last_failed_at = null,
  blocked_until = case when sender is null then null else blocked_until end
where id = $1
  and (failures > 0 or failing_since is not null)`

// delivered marks the rows whose lease we still have, and returns how many.
func (o outbox) delivered(ctx context.Context, hook, lease uuid.UUID, ids []uuid.UUID, d *Delivery) (int64, error) {
	tag, err := byindex.Exec(ctx, o.pool, outboxDeliveredSQL, ids, lease, d.ID, d.Status, storable(d.Answer))
	if err == nil {
		_, err = o.pool.Exec(ctx, outboxSuccessSQL, hook)
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
  and d.state = (select 'pending')`

// failed marks the rows whose lease we still have, and returns how many. They are tried
// again after wait; final: never. refund: the attempt is not charged.
func (o outbox) failed(ctx context.Context, lease uuid.UUID, ids []uuid.UUID, d *Delivery, reason string, final bool, wait time.Duration, refund bool) (int64, error) {
	tag, err := byindex.Exec(ctx, o.pool, outboxFailedSQL, ids, lease, d.Status, storable(d.Answer), storable(reason), final, wait.Seconds(), refund)
	return tag.RowsAffected(), err
}

var outboxHealthSQL = `
select failures, ` + pg.BoundedTime("failing_since") + `, ` + pg.BoundedTime("last_failed_at") + `, clock_timestamp()
from public.soniq_hooks
where id = $1
  and enabled
for update`

// $1 the hook, $2 to $4 its health, $5 for how many seconds nothing is sent, $6 why it is
// disabled, or empty.
const outboxFailureSQL = `
update public.soniq_hooks
set failures = $2,
  failing_since = $3,
  last_failed_at = $4,
  sender = null,
  blocked_until = clock_timestamp() + $5::float8 * interval '1 second',
  enabled = $6 = '',
  disabled_reason = nullif($6, '')
where id = $1`

// recordFailure records that the hook failed, and returns its failures in a row and why
// it is disabled, if it is. pause is how long the receiver asks not to be called; gone
// disables the hook; counts: it is a failure, and not just a request for a pause.
func (o outbox) recordFailure(ctx context.Context, hook uuid.UUID, pause time.Duration, gone, counts bool) (failures int, disabled string, err error) {
	err = pg.InTxWith(ctx, o.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		var h health
		var since, last *time.Time
		var now time.Time
		if err := tx.QueryRow(ctx, outboxHealthSQL, hook).Scan(&h.failures, &since, &last, &now); err != nil {
			return err
		}
		h.since, h.last = timeOf(since), timeOf(last)
		if counts {
			h = h.failed(now)
			pause = max(pause, h.pause())
		}
		switch {
		case gone:
			disabled = "its endpoint answered 410: gone"
		case counts && h.isDead():
			disabled = "it failed for five days"
		}
		failures = h.failures
		_, err := tx.Exec(ctx, outboxFailureSQL, hook, h.failures, timeOrNull(h.since), timeOrNull(h.last), pause.Seconds(), disabled)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, "", nil // another dispatcher has disabled it, and logged it
	}
	return failures, disabled, err
}

// timeOf is the time at t, or the zero time.
func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// timeOrNull is t, or nil for the zero time.
func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

const outboxPostponeSQL = `
update public.soniq_hook_deliveries d
set lease = null,
  attempts = attempts - 1,
  next_attempt_at = clock_timestamp() + $3::float8 * interval '1 second'
where d.id = any ($1)
  and d.lease = $2
  and d.state = (select 'pending')`

// postpone gives up the lease of rows that were not sent. They are due after delay.
func (o outbox) postpone(ctx context.Context, lease uuid.UUID, ids []uuid.UUID, delay time.Duration) error {
	_, err := byindex.Exec(ctx, o.pool, outboxPostponeSQL, ids, lease, delay.Seconds())
	return err
}

// release is postpone without a delay.
func (o outbox) release(ctx context.Context, lease uuid.UUID, ids []uuid.UUID) error {
	return o.postpone(ctx, lease, ids, 0)
}

const outboxSenderSQL = `
update public.soniq_hooks
set sender = $2,
  blocked_until = clock_timestamp() + $3::float8 * interval '1 second'
where id = $1
  and enabled
  and (blocked_until is null or blocked_until <= clock_timestamp())`

// acquireSender makes lease the only sender of a hook's digests for d. It reports
// whether no other dispatcher was.
func (o outbox) acquireSender(ctx context.Context, hook, lease uuid.UUID, d time.Duration) (bool, error) {
	tag, err := o.pool.Exec(ctx, outboxSenderSQL, hook, lease, d.Seconds())
	return tag.RowsAffected() == 1, err
}

// Five messages a minute may be a second apart, which is what Slack takes. Further ones
// are 20 s apart, each with all that has gathered.
const outboxReleaseSenderSQL = `
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

// releaseSender ends that. If a message was sent, it sets when the next one may be.
func (o outbox) releaseSender(ctx context.Context, hook, lease uuid.UUID, sent bool) error {
	_, err := o.pool.Exec(ctx, outboxReleaseSenderSQL, hook, lease, sent)
	return err
}

const outboxDelaysSQL = `
select h.group_key, extract(epoch from h.until - clock_timestamp())::float8
from (
  select g.group_key, least(g.sent_at, clock_timestamp()) + least(g.hold, interval '1 hour') as until
  from public.soniq_hook_groups g
  where g.hook_id = $1
    and g.group_key = any ($2)
    and isfinite(g.sent_at)
) h
where h.until > clock_timestamp()`

// groupDelays returns, for groups that had a message lately, the time until their next
// one.
func (o outbox) groupDelays(ctx context.Context, hook uuid.UUID, groups []string) (map[string]time.Duration, error) {
	rows, _ := o.pool.Query(ctx, outboxDelaysSQL, hook, groups)
	delays := map[string]time.Duration{}
	var key string
	var seconds float64
	_, err := pgx.ForEachRow(rows, []any{&key, &seconds}, func() error {
		delays[key] = time.Duration(seconds * float64(time.Second))
		return nil
	})
	return delays, err
}

// A group waits $3 after its first message, and twice as long after each digest, up to
// an hour. A group without events for that long and a quarter of an hour begins anew.
const outboxDigestSQL = `
insert into public.soniq_hook_groups as g (hook_id, group_key, sent_at, hold)
select $1, key, clock_timestamp(), $3::float8 * interval '1 second'
from unnest($2::text[]) key
on conflict (hook_id, group_key) do update
set sent_at = clock_timestamp(),
  hold = case
    when g.sent_at + g.hold < clock_timestamp() - interval '15 minutes' then excluded.hold
    else least(g.hold * 2, interval '1 hour')
  end`

// recordDigest records that the groups had a message. firstDelay is the delay until the
// first digest.
func (o outbox) recordDigest(ctx context.Context, hook uuid.UUID, groups []string, firstDelay time.Duration) error {
	_, err := o.pool.Exec(ctx, outboxDigestSQL, hook, groups, firstDelay.Seconds())
	return err
}

const outboxStillDeclaredSQL = `
update public.soniq_hooks
set declared_at = clock_timestamp()
where name = any ($1)
  and declared_at is not null`

// A program that comes back is rarely away for longer than a week.
const outboxUndeclaredSQL = `
with removed as (
  delete from public.soniq_hooks
  where declared_at < clock_timestamp() - interval '7 days'
  returning id, name
), ` + removeRestSQL + `
select name from removed`

// renewDeclared records that a configuration still has these hooks. It removes those
// that none has had for a week, and returns their names.
func (o outbox) renewDeclared(ctx context.Context, names []string) (removed []string, err error) {
	if len(names) > 0 {
		if _, err := o.pool.Exec(ctx, outboxStillDeclaredSQL, names); err != nil {
			return nil, err
		}
	}
	rows, _ := o.pool.Query(ctx, outboxUndeclaredSQL)
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// summary is the event without reading its dead letter: the outbox row holds what the
// notification of the death had.
func (c claimed) summary() Event {
	facts, err := deadletter.ParseEvent(string(c.Facts))
	if err != nil {
		// The trigger has not written it. There is still the id.
		facts = deadletter.Event{ID: c.Letter, MovedAt: c.At}
	}
	return Event{Type: c.Event, At: c.At.UTC(), Letter: deadletter.Job{
		ID: facts.ID, JobName: facts.JobName, Queue: facts.Queue, Reason: facts.Reason, Attempts: facts.Attempts,
		ErrorKind: facts.Kind, Fingerprint: facts.Fingerprint, MovedAt: facts.MovedAt, ReplayOf: facts.ReplayOf,
	}}
}

// event is the event with its dead letter as it is now. If that was deleted, it is the
// summary, marked as Gone.
func (o outbox) event(ctx context.Context, c claimed) (Event, error) {
	letter, err := o.letters.Get(ctx, c.Letter)
	switch {
	case err == nil:
		return Event{Type: c.Event, At: c.At.UTC(), Letter: letter}, nil
	case errors.Is(err, deadletter.ErrNotFound):
		e := c.summary()
		e.Gone = true
		return e, nil
	default:
		return Event{}, fmt.Errorf("read the dead letter: %w", err)
	}
}
