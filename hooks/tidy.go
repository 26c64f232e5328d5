package hooks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const (
	// pruneEvery is how often old rows are deleted.
	pruneEvery = time.Hour
	// boundEvery is how often the fleet looks whether too much waits, while
	// anything does.
	boundEvery = time.Minute
	// tidyBatch bounds each statement: 5,000 rows take some 50 ms.
	tidyBatch = 5000
	// defaultPending is Config.MaxPending's default: 60 MB of rows.
	defaultPending = 100_000
	// allPending is how many times that is the bound over all hooks.
	allPending = 10
	// tidyLock is the advisory lock of who deletes, one at a time: 'soniq:hk'.
	tidyLock int64 = 0x736f6e69713a686b
)

// keepTidy deletes what is too old each hour and, while something waits or
// happens, what is too much each minute, until ctx ends. news tells of that.
func (d *Dispatcher) keepTidy(ctx context.Context, news <-chan struct{}) {
	prune := time.NewTimer(0)
	defer prune.Stop()
	bound := time.Time{}
	failing := false
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-prune.C:
			err = d.tidy(ctx)
			prune.Reset(pruneEvery)
		case <-news:
			if time.Since(bound) < boundEvery {
				continue
			}
			err = d.bound(ctx, bound.IsZero())
			bound = time.Now()
		}
		if err != nil && !failing && ctx.Err() == nil {
			d.log.Warn("can't delete old hook deliveries; trying again later", "error", err)
		}
		failing = err != nil
	}
}

// tidy removes what is too old.
func (d *Dispatcher) tidy(ctx context.Context) error {
	d.mu.Lock()
	declared := slices.Collect(maps.Keys(d.declared))
	d.mu.Unlock()
	removed, err := d.outbox.declared(ctx, declared)
	for _, name := range removed {
		d.log.Warn("a hook was removed: no configuration has had it for a week", "hook", name)
	}
	return errors.Join(err, d.outbox.prune(ctx))
}

// What is kept how long: a delivered row a week; one that failed a month from
// then on; one that is due and that nobody has sent a month, then it fails; one
// whose hook was removed not at all. A group of digests is forgotten once it
// would begin anew: an hour, which is the longest that it holds back, and a
// quarter of one after its last message. Each is run until it finds no more;
// $1 is the lock, $2 the batch.
var outboxPruneSQL = []string{
	`
with leader as materialized (
  select pg_try_advisory_xact_lock($1) as elected
)
update public.soniq_hook_deliveries
set state = 'failed',
  lease = null,
  last_error = 'nobody has sent it for 30 days' || coalesce('; the last error: ' || left(last_error, 1500), ''),
  next_attempt_at = clock_timestamp()
where id in (
  select d.id
  from public.soniq_hook_deliveries d
  where (select elected from leader)
    and d.state = 'pending'
    and d.next_attempt_at < now() - interval '30 days'
    and exists (select from public.soniq_hooks h where h.id = d.hook_id)
  limit $2
  for update skip locked
)`,
	`
with leader as materialized (
  select pg_try_advisory_xact_lock($1) as elected
)
delete from public.soniq_hook_deliveries
where id in (
  select d.id
  from public.soniq_hook_deliveries d
  where (select elected from leader)
    and d.created_at < now() - interval '7 days'
    and (
      d.state = 'delivered'
      or d.state = 'failed' and greatest(d.created_at, d.next_attempt_at) < now() - interval '30 days'
    )
  order by d.created_at
  limit $2
  for update skip locked
)`,
	`
with leader as materialized (
  select pg_try_advisory_xact_lock($1) as elected
)
delete from public.soniq_hook_deliveries
where id in (
  select d.id
  from public.soniq_hook_deliveries d
  where (select elected from leader)
    and not exists (select from public.soniq_hooks h where h.id = d.hook_id)
  limit $2
  for update skip locked
)`,
	`
with leader as materialized (
  select pg_try_advisory_xact_lock($1) as elected
)
delete from public.soniq_hook_groups
where (hook_id, group_key) in (
  select g.hook_id, g.group_key
  from public.soniq_hook_groups g
  where (select elected from leader)
    and g.sent_at < now() - interval '75 minutes'
  limit $2
  for update skip locked
)`,
}

// prune deletes all that is too old, in batches. Where another dispatcher is at
// it, it leaves that to the other.
func (o outbox) prune(ctx context.Context) error {
	for _, sql := range outboxPruneSQL {
		for {
			tag, err := o.pool.Exec(ctx, sql, o.pool.Schema().LockKey(tidyLock), tidyBatch)
			if err != nil {
				return fmt.Errorf("prune deliveries: %w", err)
			}
			if tag.RowsAffected() < tidyBatch {
				break
			}
		}
	}
	return nil
}

// The turn of one dispatcher of the fleet; soniq_leader_tasks has those of workers
// too.
const outboxTurnSQL = `
insert into public.soniq_leader_tasks as c (name, begun_at)
values ('hooks.bound', clock_timestamp())
on conflict (name) do update
set begun_at = excluded.begun_at
where c.begun_at < clock_timestamp() - $1::float8 * interval '1 second'
  or $2
returning true`

// turn reports whether it is this dispatcher's to look; anyway says that it
// looks whoever has.
func (o outbox) turn(ctx context.Context, every time.Duration, anyway bool) (ours bool, err error) {
	err = o.pool.QueryRow(ctx, outboxTurnSQL, every.Seconds(), anyway).Scan(&ours)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return ours, err
}

const outboxPendingSQL = `
select h.id, h.name, b.n
from public.soniq_hooks h
cross join lateral (
  select count(*)::int as n
  from (
    select
    from public.soniq_hook_deliveries d
    where d.hook_id = h.id
      and d.state = 'pending'
    limit $1
  ) waiting
) b
where b.n > 0`

type backlog struct {
	hook uuid.UUID
	name string
	n    int
}

// pending counts what waits, up to limit for each hook.
func (o outbox) pending(ctx context.Context, limit int) ([]backlog, error) {
	rows, _ := o.pool.Query(ctx, outboxPendingSQL, limit)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (b backlog, err error) {
		err = row.Scan(&b.hook, &b.name, &b.n)
		return b, err
	})
}

// What was due first goes first: of a hook that nobody can send to that is the
// oldest. What is being sent stays.
const outboxDropSQL = `
with leader as materialized (
  select pg_try_advisory_xact_lock($1) as elected
), extra as materialized (
  select count(*) - $3::bigint as n
  from (
    select
    from public.soniq_hook_deliveries d
    where d.hook_id = $2
      and d.state = 'pending'
    limit $3::bigint + $4::bigint
  ) waiting
), dropped as (
  delete from public.soniq_hook_deliveries
  where id in (
    select d.id
    from public.soniq_hook_deliveries d
    where (select elected from leader)
      and d.hook_id = $2
      and d.state = 'pending'
      and (d.lease is null or d.next_attempt_at < clock_timestamp())
    order by d.next_attempt_at
    limit (select greatest(n, 0) from extra)
    for update skip locked
  )
  returning id
)
update public.soniq_hooks
set dropped = dropped + (select count(*) from dropped)
where id = $2
  and exists (select from dropped)
returning (select count(*) from dropped)`

// drop deletes what waits for a hook beyond keep, the oldest first, and returns
// how many that were.
func (o outbox) drop(ctx context.Context, hook uuid.UUID, keep int) (total int64, err error) {
	for {
		var n int64
		err := o.pool.QueryRow(ctx, outboxDropSQL, o.pool.Schema().LockKey(tidyLock), hook, keep, tidyBatch).Scan(&n)
		if errors.Is(err, pgx.ErrNoRows) {
			err = nil
		}
		if err != nil {
			return total, fmt.Errorf("drop deliveries: %w", err)
		}
		if total += n; n < tidyBatch {
			return total, nil
		}
	}
}

// bound drops what waits beyond the bounds of one hook and of all.
func (d *Dispatcher) bound(ctx context.Context, first bool) error {
	ours, err := d.outbox.turn(ctx, boundEvery-time.Second, first)
	if err != nil || !ours {
		return err
	}
	waiting, err := d.outbox.pending(ctx, d.maxPending+1)
	if err != nil {
		return fmt.Errorf("count deliveries: %w", err)
	}
	keep := share(waiting, d.maxPending, d.maxPending*allPending)
	for _, b := range waiting {
		if b.n <= keep {
			delete(d.dropping, b.hook)
			continue
		}
		n, err := d.outbox.drop(ctx, b.hook, keep)
		if err != nil {
			return err
		}
		if n > 0 && !d.dropping[b.hook] {
			d.dropping[b.hook] = true
			d.log.Warn("too many deliveries wait for a hook; the oldest are dropped", "hook", b.name, "dropped", n, "kept", keep)
		}
	}
	return nil
}

// share is how many each hook may keep: each at most, and so few that there
// are all at most; those that have less leave the rest to the others.
func share(waiting []backlog, each, all int) int {
	counts := make([]int, len(waiting))
	for i, b := range waiting {
		counts[i] = min(b.n, each)
	}
	slices.Sort(counts)
	for i, n := range counts {
		if others := len(counts) - i; n*others > all {
			return all / others
		}
		all -= n
	}
	return each
}
