package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"soniq/internal/sweep"
)

const (
	// HistoryKept is how long what was done to dead letters is remembered: the
	// records of History, and operations.
	HistoryKept = 365 * 24 * time.Hour
	// ResumableFor is how long a replay that was stopped, or whose process was
	// killed, can be resumed.
	ResumableFor = 30 * 24 * time.Hour

	forgetBatch = 1000
)

// Without its options a replay can't be resumed, and its selection is no use.
// $1 the lock, $2 the batch, $3 the age.
const giveUpReplaysSQL = `
with leader as materialized (
  select case when $1::bigint = 0 then true else pg_try_advisory_xact_lock($1) end as elected
)
update public.soniq_dead_letter_operations
set
  state = case state when 'done' then state else 'stopped' end,
  stopped_by = case state when 'done' then stopped_by else coalesce(stopped_by, 'interrupted') end,
  options = null
where id in (
  select o.id
  from public.soniq_dead_letter_operations o
  where (select elected from leader)
    and o.options is not null
    and o.updated_at < now() - $3::interval
  limit $2
  for update skip locked
)`

// Forget deletes what was done to dead letters more than HistoryKept ago, gives
// up replays that nobody resumed for ResumableFor, with what they had picked, and
// takes the secrets out of what 0.1.0 recorded of replays that are done. It deletes
// all there is of that, in small batches with a pause after each, each under lock,
// an advisory lock of the transaction; 0 is none. Where somebody else has it for
// longer than 2 s, the next call takes what is left.
//
// A row that the database refuses to delete is left, and the error tells of it.
func (q *Queue) Forget(ctx context.Context, lock int64) error {
	var errs []error
	if err := q.giveUpReplays(ctx, lock); err != nil {
		errs = append(errs, fmt.Errorf("give up old replays: %w", err))
	}
	for _, f := range []struct {
		what  string
		table sweep.Table
	}{
		{"selections", sweep.Table{
			Name:  "public.soniq_dead_letter_selections",
			Where: "exists (select from public.soniq_dead_letter_operations o where o.id = r.operation_id and o.options is null)",
		}},
		{"records", sweep.Table{
			Name: "public.soniq_dead_letter_audit", Where: "r.at < now() - $1::interval", Args: []any{HistoryKept},
		}},
		// One that goes on, however slowly, has been updated lately.
		{"operations", sweep.Table{
			Name:  "public.soniq_dead_letter_operations",
			Where: "r.created_at < now() - $1::interval and r.updated_at < now() - $1::interval", Args: []any{HistoryKept},
		}},
	} {
		f.table.Lock = lock
		_, err := sweep.Delete(ctx, q.pool, f.table)
		switch {
		case errors.Is(err, sweep.ErrLocked):
			return errors.Join(errs...)
		case err != nil:
			errs = append(errs, fmt.Errorf("forget old %s: %w", f.what, err))
		}
		if ctx.Err() != nil {
			return errors.Join(errs...)
		}
	}
	return errors.Join(append(errs, q.mend(ctx, lock))...)
}

func (q *Queue) giveUpReplays(ctx context.Context, lock int64) error {
	for {
		tag, err := q.pool.Exec(ctx, giveUpReplaysSQL, lock, forgetBatch, ResumableFor)
		if err != nil || tag.RowsAffected() < forgetBatch {
			return err
		}
	}
}
