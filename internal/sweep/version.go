package sweep

import (
	"context"
	"slices"

	"github.com/google/uuid"

	"soniq/internal/pg"
)

// A Version names a row as it was read: another transaction that has changed it since has another
// number.
type Version struct {
	ID uuid.UUID
	// XID is the row's xmin, as text.
	XID string
}

// DeleteVersions deletes the rows d of a table that match the conditions and are as they were read, so
// many with a step, and returns how many, also after an error. It leaves rows that are locked. A
// row that the database refuses to delete doesn't keep others from being deleted.
//
// Errors: those of [Refusals.Err], of the step and of the database.
func DeleteVersions(ctx context.Context, step Step, table string, where pg.Where, rows []Version, size int) (deleted int64, err error) {
	unlocked := func(rows []Version) (int64, error) {
		return step(ctx, func(db pg.Querier) (int64, error) { return deleteAsRead(ctx, db, table, where, rows) })
	}
	var refused Refusals
	for batch := range slices.Chunk(rows, size) {
		n, err := unlocked(batch)
		deleted += n
		if IsRefusal(err) {
			err = nil
			for _, row := range batch {
				n, refusal := unlocked([]Version{row})
				deleted += n
				if err = refused.Add(row.ID, refusal); err != nil {
					break
				}
			}
		}
		if err != nil {
			return deleted, err
		}
	}
	return deleted, refused.Err()
}

// deleteAsRead deletes those of the rows that are as they were read. A row that another transaction
// has changed before this one could lock it is looked at again, as it is then.
func deleteAsRead(ctx context.Context, db pg.Querier, table string, where pg.Where, rows []Version) (int64, error) {
	ids, xids := make([]uuid.UUID, len(rows)), make([]string, len(rows))
	for i, row := range rows {
		ids[i], xids[i] = row.ID, row.XID
	}
	w := where.Clone()
	list := "unnest(" + w.Param(ids) + "::uuid[], " + w.Param(xids) + "::text[]) u (id, xid)"
	w.And("d.id = u.id")
	w.And("d.xmin::text = u.xid")
	return deleteListed(ctx, db, table, list, w)
}
