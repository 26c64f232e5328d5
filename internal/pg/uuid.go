package pg

import (
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// pgx treats a [uuid.UUID] as a value that only database/sql knows, and converts
// it to text and back. For a batch of 500 ids that was a seventh of a worker's
// processor time. The functions here pass ids as 16 bytes.

// IDs returns ids as a parameter of type uuid[].
func IDs(ids []uuid.UUID) pgtype.FlatArray[pgtype.UUID] {
	array := make(pgtype.FlatArray[pgtype.UUID], len(ids))
	for i, id := range ids {
		array[i] = pgtype.UUID{Bytes: id, Valid: true}
	}
	return array
}

// ScanID returns the target to scan a uuid to that is not NULL.
func ScanID(id *uuid.UUID) *[16]byte { return (*[16]byte)(id) }

// OptionalID returns a scanned uuid, nil for NULL.
func OptionalID(id pgtype.UUID) *uuid.UUID {
	if !id.Valid {
		return nil
	}
	return new(uuid.UUID(id.Bytes))
}

// CollectIDs reads all rows, of one uuid each, and closes them.
//
// Errors: those of the database, and of a NULL.
func CollectIDs(rows pgx.Rows) ([]uuid.UUID, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (id uuid.UUID, err error) {
		err = row.Scan(ScanID(&id))
		return id, err
	})
}

// MinPrefix is the lowest number of hex digits that [IDRange] takes. Ids are in order of
// time: fewer digits than that would match the ids of many minutes.
const MinPrefix = 8

// IDRange returns the first and the last id that begins with prefix, as text. It is not
// ok if prefix can't be the beginning of an id: [MinPrefix] to 32 hex digits, and dashes
// anywhere.
func IDRange(prefix string) (first, last string, ok bool) {
	digits := strings.ReplaceAll(prefix, "-", "")
	if len(digits) < MinPrefix || len(digits) > 32 || strings.Trim(digits, "0123456789abcdefABCDEF") != "" {
		return "", "", false
	}
	missing := 32 - len(digits)
	return digits + strings.Repeat("0", missing), digits + strings.Repeat("f", missing), true
}
