package deadletter

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"soniq/internal/jsondoc"
)

// A FileError says what is wrong with a file that is imported, and where.
type FileError struct {
	// Line is the one on which the record begins, from 1 on.
	Line int64
	// Record is its number, from 1 on; 0 where it is none of them that is wrong.
	Record int64
	Err    error
}

func (e *FileError) Error() string {
	if e.Record == 0 {
		return fmt.Sprintf("line %d: %v", e.Line, e.Err)
	}
	return fmt.Sprintf("line %d, record %d: %v", e.Line, e.Record, e.Err)
}

func (e *FileError) Unwrap() error { return e.Err }

// maxRecordBytes is the longest record of a file, decompressed. With the limits
// on what a record consists of (see cells) it bounds the memory of an import: a
// few times as much, however long the file is and however well it was
// compressed.
const maxRecordBytes = 64 << 20

var (
	errRecordTooLong = fmt.Errorf("it is longer than %d bytes", maxRecordBytes)
	errCutOff        = errors.New("the file ends in the middle of it")
	errAfterGzip     = errors.New("after the compressed data comes something that gzip did not write; the file is damaged, or something was appended to it")
)

// A cells is a record of a file: its columns by name, as JSON. It has no column
// that is not known, and is valid until the next record is read.
type cells map[string]json.RawMessage

// A recordReader reads a file record by record. It returns io.EOF after the
// last one, and nothing else where the file isn't whole.
type recordReader interface {
	record() (cells, error)
}

// An importFile reads dead letters from an export.
type importFile struct {
	*fileReader
	fault   *faultReader
	records recordReader
	count   int64
}

// openImport reads the beginning of in. What was compressed by gzip is known by
// its first two bytes. The end of ctx is an error of the input, at the next
// bytes that are needed: a little file can be a very long one that was
// compressed, without one record in it.
func openImport(ctx context.Context, in io.Reader, format Format) (*importFile, error) {
	if _, err := ParseFormat(string(format)); err != nil {
		return nil, err
	}
	f := &importFile{fault: &faultReader{ctx: ctx, in: in}}
	buffered := bufio.NewReaderSize(f.fault, exportBuffer)
	f.fileReader = &fileReader{in: buffered, line: 1, from: 1}
	if magic, err := buffered.Peek(2); err == nil && bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		unzipped, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, f.wrong(err)
		}
		f.in = bufio.NewReaderSize(&faultReader{ctx: ctx, in: &gzipReader{unzipped}, over: f.fault}, exportBuffer)
	}
	// What some editors put before the first character.
	if mark, err := f.in.Peek(3); err == nil && string(mark) == "\ufeff" {
		_, _ = f.in.Discard(3)
	}
	switch format {
	case FormatJSON:
		f.records = &jsonArrayFile{fileReader: f.fileReader}
	case FormatJSONL:
		f.records = &jsonLinesFile{fileReader: f.fileReader}
	case FormatCSV:
		f.records = &csvFile{fileReader: f.fileReader}
	}
	return f, nil
}

// next returns the next dead letter, io.EOF after the last one, or a *FileError.
func (f *importFile) next() (Job, error) {
	c, err := f.records.record()
	if errors.Is(err, io.EOF) {
		return Job{}, io.EOF
	}
	if f.inRecord {
		f.count++
	}
	if err == nil {
		var j Job
		if j, err = c.job(); err == nil {
			return j, nil
		}
	}
	return Job{}, f.wrong(err)
}

// wrong is err with the place in the file, unless the file couldn't be read.
func (f *importFile) wrong(err error) error {
	if f.fault.err != nil {
		return f.fault.err
	}
	where := &FileError{Line: f.from, Err: err}
	if f.inRecord {
		where.Record = f.count
	}
	return where
}

// A faultReader remembers an error of the input, and the end of ctx: it isn't
// the file's content that is wrong then.
type faultReader struct {
	ctx context.Context
	in  io.Reader
	err error
	// over is the faultReader of the input where this one reads what was
	// decompressed: its errors are the file's, but for the end of ctx.
	over *faultReader
}

func (r *faultReader) Read(p []byte) (int, error) {
	at := cmp.Or(r.over, r)
	if err := r.ctx.Err(); err != nil {
		at.err = cmp.Or(at.err, err)
		return 0, err
	}
	n, err := r.in.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && r.over == nil {
		r.err = err
	}
	return n, err
}

// A gzipReader tells what is wrong after the first member of a gzip file, of
// which a file can have several.
type gzipReader struct{ in *gzip.Reader }

func (r *gzipReader) Read(p []byte) (int, error) {
	n, err := r.in.Read(p)
	if errors.Is(err, gzip.ErrHeader) {
		err = errAfterGzip
	}
	return n, err
}

// A fileReader reads bytes and counts lines.
type fileReader struct {
	in *bufio.Reader
	// line is that of the next byte; from is where the record began.
	line, from int64
	// inRecord is set once a record has begun, or what should be one.
	inRecord bool
	size     int
}

// begin says that the byte which was read last, no line end, begins a record.
func (r *fileReader) begin() { r.from, r.inRecord, r.size = r.line, true, 1 }

// between says that what comes is no record.
func (r *fileReader) between() { r.from, r.inRecord, r.size = r.line, false, 0 }

func (r *fileReader) readByte() (byte, error) {
	b, err := r.in.ReadByte()
	if err != nil {
		return 0, err
	}
	if b == '\n' {
		r.line++
	}
	if r.size++; r.size > maxRecordBytes {
		return 0, errRecordTooLong
	}
	return b, nil
}

// skipSpace returns the next byte that is no white space.
func (r *fileReader) skipSpace() (byte, error) {
	for {
		b, err := r.readByte()
		if err != nil || !strings.ContainsRune(" \t\r\n", rune(b)) {
			return b, err
		}
		r.size = 0
	}
}

// jsonArrayFile reads one array of objects.
type jsonArrayFile struct {
	*fileReader
	begun bool
	raw   []byte
}

func (f *jsonArrayFile) record() (cells, error) {
	b, err := f.separator()
	if err != nil {
		return nil, err
	}
	f.begin()
	if b != '{' {
		return nil, errors.New("not a JSON object")
	}
	if err := f.object(); err != nil {
		return nil, err
	}
	return decodeObject(f.raw)
}

// separator reads what is before a record, and the record's first byte. After
// the last record it returns io.EOF.
func (f *jsonArrayFile) separator() (byte, error) {
	f.between()
	b, err := f.skipSpace()
	f.from = f.line
	switch {
	case errors.Is(err, io.EOF) && !f.begun:
		return 0, errors.New("the file is empty; an export of nothing is []")
	case errors.Is(err, io.EOF):
		return 0, errors.New("the file ends before the ] of the array: it is cut off")
	case err != nil:
		return 0, err
	case !f.begun && b == '{':
		return 0, errors.New("not a JSON array but an object; if each line is one, the format is jsonl")
	case !f.begun && b != '[':
		return 0, errors.New("not a JSON array")
	case f.begun && b == ']':
		return 0, f.end()
	case f.begun && b != ',':
		return 0, errors.New("no comma, and no ], after a record")
	}
	first := !f.begun
	f.begun = true
	b, err = f.skipSpace()
	if err == nil && first && b == ']' {
		return 0, f.end()
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the file ends before the ] of the array: it is cut off")
	}
	return b, err
}

// end makes sure that nothing follows, and returns io.EOF.
func (f *jsonArrayFile) end() error {
	_, err := f.skipSpace()
	if err == nil {
		f.from = f.line
		return errors.New("there is something after the array")
	}
	return err
}

// object reads the rest of an object whose brace was read. It looks for its end
// alone: what it holds is the decoder's to judge.
func (f *jsonArrayFile) object() error {
	f.raw = append(f.raw[:0], '{')
	text := false
	for depth := 1; depth > 0; {
		b, err := f.readByte()
		if errors.Is(err, io.EOF) {
			return errCutOff
		}
		if err != nil {
			return err
		}
		f.raw = append(f.raw, b)
		switch {
		case text && b == '\\':
			if b, err = f.readByte(); errors.Is(err, io.EOF) {
				return errCutOff
			} else if err != nil {
				return err
			}
			f.raw = append(f.raw, b)
		case b == '"':
			text = !text
		case text:
		case b == '{' || b == '[':
			depth++
		case b == '}' || b == ']':
			depth--
		}
	}
	return nil
}

// jsonLinesFile reads one object a line.
type jsonLinesFile struct {
	*fileReader
	raw []byte
}

func (f *jsonLinesFile) record() (cells, error) {
	for {
		text, err := f.readLine()
		if err != nil {
			return nil, err
		}
		text = bytes.TrimSpace(text)
		switch {
		case len(text) == 0:
			continue
		case text[0] == '[':
			return nil, errors.New("an array, not an object; if the whole file is one array, the format is json")
		case text[0] != '{':
			return nil, errors.New("not a JSON object")
		}
		return decodeObject(text)
	}
}

func (f *jsonLinesFile) readLine() ([]byte, error) {
	f.between()
	f.raw = f.raw[:0]
	for {
		part, err := f.in.ReadSlice('\n')
		if !f.inRecord {
			// White space before a record is no part of it.
			if part = bytes.TrimLeft(part, " \t\r"); len(part) > 0 && part[0] != '\n' {
				f.inRecord = true
			}
		}
		f.raw = append(f.raw, part...)
		switch {
		case len(f.raw) > maxRecordBytes:
			return nil, errRecordTooLong
		case err == nil:
			f.line++
			return f.raw, nil
		case errors.Is(err, io.EOF) && len(f.raw) > 0:
			return f.raw, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

// decodeObject reads the columns of one record, which are parts of text. The
// decoder alone would put U+FFFD in the place of bytes that are no UTF-8, and
// make a copy of every column, known or not.
func decodeObject(text []byte) (cells, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("not valid UTF-8")
	}
	if !json.Valid(text) {
		return nil, fmt.Errorf("not valid JSON: %w", json.Unmarshal(text, new(struct{})))
	}
	c := make(cells, len(columns))
	for raw, value := range jsondoc.Members(text) {
		name := columnName(raw)
		if columns[name] == nil {
			return nil, fmt.Errorf("unknown column %s", quoted(name))
		}
		c[name] = value
	}
	return c, nil
}

// columnName is a key of a JSON object as a text, or its beginning: no column's
// name is that long.
func columnName(raw []byte) (name string) {
	const most = 4 << 10
	text := raw[1 : len(raw)-1]
	switch {
	case len(text) > most:
		return string(text[:most])
	case bytes.IndexByte(text, '\\') >= 0:
		_ = json.Unmarshal(raw, &name) // it is valid
		return name
	}
	return string(text)
}

// csvFile reads a table with a header. It keeps the line ends within a cell as
// they are, which encoding/csv does not.
type csvFile struct {
	*fileReader
	header []string
	// escape is how the texts were defused.
	escape csvEscaping
	// raw is what the cells of the row hold, one after the other, and ends is
	// where each of them ends in it. There are no more of these than the header
	// has, so that a row of commas alone needs no memory.
	raw  []byte
	ends []int
}

// A csvEscaping is how the texts of a CSV file were defused.
type csvEscaping int

const (
	// escapeNone: Python Soniq wrote the file, and an apostrophe is its own.
	escapeNone csvEscaping = iota
	// escapeStart: Soniq for Go 0.1.0 wrote it; see undefuseStart.
	escapeStart
	// escapeCells: the file has the column that says so; see defuse.
	escapeCells
)

// pythonHeader is that of a file by Python Soniq, which defuses nothing.
var pythonHeader = csvHeader[:14]

func (f *csvFile) record() (cells, error) {
	if f.header == nil {
		if err := f.readHeader(); err != nil {
			return nil, err
		}
	}
	row, n, err := f.row(len(f.header))
	if err != nil {
		return nil, err
	}
	if n != int64(len(f.header)) {
		return nil, fmt.Errorf("it has %d cells, and the header has %d", n, len(f.header))
	}
	c := make(cells, len(row))
	for i, name := range f.header {
		if !utf8.Valid(row[i]) {
			return nil, fmt.Errorf("%s: not valid UTF-8", name)
		}
		if name == escapeColumn {
			if len(row[i]) > 0 && string(row[i]) != escapeName {
				return nil, fmt.Errorf("%s: %s is not %s, which is how this Soniq escapes texts", name, quoted(string(row[i])), escapeName)
			}
			continue
		}
		if c[name], err = cellJSON(name, row[i], f.escape); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return c, nil
}

func (f *csvFile) readHeader() error {
	row, _, err := f.row(len(csvHeader) + 1)
	f.inRecord = false
	if errors.Is(err, io.EOF) {
		return errors.New("the file is empty; an export of nothing has a line with the names of the columns")
	}
	if err != nil {
		return err
	}
	// A header with more cells than there are columns has one that is unknown,
	// or there twice, among the first ones already.
	var header []string
	for _, cell := range row {
		name := string(cell)
		if columns[name] == nil && name != escapeColumn {
			return fmt.Errorf("unknown column %s", quoted(name))
		}
		if slices.Contains(header, name) {
			return fmt.Errorf("the column %s is there twice", name)
		}
		header = append(header, name)
	}
	for _, name := range requiredColumns {
		if !slices.Contains(header, name) {
			return fmt.Errorf("the column %s is missing", name)
		}
	}
	f.header = header
	switch {
	case slices.Contains(header, escapeColumn):
		f.escape = escapeCells
	case slices.Equal(header, pythonHeader):
		f.escape = escapeNone
	default:
		f.escape = escapeStart
	}
	return nil
}

// row reads one row; blank lines are none. It returns how many cells there are,
// and of these as many as asked for, which the next row overwrites.
func (f *csvFile) row(most int) (row [][]byte, n int64, err error) {
	f.between()
	var b byte
	for blank := true; blank; {
		if b, err = f.readByte(); err != nil {
			return nil, 0, err
		}
		blank = b == '\n' || b == '\r' && f.newline()
		if blank {
			f.between()
		}
	}
	f.begin()
	f.raw, f.ends = f.raw[:0], f.ends[:0]
	for next := byte(','); next == ','; {
		if n > 0 {
			if b, err = f.readByte(); errors.Is(err, io.EOF) {
				b, err = '\n', nil
			}
		}
		if err == nil {
			next, err = f.cell(b)
		}
		if err != nil {
			return nil, 0, err
		}
		if n++; n <= int64(most) {
			f.ends = append(f.ends, len(f.raw))
		} else {
			f.raw = f.raw[:f.ends[most-1]]
		}
	}
	from := 0
	for _, end := range f.ends {
		row = append(row, f.raw[from:end:end])
		from = end
	}
	return row, n, nil
}

// newline reads the second byte of a line end.
func (f *csvFile) newline() bool {
	if next, err := f.in.Peek(1); err != nil || next[0] != '\n' {
		return false
	}
	_, _ = f.readByte()
	return true
}

// cell appends one cell, whose first byte is b, to raw, and returns what ends
// it: a comma, or a line end, which the end of the file is too.
func (f *csvFile) cell(b byte) (next byte, err error) {
	if b == '"' {
		return f.quotedCell()
	}
	for {
		switch {
		case b == ',' || b == '\n':
			return b, nil
		case b == '\r' && f.newline():
			return '\n', nil
		case b == '\r':
			return 0, errors.New("a line end of CR alone outside of quotes")
		case b == '"':
			return 0, errors.New("a quote within a cell that doesn't begin with one")
		}
		f.raw = append(f.raw, b)
		if b, err = f.readByte(); errors.Is(err, io.EOF) {
			return '\n', nil
		} else if err != nil {
			return 0, err
		}
	}
}

func (f *csvFile) quotedCell() (next byte, err error) {
	for {
		b, err := f.readByte()
		if errors.Is(err, io.EOF) {
			return 0, errCutOff
		}
		if err != nil {
			return 0, err
		}
		if b != '"' {
			f.raw = append(f.raw, b)
			continue
		}
		switch b, err = f.readByte(); {
		case errors.Is(err, io.EOF):
			return '\n', nil
		case err != nil:
			return 0, err
		case b == '"':
			f.raw = append(f.raw, b)
		case b == ',' || b == '\n':
			return b, nil
		case b == '\r' && f.newline():
			return '\n', nil
		default:
			return 0, errors.New("something between the quote that ends a cell and the comma")
		}
	}
}
