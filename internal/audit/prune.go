package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
	"soniq/internal/sweep"
)

const (
	// Kept is how long records and operations are kept.
	Kept = 365 * 24 * time.Hour
	// ResumableFor is how long a bulk replay that was stopped, or whose process was
	// killed, can be resumed.
	ResumableFor = 30 * 24 * time.Hour
)

const (
	giveUpBatch = 1000
	// mendBatch is small: a row can hold a megabyte of arguments.
	mendBatch = 50
	// mendBatches bounds one call. The next call continues.
	mendBatches = 200
)

// Prune deletes records and operations older than [Kept], gives up replays that nobody
// resumed for [ResumableFor], and takes the secrets out of what 0.1.0 recorded of
// replays that are done. It works in small batches with pauses. lock is the key of an
// advisory lock that each batch holds, where 0 is no lock. If another process has it
// for more than 2 s, the rest is left to the next call.
//
// Errors: rows that the database refused to delete; the context's; those of the
// database.
func Prune(ctx context.Context, pool *pg.Pool, lock int64) error {
	var errs []error
	if _, err := pool.Exec(ctx, stopLostSQL); err != nil {
		errs = append(errs, fmt.Errorf("stop lost operations: %w", err))
	}
	if err := giveUpReplays(ctx, pool, lock); err != nil {
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
			Name: "public.soniq_dead_letter_audit", Where: "r.at < now() - $1::interval", Args: []any{Kept},
		}},
		// A slow operation that still runs has been updated lately.
		{"operations", sweep.Table{
			Name:  "public.soniq_dead_letter_operations",
			Where: "r.created_at < now() - $1::interval and r.updated_at < now() - $1::interval", Args: []any{Kept},
		}},
	} {
		f.table.Lock = lock
		_, err := sweep.Delete(ctx, pool, f.table)
		switch {
		case errors.Is(err, sweep.ErrLocked):
			return errors.Join(errs...)
		case err != nil:
			errs = append(errs, fmt.Errorf("delete old %s: %w", f.what, err))
		}
		if ctx.Err() != nil {
			return errors.Join(errs...)
		}
	}
	return errors.Join(append(errs, mend(ctx, pool, lock))...)
}

// StoppedByLoss is why an operation has stopped whose process is gone.
const StoppedByLoss = "lost"

// IsLost is the condition of an operation whose process was not heard of for two
// minutes: it shows every 10 s that it lives, but waits with that while one of its
// batches waits for locks. Programs of 0.1.0 show it with each batch alone. The longest
// time between two batches is that of a canary or of a low rate, hence a day.
const IsLost = `(state = 'running' and coalesce(heartbeat_at + interval '2 minutes', updated_at + interval '1 day') < clock_timestamp())`

const stopLostSQL = `
update public.soniq_dead_letter_operations
set
  state = 'stopped',
  stopped_by = '` + StoppedByLoss + `'
where ` + IsLost

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

func giveUpReplays(ctx context.Context, db pg.Querier, lock int64) error {
	for {
		tag, err := db.Exec(ctx, giveUpReplaysSQL, lock, giveUpBatch, ResumableFor)
		if err != nil || tag.RowsAffected() < giveUpBatch {
			return err
		}
	}
}

// mend takes the secrets out of what 0.1.0 recorded, in batches that hold the lock.
func mend(ctx context.Context, pool *pg.Pool, lock int64) error {
	for _, step := range []func(context.Context, pgx.Tx, int64) (int, error){mendDetails, mendOptions} {
		for range mendBatches {
			var n int
			err := pg.InTxWith(ctx, pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) (err error) {
				n, err = step(ctx, tx, lock)
				return err
			})
			if err != nil {
				return fmt.Errorf("take secrets out of the history: %w", err)
			}
			if n < mendBatch {
				break
			}
		}
	}
	return nil
}

// The records that 0.1.0 wrote, or still writes. The condition is that of an index. $1
// the lock, $2 the batch.
const rawDetailsSQL = pg.Leader + `
select r.id, r.detail -> 'args', coalesce(d.args, 'null')
from public.soniq_dead_letter_audit r
left join public.soniq_dead_letter_jobs d on d.id = r.dead_letter_id
where ` + pg.IsLeader + `
  and r.detail ? 'args'
  and not r.detail ? 'changed'
order by r.id
limit $2
for update of r skip locked`

// $1 the records, $2 their details.
const mendDetailsSQL = `
update public.soniq_dead_letter_audit r
set detail = u.detail::jsonb
from unnest($1::bigint[], $2::text[]) as u (id, detail)
where r.id = u.id`

func mendDetails(ctx context.Context, tx pgx.Tx, lock int64) (int, error) {
	rows, err := tx.Query(ctx, rawDetailsSQL, lock, mendBatch)
	if err != nil {
		return 0, err
	}
	var (
		ids        []int64
		details    []string
		id         int64
		args, from json.RawMessage
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &args, &from}, func() error {
		if string(from) == "null" {
			from = args // the dead letter is deleted: what was changed is not known
		}
		text, err := Detail(from, args)
		ids, details = append(ids, id), append(details, text)
		return err
	})
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	_, err = tx.Exec(ctx, mendDetailsSQL, ids, details)
	return len(ids), err
}

// The operations that 0.1.0 wrote, or still writes. $1 the lock, $2 the batch.
const rawOptionsSQL = pg.Leader + `
select o.id, o.options
from public.soniq_dead_letter_operations o
where ` + pg.IsLeader + `
  and o.state = 'done'
  and o.options is not null
  and not o.options ? 'redacted'
order by o.id
limit $2
for update of o skip locked`

func mendOptions(ctx context.Context, tx pgx.Tx, lock int64) (int, error) {
	rows, err := tx.Query(ctx, rawOptionsSQL, lock, mendBatch)
	if err != nil {
		return 0, err
	}
	type operation struct {
		ID      uuid.UUID
		Options []byte
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[operation])
	if err != nil {
		return 0, err
	}
	for _, o := range all {
		if err := SetOptions(ctx, tx, o.ID, RedactOptions(o.Options)); err != nil {
			return 0, err
		}
	}
	return len(all), nil
}
