package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"soniq/internal/pg"
	"soniq/internal/sweep"
)

const (
	// HistoryKept is how long the history is kept: records and operations.
	HistoryKept = 365 * 24 * time.Hour
	// ResumableFor is how long a bulk replay that was stopped, or whose process was
	// killed, can be resumed.
	ResumableFor = 30 * 24 * time.Hour

	pruneBatch = 1000
)

// Without its options a replay can't be resumed. $1 the lock, $2 the batch, $3 the
// age.
const giveUpReplaysSQL = pg.Leader + `
update public.soniq_dead_letter_operations
set
  state = case state when 'done' then state else 'stopped' end,
  stopped_by = case state when 'done' then stopped_by else coalesce(stopped_by, 'interrupted') end,
  options = null
where id in (
  select o.id
  from public.soniq_dead_letter_operations o
  where ` + pg.IsLeader + `
    and o.options is not null
    and o.updated_at < now() - $3::interval
  limit $2
  for update skip locked
)`

// PruneHistory deletes records and operations older than [HistoryKept]. It gives up
// replays that nobody resumed for [ResumableFor], with the rows that they had picked.
// It takes the secrets out of what 0.1.0 recorded of replays that are done.
//
// It does so in small batches with pauses. If another process has the lock for more
// than 2 s, it leaves the rest to the next call. A row that the database refuses to
// delete is left, and the error says so.
//
// Errors: the context's; those of the database.
func (q *Queue) PruneHistory(ctx context.Context, o MaintenanceOptions) error {
	var errs []error
	if err := q.giveUpReplays(ctx, o.Lock); err != nil {
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
		// A slow operation that still runs has been updated lately.
		{"operations", sweep.Table{
			Name:  "public.soniq_dead_letter_operations",
			Where: "r.created_at < now() - $1::interval and r.updated_at < now() - $1::interval", Args: []any{HistoryKept},
		}},
	} {
		f.table.Lock = o.Lock
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
	return errors.Join(append(errs, q.mend(ctx, o.Lock))...)
}

func (q *Queue) giveUpReplays(ctx context.Context, lock int64) error {
	for {
		tag, err := q.pool.Exec(ctx, giveUpReplaysSQL, lock, pruneBatch, ResumableFor)
		if err != nil || tag.RowsAffected() < pruneBatch {
			return err
		}
	}
}
