package maintenance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
	"soniq/internal/sweep"
)

// expireBatch is how many rows one statement deletes. It keeps its locks and its
// transaction short.
const expireBatch = 5000

// expiry deletes the rows of jobs that have ended.
type expiry struct {
	pool    *pg.Pool
	logger  *slog.Logger
	refused refusals
}

// Parameters: $1 the lock, $2 how many, $3 the rows to skip.
const expireSQL = pg.Leader + `, gone as (
  delete from public.soniq_jobs
  where id in (
    select id
    from public.soniq_jobs
    where ` + pg.IsLeader + `
      and status in ('done', 'cancelled')
      and expires_at < now()
      and id <> all ((select $3::uuid[])::uuid[])
    order by expires_at
    limit $2
    for update skip locked
  )
  returning 1
)
select ` + pg.IsLeader + `, (select count(*) from gone)`

// run deletes what has expired, in batches. If the database refuses a batch, half of
// it is tried, and so on until one row is left: one that another table refers to, for
// instance. That one is skipped.
//
// Pruning uses the same lock and may run at the same time, so this waits for the lock.
func (e *expiry) run(ctx context.Context) error {
	e.refused.progress()
	lock := e.pool.Schema().LockKey(pg.MaintenanceLock)
	for n := int64(expireBatch); ; {
		var deleted int64
		err := sweep.Elected(ctx, func() (elected bool, err error) {
			err = e.pool.QueryRow(ctx, expireSQL, lock, n, pg.IDs(e.refused.ids())).Scan(&elected, &deleted)
			return elected, err
		})
		switch {
		case errors.Is(err, sweep.ErrLocked):
			return nil // another worker does it
		case isRefusal(err) && n > 1:
			n /= 2
		case isRefusal(err):
			if more, err := e.first(ctx); err != nil || !more {
				return err
			}
		case err != nil:
			return fmt.Errorf("expire results: %w", err)
		case deleted < n:
			return nil
		default:
			e.refused.progress()
			n = min(2*n, expireBatch)
		}
	}
}

// Parameter: $1 the rows to skip.
const firstExpiredSQL = `
select j.id
from public.soniq_jobs j
where j.status in ('done', 'cancelled')
  and j.expires_at < now()
  and j.id <> all ((select $1::uuid[])::uuid[])
order by j.expires_at
limit 1`

// Parameter: $1 the job.
const expireOneSQL = `
delete from public.soniq_jobs j
where j.id = $1
  and j.status in ('done', 'cancelled')
  and j.expires_at < now()`

// first deletes the first expired row, or notes that the database refuses it. more is
// false if there is none.
func (e *expiry) first(ctx context.Context) (more bool, err error) {
	var id uuid.UUID
	err = e.pool.QueryRow(ctx, firstExpiredSQL, pg.IDs(e.refused.ids())).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("expire results: %w", err)
	}
	_, err = e.pool.Exec(ctx, expireOneSQL, id)
	switch {
	case err == nil:
		e.refused.succeeded(id)
		return true, nil
	case !isRefusal(err):
		return false, fmt.Errorf("expire result %s: %w", id, err)
	case e.refused.add(id, err):
		e.logger.Error("the database refuses to delete the row of an expired job; it is skipped", "job", id, "error", err, "remedy", pg.Remedy(err))
	}
	if e.refused.stuck() {
		return false, fmt.Errorf("expire result %s: %w", id, err)
	}
	return true, nil
}
