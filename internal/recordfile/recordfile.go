// Package recordfile reads and writes files of dead letters: a JSON array, a JSON
// object a line, or CSV. What [Writer] wrote [Reader] reads, and it reads the files of
// Python Soniq and of Soniq for Go 0.1.0 too.
//
// A file may come from anywhere. A Reader checks all that the database would refuse,
// names the line of a mistake, and takes a bounded memory for any file.
//
// A spreadsheet runs cells as formulas, so the texts of CSV are escaped: see defuse.
//
// A record has each column in a form that programs read: no time at infinity, a text that is ”
// where the database has NULL. What is lost by that is in one more column, exact, which few
// records have: see Record.Exact. So a row comes back as it was.
package recordfile

import "fmt"

// A Format is a file format.
type Format string

const (
	// JSON is one array of objects.
	JSON Format = "json"
	// JSONL is one object a line.
	JSONL Format = "jsonl"
	// CSV is a table with a header, comma separated, whose cells are in quotes.
	CSV Format = "csv"
)

// ParseFormat returns the format with that name.
//
// Errors: one that lists the formats, for any other name.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case JSON, JSONL, CSV:
		return f, nil
	}
	return "", fmt.Errorf("unknown format %q: want %s, %s or %s", s, JSON, JSONL, CSV)
}

// An Error is a mistake in a file, with its place.
type Error struct {
	// Line is the one on which the record begins, from 1.
	Line int64
	// Record is the number of the record, from 1; 0 where the mistake is in none.
	Record int64
	// ID is the id of the record, or empty.
	ID string
	// Field is the column, or empty.
	Field string
	// Err is the mistake.
	Err error
	// Fatal says that the rest of the file can't be read.
	Fatal bool
}

func (e *Error) Error() string {
	where := fmt.Sprintf("line %d", e.Line)
	if e.Record > 0 {
		where += fmt.Sprintf(", record %d", e.Record)
	}
	if e.ID != "" {
		where += ", id " + e.ID
	}
	if e.Field != "" {
		where += ": " + e.Field
	}
	return fmt.Sprintf("%s: %v", where, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }
