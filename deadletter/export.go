package deadletter

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"github.com/google/uuid"

	"soniq/internal/byindex"
	"soniq/internal/pg"
	"soniq/internal/recordfile"
	"soniq/internal/sweep"
)

// A Format is a file format of an export.
type Format string

const (
	// FormatJSON is one array of objects.
	FormatJSON Format = "json"
	// FormatJSONL is one object a line.
	FormatJSONL Format = "jsonl"
	// FormatCSV is a table with a header, comma separated, whose cells are in quotes.
	// A text that a spreadsheet could run as a formula has the letter U+02BC, which looks
	// like an apostrophe, before each place where a cell could begin; docs/dead-letters.md has
	// the rule. An import removes it.
	FormatCSV Format = "csv"
)

// ParseFormat returns the format with that name.
//
// Errors: one that lists the formats, for any other name.
func ParseFormat(s string) (Format, error) {
	f, err := recordfile.ParseFormat(s)
	return Format(f), err
}

// exportBuffer is how much Export writes at once, in bytes. A row mostly has 500.
const exportBuffer = 64 << 10

// NewGzip returns a writer that compresses a file of [Queue.Export] or [Queue.CleanupTo]. Close ends
// the file. It stores dead letters of over 32 MiB as they are: [Queue.Import] takes a dead letter
// that was compressed for a bomb if it is long and nothing is left of it.
func NewGzip(w io.Writer) io.WriteCloser { return recordfile.NewGzip(w) }

// Export writes the dead letters that the filter picks, oldest first, and returns how
// many there are. The names are those of the columns, times are RFC 3339 in UTC with six
// digits, and JSON is exactly what is stored. A column 'exact' has what the others can't
// have, so that [Queue.Import] restores each row as it was. An export of nothing is a valid
// file too. Compress it with [NewGzip].
//
// All rows come from one statement, so they are of one moment. Memory doesn't grow with
// their number. After an error w has a part of the file.
//
// Errors: those of [Filter.Validate], of an unknown format, of w and of the database.
func (q *Queue) Export(ctx context.Context, w io.Writer, f Filter, format Format) (int64, error) {
	return q.ExportProgress(ctx, w, f, format, nil)
}

// ExportProgress is [Queue.Export] that calls onProgress, which may be nil, with the
// number of rows so far, after each 500.
//
// Errors: as Export.
func (q *Queue) ExportProgress(ctx context.Context, w io.Writer, f Filter, format Format, onProgress func(rows int64)) (int64, error) {
	n, err := q.export(ctx, w, f, format, onProgress)
	if err != nil {
		return n, fmt.Errorf("export dead letters: %w", err)
	}
	return n, nil
}

// progressEach is the number of rows between two calls of a progress function: few
// enough for a person to see progress.
const progressEach = 500

func (q *Queue) export(ctx context.Context, out io.Writer, f Filter, format Format, onProgress func(int64)) (n int64, err error) {
	if err := f.Validate(); err != nil {
		return 0, err
	}
	buffer := bufio.NewWriterSize(out, exportBuffer)
	err = q.encode(ctx, buffer, out, format, whereOf(f), f.Limit, func(sweep.Version) {
		if n++; n%progressEach == 0 && onProgress != nil {
			onProgress(n)
		}
	})
	if err != nil {
		return n, err
	}
	return n, buffer.Flush()
}

// encode writes the rows of w, the oldest first, as a whole file. It calls written
// after each. under is what the buffer writes to.
func (q *Queue) encode(ctx context.Context, to *bufio.Writer, under io.Writer, format Format, w *where, limit int, written func(sweep.Version)) error {
	out, err := recordfile.NewWriter(to, under, recordfile.Format(format))
	if err != nil {
		return err
	}
	picked := w.clone()
	rows, err := byindex.Unhurried(ctx, q.pool, selectRecords+picked.SQL()+oldestFirst+picked.Limit(limit), picked.Params()...)
	if err != nil {
		return err
	}
	defer rows.Close()
	if err := out.Begin(); err != nil {
		return err
	}
	n := 0
	for ; rows.Next(); n++ {
		r, xid, err := scanRecord(rows)
		if err != nil {
			return err
		}
		if err := out.Write(r); err != nil {
			return err
		}
		written(sweep.Version{ID: r.ID, XID: xid})
	}
	if err := rows.Err(); err != nil {
		return q.named(ctx, w, n, err)
	}
	return out.End()
}

// named returns err with the id of the dead letter that is larger than the server can
// send: ten bytes that a producer inserts can be. The statement had returned n rows of
// w, the oldest first, so it is the next one. Without its id nobody could leave it out.
func (q *Queue) named(ctx context.Context, w *where, n int, err error) error {
	if !pg.IsTooLarge(err) {
		return err
	}
	w = w.clone()
	var id uuid.UUID
	sql := "select d.id\nfrom public.soniq_dead_letter_jobs d" + w.SQL() + oldestFirst + "\noffset " + w.Param(n) + "\nlimit 1"
	if q.pool.QueryRow(ctx, sql, w.Params()...).Scan(&id) != nil {
		return err
	}
	return fmt.Errorf("dead letter %s is larger than the server can send: delete it, or leave it out by a filter: %w", id, err)
}
