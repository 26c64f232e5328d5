// Package sizes bounds what a statement brings of columns whose size whoever may
// insert a job decides: jsonb of up to 255 MB, or of a few bytes that are gigabytes
// as text, since it keeps 1e131071 as a digit and an exponent.
package sizes

import (
	"errors"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// Listed bounds the arguments of each of many rows, One those of one, in bytes.
	Listed = 256 << 10
	One    = 16 << 20
	// Plain is for rows among which one has made a statement fail (see TooMuch):
	// then none but those are read that are small, and not compressed, in the table.
	Plain = 2000
)

// JSON is an expression for a column of the type jsonb: its value or, of one over
// most bytes, a JSON string that says so. NULL stays NULL. It asks for the size in
// the row, of the decompressed value, and of its text, each only where the one
// before is small enough.
func JSON(column, what string, most int) string {
	limit := strconv.Itoa(most)
	note := func(size string) string {
		return "to_jsonb('" + what + " of ' || " + size + " || ' bytes are not shown'::text)"
	}
	stored, raw, text := "pg_column_size("+column+")", "pg_column_size(array["+column+"])", "octet_length("+column+"::text)"
	tooRaw := raw + " > " + limit
	if most <= Plain {
		// Nothing is decompressed.
		tooRaw = "pg_column_compression(" + column + ") is not null"
	}
	return "case when " + stored + " > " + limit + " then " + note(stored) +
		" when " + tooRaw + " then " + note(raw) +
		" when " + text + " > " + strconv.Itoa(max(most, Listed)) + " then " + note(text) +
		" else " + column + " end"
}

// History is an expression for a column of failures: NULL if it is larger than any
// history of ours.
func History(column string) string {
	return "case when pg_column_size(" + column + ") <= 262144 and pg_column_size(array[" + column + "]) <= 1048576 then " + column + " end"
}

// TooMuch reports whether a statement failed because a value is beyond PostgreSQL's
// limits: it makes no text over 1 GiB.
func TooMuch(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == "54000" || pgErr.Code == "53200" || pgErr.Code == "XX000")
}
