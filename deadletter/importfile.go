package deadletter

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
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

// maxRecordBytes bounds the memory that one record of a file can take.
const maxRecordBytes = 64 << 20

var (
	errRecordTooLong = fmt.Errorf("it is longer than %d bytes", maxRecordBytes)
	errCutOff        = errors.New("the file ends in the middle of it")
)

// A cells is a record of a file: its columns by name, as JSON.
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
// its first two bytes.
func openImport(in io.Reader, format Format) (*importFile, error) {
	if _, err := ParseFormat(string(format)); err != nil {
		return nil, err
	}
	f := &importFile{fault: &faultReader{in: in}}
	buffered := bufio.NewReaderSize(f.fault, exportBuffer)
	f.fileReader = &fileReader{in: buffered, line: 1, from: 1}
	if magic, err := buffered.Peek(2); err == nil && bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		unzipped, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, f.wrong(err)
		}
		f.in = bufio.NewReaderSize(unzipped, exportBuffer)
	}
	// What some editors put before the first character.
	if mark, err := f.in.Peek(3); err == nil && string(mark) == "\ufeff" {
		_, _ = f.in.Discard(3)
	}
	switch format {
	case FormatJSON:
		f.records = &jsonArrayFile{fileReader: f.fileReader}
	case FormatJSONL:
		f.records = &jsonLinesFile{f.fileReader}
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

// A faultReader remembers an error of the reader below: it isn't the file's
// content that is wrong then.
type faultReader struct {
	in  io.Reader
	err error
}

func (r *faultReader) Read(p []byte) (int, error) {
	n, err := r.in.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
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
type jsonLinesFile struct{ *fileReader }

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

func (f *jsonLinesFile) readLine() (text []byte, err error) {
	f.between()
	for {
		part, err := f.in.ReadSlice('\n')
		text = append(text, part...)
		f.inRecord = f.inRecord || len(bytes.TrimSpace(part)) > 0
		switch {
		case len(text) > maxRecordBytes:
			return nil, errRecordTooLong
		case err == nil:
			f.line++
			return text, nil
		case errors.Is(err, io.EOF) && len(text) > 0:
			return text, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

// decodeObject reads the columns of one record. The decoder alone would put
// U+FFFD in the place of bytes that are no UTF-8.
func decodeObject(text []byte) (cells, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("not valid UTF-8")
	}
	var c cells
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, fmt.Errorf("not valid JSON: %w", err)
	}
	return c, nil
}

// csvFile reads a table with a header. It keeps the line ends within a cell as
// they are, which encoding/csv does not.
type csvFile struct {
	*fileReader
	header []string
	// plain: Soniq for Go didn't write it, so a cell's apostrophe is its own.
	plain bool
}

// pythonHeader is that of a file by Python Soniq, which defuses nothing.
var pythonHeader = csvHeader[:14]

func (f *csvFile) record() (cells, error) {
	if f.header == nil {
		if err := f.readHeader(); err != nil {
			return nil, err
		}
	}
	row, err := f.row()
	if err != nil {
		return nil, err
	}
	if len(row) != len(f.header) {
		return nil, fmt.Errorf("it has %d cells, and the header has %d", len(row), len(f.header))
	}
	c := make(cells, len(row))
	for i, name := range f.header {
		if !utf8.ValidString(row[i]) {
			return nil, fmt.Errorf("%s: not valid UTF-8", name)
		}
		c[name] = cellJSON(name, row[i], f.plain)
	}
	return c, nil
}

func (f *csvFile) readHeader() error {
	header, err := f.row()
	f.inRecord = false
	if errors.Is(err, io.EOF) {
		return errors.New("the file is empty; an export of nothing has a line with the names of the columns")
	}
	if err != nil {
		return err
	}
	for i, name := range header {
		if _, known := columns[name]; !known {
			return fmt.Errorf("unknown column %s", quoted(name))
		}
		if slices.Contains(header[:i], name) {
			return fmt.Errorf("the column %s is there twice", name)
		}
	}
	for _, name := range requiredColumns {
		if !slices.Contains(header, name) {
			return fmt.Errorf("the column %s is missing", name)
		}
	}
	f.header, f.plain = header, slices.Equal(header, pythonHeader)
	return nil
}

// row reads one row; blank lines are none.
func (f *csvFile) row() ([]string, error) {
	f.between()
	var b byte
	for blank := true; blank; {
		var err error
		if b, err = f.readByte(); err != nil {
			return nil, err
		}
		blank = b == '\n' || b == '\r' && f.newline()
		if blank {
			f.between()
		}
	}
	f.begin()
	var row []string
	for {
		cell, next, err := f.cell(b)
		if err != nil {
			return nil, err
		}
		row = append(row, cell)
		if next != ',' {
			return row, nil
		}
		if b, err = f.readByte(); errors.Is(err, io.EOF) {
			return append(row, ""), nil
		} else if err != nil {
			return nil, err
		}
	}
}

// newline reads the second byte of a line end.
func (f *csvFile) newline() bool {
	if next, err := f.in.Peek(1); err != nil || next[0] != '\n' {
		return false
	}
	_, _ = f.readByte()
	return true
}

// cell reads one cell, whose first byte is b, and what ends it: a comma, or a
// line end, which the end of the file is too.
func (f *csvFile) cell(b byte) (text string, next byte, err error) {
	if b == '"' {
		return f.quotedCell()
	}
	var cell []byte
	for {
		switch {
		case b == ',' || b == '\n':
			return string(cell), b, nil
		case b == '\r' && f.newline():
			return string(cell), '\n', nil
		case b == '\r':
			return "", 0, errors.New("a line end of CR alone outside of quotes")
		case b == '"':
			return "", 0, errors.New("a quote within a cell that doesn't begin with one")
		}
		cell = append(cell, b)
		if b, err = f.readByte(); errors.Is(err, io.EOF) {
			return string(cell), '\n', nil
		} else if err != nil {
			return "", 0, err
		}
	}
}

func (f *csvFile) quotedCell() (text string, next byte, err error) {
	var cell []byte
	for {
		b, err := f.readByte()
		if errors.Is(err, io.EOF) {
			return "", 0, errCutOff
		}
		if err != nil {
			return "", 0, err
		}
		if b != '"' {
			cell = append(cell, b)
			continue
		}
		switch b, err = f.readByte(); {
		case errors.Is(err, io.EOF):
			return string(cell), '\n', nil
		case err != nil:
			return "", 0, err
		case b == '"':
			cell = append(cell, b)
		case b == ',' || b == '\n':
			return string(cell), b, nil
		case b == '\r' && f.newline():
			return string(cell), '\n', nil
		default:
			return "", 0, errors.New("something between the quote that ends a cell and the comma")
		}
	}
}
