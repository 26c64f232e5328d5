// Package pgid passes ids to PostgreSQL and back as the 16 bytes that they are.
// pgx takes a [uuid.UUID] for a value that only database/sql knows, and goes
// through its text in both directions: for a batch of 500 ids that was a
// seventh of a worker's processor time.
package pgid

import (
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Array is ids as a parameter of the type uuid[].
func Array(ids []uuid.UUID) pgtype.FlatArray[pgtype.UUID] {
	array := make(pgtype.FlatArray[pgtype.UUID], len(ids))
	for i, id := range ids {
		array[i] = pgtype.UUID{Bytes: id, Valid: true}
	}
	return array
}

// Dest is where a uuid that is not NULL is scanned to.
func Dest(id *uuid.UUID) *[16]byte { return (*[16]byte)(id) }

// OrNil is an id that was scanned, nil for NULL.
func OrNil(id pgtype.UUID) *uuid.UUID {
	if !id.Valid {
		return nil
	}
	return new(uuid.UUID(id.Bytes))
}

// Collect reads all rows, of one uuid each, and closes them.
func Collect(rows pgx.Rows) ([]uuid.UUID, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (id uuid.UUID, err error) {
		err = row.Scan(Dest(&id))
		return id, err
	})
}
