package deadletter

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"soniq/internal/history"
	"soniq/internal/pg"
)

// A Format is a file format of Export.
type Format string

const (
	// FormatJSON is one array of objects.
	FormatJSON Format = "json"
	// FormatJSONL is one object a line.
	FormatJSONL Format = "jsonl"
	// FormatCSV is a table with a header, comma separated, whose cells are in
	// quotes. What a spreadsheet could take for a formula has an apostrophe before
	// it, wherever a cell could begin in the text; docs/dead-letters.md has the
	// rule. Import takes the apostrophes away again.
	FormatCSV Format = "csv"
)

// ParseFormat returns the format with that name. The error of an unknown name
// lists the known ones.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case FormatJSON, FormatJSONL, FormatCSV:
		return f, nil
	}
	return "", fmt.Errorf("unknown format %q: want %s, %s or %s", s, FormatJSON, FormatJSONL, FormatCSV)
}

// exportBuffer bounds how often Export writes; a row is about 500 bytes.
const exportBuffer = 64 << 10

// Export writes the dead letters that the filter picks, oldest first, and
// returns how many that were. The names are those of the columns, times are
// RFC 3339 in UTC, and the arguments are exactly what is stored. Nothing to
// write makes a valid file too.
//
// It streams from one statement: memory doesn't grow with the number of rows,
// and all of them are of one moment. After an error w holds a part.
func (q *Queue) Export(ctx context.Context, w io.Writer, f Filter, format Format) (int64, error) {
	return q.ExportTelling(ctx, w, f, format, nil)
}

// ExportTelling is Export that tells how far it has come: told, which may be
// nil, gets the number of rows so far, now and then.
func (q *Queue) ExportTelling(ctx context.Context, w io.Writer, f Filter, format Format, told func(rows int64)) (int64, error) {
	n, err := q.export(ctx, w, f, format, told)
	if err != nil {
		return n, fmt.Errorf("export dead letters: %w", err)
	}
	return n, nil
}

// tellEach is after how many rows an export or an import tells of itself: often
// enough for a person to see it move.
const tellEach = 500

func (q *Queue) export(ctx context.Context, out io.Writer, f Filter, format Format, told func(int64)) (n int64, err error) {
	if err := f.Validate(); err != nil {
		return 0, err
	}
	buffer := bufio.NewWriterSize(out, exportBuffer)
	err = q.encode(ctx, buffer, format, whereOf(f), f.Limit, func(Job) {
		if n++; n%tellEach == 0 && told != nil {
			told(n)
		}
	})
	if err != nil {
		return n, err
	}
	return n, buffer.Flush()
}

// encode writes the rows of w, the oldest first, as a whole file. written is
// called after each.
func (q *Queue) encode(ctx context.Context, to *bufio.Writer, format Format, w *where, limit int, written func(Job)) error {
	e, err := newEncoder(to, format)
	if err != nil {
		return err
	}
	picked := w.clone()
	rows, err := q.pool.Query(ctx, whole.selectJobs()+picked.SQL()+oldestFirst+picked.Limit(limit), picked.Params()...)
	if err != nil {
		return err
	}
	defer rows.Close()
	if err := e.begin(); err != nil {
		return err
	}
	n := 0
	for ; rows.Next(); n++ {
		var j Job
		failures, err := scanRow(rows, &j)
		if err != nil {
			return err
		}
		if err := e.job(&j, history.Canonical(failures)); err != nil {
			return err
		}
		written(j)
	}
	if err := rows.Err(); err != nil {
		return q.named(ctx, w, n, err)
	}
	return e.end()
}

// named is err, of a statement that has brought n rows of w, the oldest first. Where
// the next one is larger than the server can send, which ten bytes of a producer's can
// be, it says which that is: nothing else would tell how to go on without it.
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

// An encoder writes a file: begin, job for each row, end. A job's history is
// given as JSON, nil for none, in the place of its Errors.
type encoder interface {
	begin() error
	job(j *Job, failures []byte) error
	end() error
}

func newEncoder(w *bufio.Writer, format Format) (encoder, error) {
	switch format {
	case FormatJSON:
		return &jsonArray{w: w}, nil
	case FormatJSONL:
		return jsonLines{w}, nil
	case FormatCSV:
		return csvTable{w}, nil
	}
	_, err := ParseFormat(string(format))
	return nil, err
}

type jsonLines struct{ w *bufio.Writer }

func (jsonLines) begin() error { return nil }
func (jsonLines) end() error   { return nil }

func (e jsonLines) job(j *Job, failures []byte) error {
	_, err := e.w.Write(append(appendJob(e.w.AvailableBuffer(), j, failures), '\n'))
	return err
}

// jsonArray has an object on each line, so that it can be cut by hand.
type jsonArray struct {
	w    *bufio.Writer
	rows bool
}

func (e *jsonArray) begin() error { return e.w.WriteByte('[') }

func (e *jsonArray) job(j *Job, failures []byte) error {
	separator := "\n"
	if e.rows {
		separator = ",\n"
	}
	e.rows = true
	_, err := e.w.Write(appendJob(append(e.w.AvailableBuffer(), separator...), j, failures))
	return err
}

func (e *jsonArray) end() error {
	end := "]\n"
	if e.rows {
		end = "\n]\n"
	}
	_, err := e.w.WriteString(end)
	return err
}

type csvTable struct{ w *bufio.Writer }

// csvHeader: the columns of Python Soniq's export, then ours.
var csvHeader = []string{
	"id", "job_name", "args", "queue", "priority", "max_attempts", "attempts",
	"last_error", "dead_letter_reason", "original_created_at",
	"moved_to_dead_letter_at", "resurrection_count", "last_resurrection_at", "tags",
	"state", "replay_job_id", "replay_of", "error_kind", "error_type", "error_code",
	"decided_by", "fingerprint", "args_hash", "unique_job", "dedup_key", "producer_id",
	"worker_id", "scheduled_at", "moved_xid", "created_at", "errors",
}

func (e csvTable) begin() error {
	_, err := e.w.WriteString(`"` + strings.Join(csvHeader, `","`) + `","` + escapeColumn + "\"\n")
	return err
}

func (csvTable) end() error { return nil }

// job writes the cells by hand: encoding/csv took a third of the time of an
// export.
func (e csvTable) job(j *Job, failures []byte) error {
	b := append(e.w.AvailableBuffer(), '"')
	b = append(appendPlainID(b, &j.ID), '"')
	text := func(s string) { b = appendCell(append(b, ','), defuse(s)) }
	textOrNone := func(s *string) {
		if s == nil {
			s = new(string)
		}
		text(*s)
	}
	raw := func(json []byte) { b = appendCell(append(b, ','), defuseJSON(json)) }
	number := func(n int) { b = append(appendInt(append(b, `,"`...), n), '"') }
	id := func(id *uuid.UUID) {
		if b = append(b, ','); id != nil {
			b = append(appendPlainID(append(b, '"'), id), '"')
		}
	}
	at := func(t *time.Time) {
		if b = append(b, ','); t != nil {
			b = append(t.AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
		}
	}
	text(j.JobName)
	raw(j.Args)
	text(j.Queue)
	number(j.Priority)
	number(j.MaxAttempts)
	number(j.Attempts)
	text(j.LastError)
	text(string(j.Reason))
	at(&j.OriginalCreatedAt)
	at(&j.MovedAt)
	number(j.ResurrectionCount)
	at(j.LastResurrectionAt)
	raw(j.Tags)
	text(string(j.State))
	id(j.ReplayJobID)
	id(j.ReplayOf)
	text(string(j.ErrorKind))
	text(j.ErrorType)
	text(j.ErrorCode)
	text(j.DecidedBy)
	text(j.Fingerprint)
	textOrNone(j.ArgsHash)
	b = append(strconv.AppendBool(append(b, `,"`...), j.UniqueJob), '"')
	textOrNone(j.DedupKey)
	textOrNone(j.ProducerID)
	id(j.WorkerID)
	at(j.ScheduledAt)
	if b = append(b, ','); j.MovedXID != nil {
		b = append(strconv.AppendUint(append(b, '"'), *j.MovedXID, 10), '"')
	}
	at(j.CreatedAt)
	raw(failures)
	text(escapeName)
	_, err := e.w.Write(append(b, '\n'))
	return err
}

// appendCell appends a cell, in quotes: a reader that splits at other characters
// than the comma finds none of its own outside of them. An empty one stays
// empty: it is NULL to PostgreSQL's COPY, and in quotes it would be a text.
func appendCell[T string | []byte](b []byte, s T) []byte {
	if len(s) == 0 {
		return b
	}
	b = append(b, '"')
	written := 0
	for i := range len(s) {
		if s[i] == '"' {
			b = append(append(b, s[written:i+1]...), '"')
			written = i + 1
		}
	}
	return append(append(b, s[written:]...), '"')
}
