package deadletter

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/byindex"
	"soniq/internal/pg"
	"soniq/internal/sweep"
)

// deleteBatch is how many rows one statement deletes: about 50 ms of locks.
const deleteBatch = 5000

// It deletes all of the rows or, if one doesn't exist, none. They are locked in the
// order in which a bulk replay locks them, so that the two don't deadlock. $1 the
// ids, without duplicates, $2 the actor, $3 the comment.
const deleteSQL = `
with picked as materialized (
  select d.id
  from public.soniq_dead_letter_jobs d
  where d.id = any($1::uuid[])` + oldestFirst + `
  for update
), gone as (
  delete from public.soniq_dead_letter_jobs d
  using picked
  where d.id = picked.id
    and (select count(*) from picked) = cardinality($1::uuid[])
  returning d.id
)
insert into public.soniq_dead_letter_audit (dead_letter_id, action, actor, comment, because)
select id, 'delete', nullif($2, ''), nullif($3, ''), nullif($3, '')
from gone`

// Delete deletes dead letters for good: all of them or, after an error, none.
//
// Errors: [ErrNotFound] if one of them doesn't exist; those of the database.
func (q *Queue) Delete(ctx context.Context, ids ...uuid.UUID) error {
	return q.delete(ctx, q.pool, ids)
}

// DeleteTx is [Queue.Delete] in the caller's transaction. If it returns
// [ErrNotFound] it has deleted nothing, and tx can go on. After an error of the
// database tx can only be rolled back.
//
// Errors: those of Delete.
func (q *Queue) DeleteTx(ctx context.Context, tx pgx.Tx, ids ...uuid.UUID) error {
	return q.delete(ctx, q.pool.Schema().Tx(tx), ids)
}

func (q *Queue) delete(ctx context.Context, db pg.Querier, ids []uuid.UUID) error {
	unique := slices.Clone(ids)
	slices.SortFunc(unique, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	unique = slices.Compact(unique)
	what := fmt.Sprintf("delete %d dead letters", len(unique))
	switch len(unique) {
	case 0:
		return nil
	case 1:
		what = "delete dead letter " + unique[0].String()
	}
	tag, err := db.Exec(ctx, deleteSQL, unique, q.by.actor, q.by.comment)
	if err == nil && tag.RowsAffected() != int64(len(unique)) {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

const selectIDs = "select d.id\nfrom public.soniq_dead_letter_jobs d"

// DeleteAll deletes for good the dead letters that the filter picks, and returns
// how many. [Queue.Count] is its preview. With a Limit it deletes the newest, as
// [Queue.List] shows them. It refuses a filter without a condition unless All is
// set.
//
// The rows are picked at the start: what dies later is not deleted. It is an
// [Operation] in batches, each a transaction of its own. After an error what was
// deleted stays deleted, and the number says how many.
//
// A row that the database refuses to delete, because of a foreign key for example,
// doesn't keep others from being deleted; the error at the end names it.
//
// Errors: [ErrFilterEmpty]; a wrong filter; the context's; those of the database.
func (q *Queue) DeleteAll(ctx context.Context, f Filter) (int64, error) {
	n, err := q.deleteAll(ctx, f)
	if err != nil {
		return n, fmt.Errorf("delete dead letters: %w", err)
	}
	return n, nil
}

func (q *Queue) deleteAll(ctx context.Context, f Filter) (int64, error) {
	if err := f.validateBulk(); err != nil {
		return 0, err
	}
	w := whereOf(f)
	ids, err := q.ids(ctx, selectIDs+w.SQL()+newestFirst+w.Limit(f.Limit), w.Params())
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	op := Operation{Action: ActionDelete, State: OperationRunning, Total: int64(len(ids))}
	if err := q.beginOperation(ctx, q.pool, &op, f, nil); err != nil {
		return 0, err
	}
	defer q.keepAlive(ctx, op.ID)()
	var refused sweep.Refusals
	for batch := range slices.Chunk(ids, deleteBatch) {
		n, err := q.deletePicked(ctx, f, batch, &refused)
		op.Done += n
		if err != nil {
			return op.Done, q.endOperation(ctx, &op, err)
		}
	}
	op.Skipped = op.Total - op.Done
	return op.Done, q.endOperation(ctx, &op, refused.Err())
}

// deletePicked deletes those of the ids that the filter still picks.
//
// A worker may lock several dead letters at once, in any order, when it writes
// outcomes: waiting for one of them with others locked could deadlock. So the batch
// deletes rows that are free, and then each of the others in a transaction of its
// own.
func (q *Queue) deletePicked(ctx context.Context, f Filter, ids []uuid.UUID, refused *sweep.Refusals) (deleted int64, err error) {
	w := whereOf(f)
	w.And("d.id = any(" + w.Param(ids) + ")")
	deleted, err = sweep.DeleteUnlocked(ctx, q.pool, deadLetters, w.Where)
	if sweep.IsRefusal(err) {
		return q.deleteEach(ctx, f, ids, refused)
	}
	if err != nil || deleted == int64(len(ids)) {
		return deleted, err
	}
	locked, err := q.ids(ctx, selectIDs+w.SQL(), w.Params())
	if err != nil {
		return deleted, err
	}
	for _, id := range locked {
		w := whereOf(f)
		w.And("d.id = " + w.Param(id))
		tag, err := q.pool.Exec(ctx, "delete from public.soniq_dead_letter_jobs d"+w.SQL(), w.Params()...)
		if err != nil {
			return deleted, err
		}
		deleted += tag.RowsAffected()
	}
	return deleted, nil
}

// deleteEach deletes those of the ids that the filter still picks one by one: the
// database refuses to delete some of them.
func (q *Queue) deleteEach(ctx context.Context, f Filter, ids []uuid.UUID, refused *sweep.Refusals) (deleted int64, err error) {
	for _, id := range ids {
		n, err := sweep.DeleteOne(ctx, q.pool, deadLetters, whereOf(f).Where, id)
		deleted += n
		if err = refused.Add(id, err); err != nil {
			return deleted, err
		}
	}
	return deleted, nil
}

func (q *Queue) ids(ctx context.Context, sql string, params []any) ([]uuid.UUID, error) {
	rows, err := byindex.Unhurried(ctx, q.pool, sql, params...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}
