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
	rows := sweep.IDs{Table: deadLetters, Where: whereOf(f).Where, IDs: ids, Batch: deleteBatch, Step: q.counted(&op, (*Operation).save)}
	_, err = rows.Delete(ctx, q.pool)
	if err == nil || sweep.IsRefusal(err) {
		op.Skipped = op.Total - op.Done
	}
	return op.Done, q.endOperation(ctx, &op, err)
}

// counted runs each step of op in a transaction that also writes how far op is. So what was
// deleted stands in the history, even if the process is killed the next moment.
func (q *Queue) counted(op *Operation, write func(op *Operation, ctx context.Context, db pg.Querier) error) sweep.Step {
	return func(ctx context.Context, do func(db pg.Querier) (int64, error)) (n int64, err error) {
		var next Operation
		err = pg.InTxWith(ctx, q.pool, readCommitted, func(tx pgx.Tx) (err error) {
			if n, err = do(tx); err != nil || n == 0 {
				return err
			}
			next = *op
			next.Done += n
			return write(&next, ctx, tx)
		})
		if err != nil || n == 0 {
			return 0, err
		}
		*op = next
		return n, nil
	}
}

func (q *Queue) ids(ctx context.Context, sql string, params []any) ([]uuid.UUID, error) {
	rows, err := byindex.Unhurried(ctx, q.pool, sql, params...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}
