package pg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// MaintenanceLock is the key of the advisory lock under which old rows are
// deleted. It is Python Soniq's: blake2b-64 of
// 'soniq.leadership.v1/soniq.maintenance' as a signed big-endian integer. Python
// holds it for a session and Go for a transaction, so they exclude each other.
// Pass it through [Schema.LockKey].
const MaintenanceLock int64 = 4325948971829913621

// Leader begins a statement that only one session runs at a time. Parameter $1 is
// the key of an advisory lock, which the statement's transaction holds; 0 takes no
// lock. Add [IsLeader] to the statement's conditions. The lock is tried once, before
// any row is read.
const Leader = `
with leader as materialized (
  select case when $1::bigint = 0 then true else pg_try_advisory_xact_lock($1) end as elected
)`

// IsLeader is true in a statement that begins with [Leader] if it has the lock.
const IsLeader = `(select elected from leader)`

// A task that is not due writes nothing: each worker reads one row. The upper bounds
// keep a clock that was set back from ending the task. The second condition is checked
// after a wait for the row, which may have got a time after this transaction's now().
// Parameters: $1 name, $2 interval.
const takeTurnSQL = `
insert into public.soniq_leader_tasks (name, begun_at)
select $1, now()
where not exists (
  select from public.soniq_leader_tasks c
  where c.name = $1
    and c.begun_at between now() - $2::interval and now()
)
on conflict (name) do update
set begun_at = excluded.begun_at
where soniq_leader_tasks.begun_at not between clock_timestamp() - $2::interval and clock_timestamp()
returning raised_at is not null`

// TakeTurn reports whether the caller is the leader of this turn of a periodic task
// that one process does for all. Every process asks once in each interval. If the
// leader dies, the task is done in the next turn.
//
// A turn is due after nine tenths of the interval: otherwise a process that asks a
// moment too early would skip a whole interval.
//
// Errors: those of the database.
func TakeTurn(ctx context.Context, q Querier, task string, interval time.Duration) (bool, error) {
	leads, _, err := TakeTurnRaised(ctx, q, task, interval)
	return leads, err
}

// TakeTurnRaised is [TakeTurn] for a task that raises an alarm: raised reports to the leader whether
// it is raised.
//
// Errors: those of the database.
func TakeTurnRaised(ctx context.Context, q Querier, task string, interval time.Duration) (leads, raised bool, err error) {
	err = q.QueryRow(ctx, takeTurnSQL, task, interval-interval/10).Scan(&raised)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, false, nil
	case err != nil:
		return false, false, fmt.Errorf("take the turn of %s: %w", task, err)
	}
	return true, raised, nil
}
