package recordfile

import (
	"bufio"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// A Writer writes a file of records: Begin, Write for each record, End. The caller
// flushes the buffer.
type Writer struct {
	out    *bufio.Writer
	format Format
	begun  bool
	// long writes long records, where others are compressed. It may be nil.
	long longWriter
}

type longWriter interface {
	WriteLong(p []byte) (int, error)
}

// NewWriter returns a writer of this format. to is what the buffer writes to, such as a
// [Gzip].
//
// Errors: one that lists the formats, for an unknown format.
func NewWriter(out *bufio.Writer, to io.Writer, format Format) (*Writer, error) {
	if _, err := ParseFormat(string(format)); err != nil {
		return nil, err
	}
	long, _ := to.(longWriter)
	return &Writer{out: out, format: format, long: long}, nil
}

// Begin writes what is before the first record.
//
// Errors: those of the output.
func (w *Writer) Begin() (err error) {
	switch w.format {
	case JSON:
		err = w.out.WriteByte('[')
	case CSV:
		_, err = w.out.WriteString(`"` + strings.Join(header, `","`) + `","` + exactColumn + "\"\n")
	}
	return err
}

// Write writes a record.
//
// Errors: those of the output.
func (w *Writer) Write(r *Record) error {
	b := w.out.AvailableBuffer()
	switch w.format {
	case JSON:
		// An object on each line, so that a person can cut the file.
		if w.begun {
			b = append(b, ',')
		}
		w.begun = true
		b = r.AppendJSON(append(b, '\n'))
	case JSONL:
		b = append(r.AppendJSON(b), '\n')
	case CSV:
		b = append(r.appendCSV(b), '\n')
	}
	if w.long != nil && len(b) > longRecord {
		if err := w.out.Flush(); err != nil {
			return err
		}
		_, err := w.long.WriteLong(b)
		return err
	}
	_, err := w.out.Write(b)
	return err
}

// End writes what is after the last record.
//
// Errors: those of the output.
func (w *Writer) End() error {
	if w.format != JSON {
		return nil
	}
	end := "]\n"
	if w.begun {
		end = "\n]\n"
	}
	_, err := w.out.WriteString(end)
	return err
}

// AppendJSON appends the record as a JSON object on one line. It is what encoding/json
// would make of the columns without escapes for HTML, in a quarter of the time: an
// export spends most of its time here.
func (r *Record) AppendJSON(b []byte) []byte {
	row := jsonRow{b: b}
	r.appendTo(&row)
	return r.appendExact(row.b)
}

// appendFilled is AppendJSON for a batch that goes to the server.
func (r *Record) appendFilled(b []byte) []byte {
	row := filledRow{jsonRow{b: b}}
	r.appendTo(&row)
	return r.appendExact(row.b)
}

func (r *Record) appendExact(b []byte) []byte {
	if r.Exact != nil {
		b = appendRaw(append(b, `,"`+exactColumn+`":`...), r.Exact)
	}
	return append(b, '}')
}

// appendCSV appends the record as a row of CSV without its line end. encoding/csv would
// take a third of the time of an export.
func (r *Record) appendCSV(b []byte) []byte {
	row := csvRow{b: b}
	r.appendTo(&row)
	if r.Exact == nil {
		// Never empty: JSON that a program makes of the file is known by it. Miller would make an
		// object of {}.
		return append(row.cell(), `"{ }"`...)
	}
	row.json(r.Exact)
	return row.b
}

// A row takes the columns of a record in the header's order. A nil is NULL.
type row interface {
	text(s string)
	textOrNull(s *string)
	number(n int)
	numberOrNull(n *int)
	boolean(b *bool)
	id(id *uuid.UUID)
	time(t *time.Time)
	xid(xid *uint64)
	json(doc []byte)
	// optional is a text that JSON has only where it is not empty: 0.1.0 knows nothing of it.
	optional(s string)
}

func (r *Record) appendTo(to row) {
	to.id(&r.ID)
	to.text(r.JobName)
	to.json(r.Args)
	to.text(r.Queue)
	to.number(r.Priority)
	to.number(r.MaxAttempts)
	to.number(r.Attempts)
	to.text(r.LastError)
	to.text(string(r.Reason))
	to.time(&r.OriginalCreatedAt)
	to.time(&r.MovedAt)
	to.numberOrNull(r.ResurrectionCount)
	to.time(r.LastResurrectionAt)
	to.json(r.Tags)
	to.text(r.State)
	to.id(r.ReplayJobID)
	to.id(r.ReplayOf)
	to.text(string(r.ErrorKind))
	to.text(r.ErrorType)
	to.text(r.ErrorCode)
	to.text(r.DecidedBy)
	to.text(r.Fingerprint)
	to.textOrNull(r.ArgsHash)
	to.boolean(r.UniqueJob)
	to.textOrNull(r.DedupKey)
	to.textOrNull(r.ProducerID)
	to.id(r.WorkerID)
	to.time(r.ScheduledAt)
	to.xid(r.MovedXID)
	to.time(r.CreatedAt)
	to.json(r.Errors)
	to.optional(r.TraceContext)
}

// keys are what a JSON object has before each value.
var keys = func() (keys []string) {
	before := `{"`
	for _, name := range header {
		keys = append(keys, before+name+`":`)
		before = `,"`
	}
	return keys
}()

// A jsonRow is a record as a JSON object.
type jsonRow struct {
	b []byte
	n int
}

func (w *jsonRow) key() []byte {
	w.n++
	return append(w.b, keys[w.n-1]...)
}

func (w *jsonRow) text(s string)        { w.b = appendText(w.key(), s) }
func (w *jsonRow) textOrNull(s *string) { w.b = appendTextOrNull(w.key(), s) }
func (w *jsonRow) number(n int)         { w.b = appendInt(w.key(), n) }
func (w *jsonRow) id(id *uuid.UUID)     { w.b = appendID(w.key(), id) }
func (w *jsonRow) time(t *time.Time)    { w.b = appendTime(w.key(), t) }
func (w *jsonRow) xid(xid *uint64)      { w.b = appendXID(w.key(), xid) }
func (w *jsonRow) json(doc []byte)      { w.b = appendRaw(w.key(), doc) }

func (w *jsonRow) optional(s string) {
	if s != "" {
		w.text(s)
	}
}

func (w *jsonRow) numberOrNull(n *int) {
	if n == nil {
		w.b = append(w.key(), null...)
		return
	}
	w.number(*n)
}

func (w *jsonRow) boolean(b *bool) {
	if b == nil {
		w.b = append(w.key(), null...)
		return
	}
	w.b = strconv.AppendBool(w.key(), *b)
}

// A filledRow is a record as a JSON object without what is NULL, and without the transaction,
// which no import takes: the server reads each member of a batch letter by letter.
type filledRow struct{ jsonRow }

// skip passes over a column.
func (w *filledRow) skip() { w.n++ }

func (w *filledRow) textOrNull(s *string) {
	if s == nil {
		w.skip()
		return
	}
	w.text(*s)
}

func (w *filledRow) numberOrNull(n *int) {
	if n == nil {
		w.skip()
		return
	}
	w.number(*n)
}

func (w *filledRow) boolean(b *bool) {
	if b == nil {
		w.skip()
		return
	}
	w.jsonRow.boolean(b)
}

func (w *filledRow) id(id *uuid.UUID) {
	if id == nil {
		w.skip()
		return
	}
	w.jsonRow.id(id)
}

func (w *filledRow) time(t *time.Time) {
	if t == nil {
		w.skip()
		return
	}
	w.jsonRow.time(t)
}

func (w *filledRow) xid(*uint64) { w.skip() }

func (w *filledRow) json(doc []byte) {
	if doc == nil {
		w.skip()
		return
	}
	w.jsonRow.json(doc)
}

// A csvRow is a record as a row of CSV.
type csvRow struct {
	b []byte
	n int
}

func (w *csvRow) cell() []byte {
	if w.n++; w.n == 1 {
		return w.b
	}
	return append(w.b, ',')
}

func (w *csvRow) text(s string) { w.b = appendCell(w.cell(), defuse(s)) }

func (w *csvRow) optional(s string) { w.text(s) }

func (w *csvRow) textOrNull(s *string) {
	if s == nil {
		s = new(string)
	}
	w.text(*s)
}

func (w *csvRow) number(n int) { w.b = append(appendInt(append(w.cell(), '"'), n), '"') }

func (w *csvRow) numberOrNull(n *int) {
	if n == nil {
		w.b = w.cell()
		return
	}
	w.number(*n)
}

func (w *csvRow) boolean(b *bool) {
	if w.b = w.cell(); b != nil {
		w.b = append(strconv.AppendBool(append(w.b, '"'), *b), '"')
	}
}

// The quotes of JSON's ids and times are those of CSV too.

func (w *csvRow) id(id *uuid.UUID) {
	if w.b = w.cell(); id != nil {
		w.b = appendID(w.b, id)
	}
}

func (w *csvRow) time(t *time.Time) {
	if w.b = w.cell(); t != nil {
		w.b = appendTime(w.b, t)
	}
}

func (w *csvRow) xid(xid *uint64) {
	if w.b = w.cell(); xid != nil {
		w.b = append(appendXID(append(w.b, '"'), xid), '"')
	}
}

func (w *csvRow) json(doc []byte) { w.b = appendCell(w.cell(), defuseJSON(doc)) }

// appendCell appends a cell in quotes: a reader that splits at other characters than
// the comma finds none of its own outside of them. An empty cell has no quotes. It is
// NULL to PostgreSQL's COPY, and in quotes it would be a text.
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
