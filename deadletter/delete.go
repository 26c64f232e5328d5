package deadletter

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// deleteBatch is how many rows one statement deletes: some 50 ms of locks, and
// few enough trips that their latency doesn't count.
const deleteBatch = 5000

// $1 the id, $2 who, $3 why.
const deleteSQL = `
with gone as (
  delete from public.soniq_dead_letter_jobs
  where id = $1
  returning id
)
insert into public.soniq_dead_letter_audit (dead_letter_id, action, actor, because)
select id, 'delete', nullif($2, ''), nullif($3, '')
from gone`

const selectIDs = "select d.id\nfrom public.soniq_dead_letter_jobs d"

// deleteFree deletes the rows of a query that nobody holds. Materialised, since
// a plan that ran the query again would pick other rows under its limit.
func deleteFree(picked string) string {
	return "with picked as materialized (\n" + picked + "\nfor update skip locked\n)\n" +
		"delete from public.soniq_dead_letter_jobs d\nusing picked\nwhere d.id = picked.id"
}

// Delete deletes one dead letter for good, or returns ErrNotFound.
func (q *Queue) Delete(ctx context.Context, id uuid.UUID) error {
	tag, err := q.pool.Exec(ctx, deleteSQL, id, q.by.actor, q.by.because)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("delete dead letter %s: %w", id, err)
	}
	return nil
}

// DeleteAll deletes for good what the filter picks and returns how many that
// were: what Count says, unless other people change the rows meanwhile. With a
// Limit it takes the newest, as List shows them. A filter without a condition
// is refused with ErrFilterEmpty unless All is set.
//
// The rows are picked at the start, so that none is deleted which died later.
// They are deleted in batches, each for itself: after an error, what was
// deleted stays deleted, and is counted.
func (q *Queue) DeleteAll(ctx context.Context, f Filter) (int64, error) {
	if err := f.validateBulk(); err != nil {
		return 0, fmt.Errorf("delete dead letters: %w", err)
	}
	w := f.where()
	ids, err := q.ids(ctx, selectIDs+w.sql()+newestFirst+w.limit(f.Limit), w.params)
	if err != nil {
		return 0, fmt.Errorf("delete dead letters: %w", err)
	}
	if len(ids) == 0 {
		return 0, nil
	}
	op := Operation{Action: ActionDelete, State: OperationRunning, Total: int64(len(ids))}
	if err := q.beginOperation(ctx, q.pool, &op, f, nil); err != nil {
		return 0, fmt.Errorf("delete dead letters: %w", err)
	}
	for batch := range slices.Chunk(ids, deleteBatch) {
		n, err := q.deletePicked(ctx, f, batch)
		op.Done += n
		if err != nil {
			return op.Done, fmt.Errorf("delete dead letters: %w", q.endOperation(ctx, &op, err))
		}
	}
	op.Skipped = op.Total - op.Done
	if err := q.endOperation(ctx, &op, nil); err != nil {
		return op.Done, fmt.Errorf("delete dead letters: %w", err)
	}
	return op.Done, nil
}

// deletePicked deletes those of the ids that the filter still picks.
//
// A worker's outcome can hold several dead letters at once, in any order: to
// wait for one of them while holding others could deadlock with it. So the
// batch takes what is free, and waits for the rest one by one, holding nothing.
func (q *Queue) deletePicked(ctx context.Context, f Filter, ids []uuid.UUID) (deleted int64, err error) {
	w := f.where()
	w.and("d.id = any(" + w.param(ids) + ")")
	picked := selectIDs + w.sql()

	tag, err := q.pool.Exec(ctx, deleteFree(picked), w.params...)
	if err != nil {
		return 0, err
	}
	deleted = tag.RowsAffected()
	if deleted == int64(len(ids)) {
		return deleted, nil
	}

	held, err := q.ids(ctx, picked, w.params)
	if err != nil {
		return deleted, err
	}
	for _, id := range held {
		w := f.where()
		w.and("d.id = " + w.param(id))
		tag, err := q.pool.Exec(ctx, "delete from public.soniq_dead_letter_jobs d"+w.sql(), w.params...)
		if err != nil {
			return deleted, err
		}
		deleted += tag.RowsAffected()
	}
	return deleted, nil
}

func (q *Queue) ids(ctx context.Context, sql string, params []any) ([]uuid.UUID, error) {
	rows, err := q.pool.Query(ctx, sql, params...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}
