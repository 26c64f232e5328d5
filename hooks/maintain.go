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

	"soniq/internal/pg"
)

const (
	// pruneEvery is how often old rows are deleted.
	pruneEvery = time.Hour
	// boundEvery is how often all dispatchers together look whether too many
	// deliveries wait.
	boundEvery = time.Minute
	// boundTask is the name of that task in soniq_leader_tasks.
	boundTask = "hooks.bound"
	// maintainBatch bounds each statement. 5,000 rows take some 50 ms.
	maintainBatch = 5000
	// defaultPending is the default of Config.MaxPending: 60 MB of rows.
	defaultPending = 100_000
	// allPending times Config.MaxPending is the limit over all hooks.
	allPending = 10
	// maintainLock is the advisory lock of the dispatcher that deletes: 'soniq:hk'.
	// Dispatchers of 0.1.0 take it too.
	maintainLock int64 = 0x736f6e69713a686b
)

// maintain deletes old rows once an hour. Once a minute, while deliveries wait or are
// announced, which activity says, it drops those beyond the limits. It returns when ctx
// ends.
func (d *Dispatcher) maintain(ctx context.Context, activity <-chan struct{}) {
	prune := time.NewTimer(0)
	defer prune.Stop()
	declared := time.NewTicker(renewEvery)
	defer declared.Stop()
	bounded := time.Time{}
	failing := false
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-prune.C:
			err = errors.Join(d.prune(ctx), d.outbox.clockBack(ctx, futureTask, 0))
			prune.Reset(pruneEvery)
		case <-declared.C:
			err = d.renew(ctx)
		case <-activity:
			if time.Since(bounded) < boundEvery {
				continue
			}
			err = d.bound(ctx, bounded.IsZero())
			bounded = time.Now()
		}
		if err != nil && !failing && ctx.Err() == nil {
			d.log.Warn("deleting old hook deliveries failed; retrying later", "error", err)
		}
		failing = err != nil
	}
}

// prune deletes what is too old: hooks that no configuration has, and rows.
func (d *Dispatcher) prune(ctx context.Context) error {
	d.mu.Lock()
	declared := slices.Collect(maps.Keys(d.declared))
	d.mu.Unlock()
	removed, err := d.outbox.renewDeclared(ctx, declared)
	for _, name := range removed {
		d.log.Warn("a hook was removed: no configuration has had it for a week", "hook", name)
	}
	return errors.Join(err, d.outbox.prune(ctx))
}

// outboxPickSQL begins the choice of the rows that a statement of outboxPruneSQL changes.
const outboxPickSQL = `
where id in (
  select d.id
  from public.soniq_hook_deliveries d
  where ` + pg.IsLeader

// outboxBatchSQL ends it.
const outboxBatchSQL = `
  limit $2
  for update skip locked
)`

// How long rows are kept: delivered ones a week, failed ones a month after the last
// attempt. A row that nobody has sent for a month fails. Rows of a removed hook are
// deleted at once. A group of digests is forgotten when it would begin anew: an hour,
// its longest delay, and a quarter of an hour after its last message. Each statement
// runs until it finds no more. Parameters: $1 the lock, $2 the batch.
var outboxPruneSQL = []string{
	pg.Leader + `
update public.soniq_hook_deliveries
set state = 'failed',
  lease = null,
  last_error = 'nobody has sent it for 30 days' || coalesce('; the last error: ' || ` + pg.BoundedText("last_error", 1500) + `, ''),
  next_attempt_at = clock_timestamp()` + outboxPickSQL + `
    and d.state = 'pending'
    and d.next_attempt_at < now() - interval '30 days'
    and exists (select from public.soniq_hooks h where h.id = d.hook_id)` + outboxBatchSQL,
	pg.Leader + `
delete from public.soniq_hook_deliveries` + outboxPickSQL + `
    and d.created_at < now() - interval '7 days'
    and (
      d.state = 'delivered'
      or d.state = 'failed' and greatest(d.created_at, d.next_attempt_at) < now() - interval '30 days'
    )
  order by d.created_at` + outboxBatchSQL,
	pg.Leader + `
delete from public.soniq_hook_deliveries` + outboxPickSQL + `
    and not exists (select from public.soniq_hooks h where h.id = d.hook_id)` + outboxBatchSQL,
	pg.Leader + `
delete from public.soniq_hook_groups
where (hook_id, group_key) in (
  select g.hook_id, g.group_key
  from public.soniq_hook_groups g
  where ` + pg.IsLeader + `
    and g.sent_at < now() - interval '75 minutes'` + outboxBatchSQL,
}

// prune deletes all that is too old, in batches. While another dispatcher does, it
// does nothing.
func (o outbox) prune(ctx context.Context) error {
	for _, sql := range outboxPruneSQL {
		for {
			tag, err := o.pool.Exec(ctx, sql, o.maintainLock(), maintainBatch)
			if err != nil {
				return fmt.Errorf("prune deliveries: %w", err)
			}
			if tag.RowsAffected() < maintainBatch {
				break
			}
		}
	}
	return nil
}

func (o outbox) maintainLock() int64 { return o.pool.Schema().LockKey(maintainLock) }

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

// backlog is how many deliveries wait for a hook.
type backlog struct {
	hook uuid.UUID
	name string
	n    int
}

// pending counts the deliveries that wait, up to limit for each hook.
func (o outbox) pending(ctx context.Context, limit int) ([]backlog, error) {
	rows, _ := o.pool.Query(ctx, outboxPendingSQL, limit)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (b backlog, err error) {
		err = row.Scan(&b.hook, &b.name, &b.n)
		return b, err
	})
}

// What was due first is dropped first. Of a hook that nobody can send to, that is the
// oldest. What is being sent stays. Parameters: $1 the lock, $2 the hook, $3 how many
// to keep, $4 the batch.
const outboxDropSQL = pg.Leader + `, extra as materialized (
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
    where ` + pg.IsLeader + `
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

// drop deletes the oldest deliveries of a hook beyond keep, and returns how many.
func (o outbox) drop(ctx context.Context, hook uuid.UUID, keep int) (total int64, err error) {
	for {
		var n int64
		err := o.pool.QueryRow(ctx, outboxDropSQL, o.maintainLock(), hook, keep, maintainBatch).Scan(&n)
		if errors.Is(err, pgx.ErrNoRows) {
			err = nil
		}
		if err != nil {
			return total, fmt.Errorf("drop deliveries: %w", err)
		}
		if total += n; n < maintainBatch {
			return total, nil
		}
	}
}

// bound drops the deliveries that are beyond the limits of one hook and of all. One
// dispatcher of all does so in each boundEvery; with first, this one does so anyway.
func (d *Dispatcher) bound(ctx context.Context, first bool) error {
	ours, err := pg.TakeTurn(ctx, d.outbox.pool, boundTask, boundEvery)
	if err != nil || !ours && !first {
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

// share returns how many deliveries each hook may keep: at most each, and so few that
// all hooks together keep at most all. Hooks that have fewer leave the rest to the
// others.
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
