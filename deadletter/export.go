package deadletter

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// A Format is a file format of Export.
type Format string

const (
	// FormatJSON is one array of objects.
	FormatJSON Format = "json"
	// FormatJSONL is one object a line.
	FormatJSONL Format = "jsonl"
	// FormatCSV is a table with a header, comma separated. A text that a
	// spreadsheet would take for a formula has an apostrophe before it.
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
	err = q.encode(ctx, buffer, format, f.where(), f.Limit, func(Job) {
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
	w = &where{conditions: w.conditions, params: slices.Clone(w.params)}
	rows, err := q.pool.Query(ctx, selectJobs+w.sql()+oldestFirst+w.limit(limit), w.params...)
	if err != nil {
		return err
	}
	defer rows.Close()
	if err := e.begin(); err != nil {
		return err
	}
	for rows.Next() {
		j, err := scanJob(rows)
		if err != nil {
			return err
		}
		if err := e.job(j); err != nil {
			return err
		}
		written(j)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return e.end()
}

// An encoder writes a file: begin, job for each row, end.
type encoder interface {
	begin() error
	job(Job) error
	end() error
}

func newEncoder(w *bufio.Writer, format Format) (encoder, error) {
	switch format {
	case FormatJSON:
		return &jsonArray{w: w}, nil
	case FormatJSONL:
		return jsonLines{w}, nil
	case FormatCSV:
		return csvTable{csv.NewWriter(w)}, nil
	}
	_, err := ParseFormat(string(format))
	return nil, err
}

type jsonLines struct{ w *bufio.Writer }

func (jsonLines) begin() error { return nil }
func (jsonLines) end() error   { return nil }

func (e jsonLines) job(j Job) error {
	object, err := encodeJob(j)
	if err != nil {
		return err
	}
	_, err = e.w.Write(append(object, '\n'))
	return err
}

// jsonArray has an object on each line, so that it can be cut by hand.
type jsonArray struct {
	w    *bufio.Writer
	rows bool
}

func (e *jsonArray) begin() error { return e.w.WriteByte('[') }

func (e *jsonArray) job(j Job) error {
	object, err := encodeJob(j)
	if err != nil {
		return err
	}
	separator := "\n"
	if e.rows {
		separator = ",\n"
	}
	e.rows = true
	if _, err := e.w.WriteString(separator); err != nil {
		return err
	}
	_, err = e.w.Write(object)
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

// encodeJob returns a row's JSON on one line. It isn't HTML: who greps for "<"
// in an error should find it.
func encodeJob(j Job) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(j); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

type csvTable struct{ w *csv.Writer }

// csvHeader: the columns of Python Soniq's export, then ours.
var csvHeader = []string{
	"id", "job_name", "args", "queue", "priority", "max_attempts", "attempts",
	"last_error", "dead_letter_reason", "original_created_at",
	"moved_to_dead_letter_at", "resurrection_count", "last_resurrection_at", "tags",
	"state", "replay_job_id", "replay_of", "error_kind", "error_type", "error_code",
	"decided_by", "fingerprint", "args_hash", "unique_job", "dedup_key", "producer_id",
	"worker_id", "scheduled_at", "moved_xid", "created_at", "errors",
}

func (e csvTable) begin() error { return e.w.Write(csvHeader) }

func (e csvTable) job(j Job) error {
	failures := ""
	if j.Errors != nil {
		text, err := json.Marshal(j.Errors)
		if err != nil {
			return err
		}
		failures = string(text)
	}
	return e.w.Write([]string{
		j.ID.String(), defuse(j.JobName), string(j.Args), defuse(j.Queue),
		strconv.Itoa(j.Priority), strconv.Itoa(j.MaxAttempts), strconv.Itoa(j.Attempts),
		defuse(j.LastError), defuse(string(j.Reason)), csvTime(&j.OriginalCreatedAt),
		csvTime(&j.MovedAt), strconv.Itoa(j.ResurrectionCount),
		csvTime(j.LastResurrectionAt), string(j.Tags),
		defuse(j.State), csvID(j.ReplayJobID), csvID(j.ReplayOf),
		defuse(string(j.ErrorKind)), defuse(j.ErrorType), defuse(j.ErrorCode),
		defuse(j.DecidedBy), defuse(j.Fingerprint), csvText(j.ArgsHash),
		strconv.FormatBool(j.UniqueJob), csvText(j.DedupKey), csvText(j.ProducerID),
		csvID(j.WorkerID), csvTime(j.ScheduledAt), csvXID(j.MovedXID), csvTime(j.CreatedAt),
		failures,
	})
}

func (e csvTable) end() error {
	e.w.Flush()
	return e.w.Error()
}

// defuse keeps a spreadsheet from running a text as a formula: a cell that
// begins with one of these characters, which job names and error texts can be
// made to do from outside. A text that looks as if it were defused gets another
// apostrophe, so that it is known what to take away.
func defuse(s string) string {
	if formula(s) {
		return "'" + s
	}
	return s
}

// formula reports whether s begins like a formula, apostrophes aside.
func formula(s string) bool {
	s = strings.TrimLeft(s, "'")
	return s != "" && strings.ContainsRune("=+-@\t\r\n", rune(s[0]))
}

func csvText(s *string) string {
	if s == nil {
		return ""
	}
	return defuse(*s)
}

func csvTime(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Format(time.RFC3339Nano)
}

func csvID(id *uuid.UUID) string {
	if id == nil {
		return ""
	}
	return id.String()
}

func csvXID(xid *uint64) string {
	if xid == nil {
		return ""
	}
	return strconv.FormatUint(*xid, 10)
}
