package sweep

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
)

// IDs are rows of a table that are to be deleted.
type IDs struct {
	// Table is the table.
	Table string
	// Where are the conditions that the rows must still match. The row is d.
	Where pg.Where
	// IDs are the rows' ids.
	IDs []uuid.UUID
	// Batch is how many rows one statement deletes.
	Batch int
	// Step runs each statement that deletes.
	Step Step

	refused Refusals
}

// Delete deletes the rows and returns how many, also after an error. A row that the
// database refuses to delete doesn't keep others from being deleted.
//
// Another program may lock several rows at once, in any order: waiting for one of them
// with others locked could deadlock. So a batch deletes rows that are free, and then each
// of the others in a step of its own, which waits.
//
// Errors: those of [Refusals.Err], of the Step, of the context, of the database.
func (t *IDs) Delete(ctx context.Context, db pg.Querier) (deleted int64, err error) {
	for batch := range slices.Chunk(t.IDs, t.Batch) {
		where := t.Where.Clone()
		list := "unnest(" + where.Param(batch) + "::uuid[]) u (id)"
		where.And("d.id = u.id")
		n, err := t.Step(ctx, func(db pg.Querier) (int64, error) { return deleteListed(ctx, db, t.Table, list, where) })
		deleted += n
		each, wait := batch, false
		switch {
		case IsRefusal(err):
			err = nil
		case err == nil && n < int64(len(batch)):
			wait = true
			each, err = t.left(ctx, db, list, where)
		default:
			each = nil
		}
		if err != nil {
			return deleted, err
		}
		n, err = t.each(ctx, each, wait)
		if deleted += n; err != nil {
			return deleted, err
		}
	}
	return deleted, t.refused.Err()
}

// left returns the ids of those that are there yet, each looked up by its key.
func (t *IDs) left(ctx context.Context, db pg.Querier, list string, where pg.Where) ([]uuid.UUID, error) {
	sql := "select d.id\nfrom " + list + "\ncross join lateral (select d.id from " + t.Table + " d" + where.SQL() + " offset 0) d"
	return pg.Collect(ctx, db, pgx.RowTo[uuid.UUID], sql, where.Params()...)
}

// each deletes rows one by one. wait: also those that are locked, once they are free.
func (t *IDs) each(ctx context.Context, ids []uuid.UUID, wait bool) (deleted int64, err error) {
	for _, id := range ids {
		n, err := t.Step(ctx, func(db pg.Querier) (int64, error) {
			if !wait {
				return DeleteOne(ctx, db, t.Table, t.Where, id)
			}
			w := t.Where.Clone()
			w.And("d.id = " + w.Param(id))
			tag, err := db.Exec(ctx, fmt.Sprintf("delete from %s d%s", t.Table, w.SQL()), w.Params()...)
			return tag.RowsAffected(), err
		})
		deleted += n
		if err = t.refused.Add(id, err); err != nil {
			return deleted, err
		}
	}
	return deleted, nil
}
