// Package pgtime has SQL for the times of rows that anybody may have written. Go
// has no value for a time at infinity, and JSON no text for one before the year 1
// or after 9999. One row with such must not hide all the others.
package pgtime

const (
	earliest = "timestamptz '0001-01-01 00:00:00+00'"
	latest   = "timestamptz '9999-12-31 23:59:59+00'"
)

// Within is a column of the type timestamptz, or the nearest time that Go and JSON
// have. NULL stays NULL.
func Within(column string) string {
	return "case when " + column + " is not null then least(greatest(" + column + ", " + earliest + "), " + latest + ") end"
}

// Finite is Within, but NULL for a time at infinity.
func Finite(column string) string {
	return "case when isfinite(" + column + ") then least(greatest(" + column + ", " + earliest + "), " + latest + ") end"
}
