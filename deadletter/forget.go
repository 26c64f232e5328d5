package deadletter

import (
	"context"
	"fmt"
	"time"
)

const (
	// HistoryKept is how long what was done to dead letters is remembered: the
	// records of History, and operations.
	HistoryKept = 365 * 24 * time.Hour
	// ResumableFor is how long a replay that was stopped, or whose process was
	// killed, can be resumed.
	ResumableFor = 30 * 24 * time.Hour

	forgetBatch = 1000
	// forgetBatches bounds one call; the next one goes on.
	forgetBatches = 100
)

// Without its options a replay can't be resumed, and its selection is no use.
// $1 the lock, $2 the batch, $3 the age.
const giveUpReplaysSQL = `
with leader as materialized (
  select pg_try_advisory_xact_lock($1) as elected
)
update soniq_dead_letter_operations
set
  state = 'stopped',
  stopped_by = coalesce(stopped_by, 'interrupted'),
  options = null
where id in (
  select o.id
  from soniq_dead_letter_operations o
  where (select elected from leader)
    and o.options is not null
    and o.state <> 'done'
    and o.updated_at < now() - $3::interval
  limit $2
  for update skip locked
)`

// $1 the lock, $2 the batch.
const forgetSelectionsSQL = `
with leader as materialized (
  select pg_try_advisory_xact_lock($1) as elected
), given_up as (
  select s.operation_id, s.place
  from soniq_dead_letter_operations o
  cross join lateral (
    select p.operation_id, p.place
    from soniq_dead_letter_selections p
    where p.operation_id = o.id
    limit $2
  ) s
  where (select elected from leader)
    and o.options is null
  limit $2
)
delete from soniq_dead_letter_selections s
using given_up
where s.operation_id = given_up.operation_id
  and s.place = given_up.place`

// Records are numbered about in the order of time: where the first ones are
// not old, none is, and no more are read. $1 the lock, $2 the batch, $3 the age.
const forgetRecordsSQL = `
with leader as materialized (
  select pg_try_advisory_xact_lock($1) as elected
), eldest as materialized (
  select r.id, r.at
  from soniq_dead_letter_audit r
  where (select elected from leader)
  order by r.id
  limit $2
)
delete from soniq_dead_letter_audit r
using eldest
where r.id = eldest.id
  and eldest.at < now() - $3::interval`

// One that goes on, however slowly, has been updated lately. What it selected
// goes with it. $1 the lock, $2 the batch, $3 the age.
const forgetOperationsSQL = `
with leader as materialized (
  select pg_try_advisory_xact_lock($1) as elected
)
delete from soniq_dead_letter_operations
where id in (
  select o.id
  from soniq_dead_letter_operations o
  where (select elected from leader)
    and o.created_at < now() - $3::interval
    and o.updated_at < now() - $3::interval
  order by o.created_at
  limit $2
  for update skip locked
)`

// Forget deletes what was done to dead letters more than HistoryKept ago, gives
// up replays that nobody resumed for ResumableFor, and takes the secrets out of
// what 0.1.0 recorded of replays that are done. It goes in small
// batches, each under lock, an advisory lock of the transaction that must be
// free; 0 is a lock like any other. What one call leaves, the next one takes.
func (q *Queue) Forget(ctx context.Context, lock int64) error {
	for _, f := range []struct {
		what, sql string
		args      []any
	}{
		{"replays", giveUpReplaysSQL, []any{lock, forgetBatch, ResumableFor}},
		{"selections", forgetSelectionsSQL, []any{lock, forgetBatch}},
		{"records", forgetRecordsSQL, []any{lock, forgetBatch, HistoryKept}},
		{"operations", forgetOperationsSQL, []any{lock, forgetBatch, HistoryKept}},
	} {
		for range forgetBatches {
			tag, err := q.pool.Exec(ctx, f.sql, f.args...)
			if err != nil {
				return fmt.Errorf("forget old %s: %w", f.what, err)
			}
			if tag.RowsAffected() < forgetBatch {
				break
			}
		}
	}
	return q.mend(ctx, lock)
}
