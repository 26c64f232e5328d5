package recordfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"
)

// maxHeader is how many columns a table may have.
const maxHeader = 1000

// csvReader reads a table with a header. It keeps the line ends within a cell, which
// encoding/csv doesn't.
type csvReader struct {
	*byteReader
	unknown *unknownColumns
	// names are those of the columns, with "" for a column that is passed over.
	names []string
	// comma separates the cells.
	comma byte
	// old says that Soniq for Go 0.1.0 may have written the file; see undefusedStart.
	old bool
	// raw has the cells of the row, one after the other, and ends has the end of
	// each. There are no more ends than the header has, so that a row of commas
	// needs no memory.
	raw  []byte
	ends []int
}

func (f *csvReader) next() (cells, error) {
	if f.names == nil {
		if err := f.readHeader(); err != nil {
			return nil, structural(err)
		}
	}
	row, n, err := f.row(len(f.names))
	if err != nil {
		return nil, structural(err)
	}
	if n != int64(len(f.names)) {
		return nil, fmt.Errorf("it has %d cells, and the header has %d", n, len(f.names))
	}
	c := make(cells, len(row))
	for i, name := range f.names {
		if name == "" {
			continue // a column that is passed over
		}
		if !utf8.Valid(row[i]) {
			return c, &fieldError{name, errNotUTF8}
		}
		if c[name], err = cellJSON(name, row[i], f.old); err != nil {
			return c, &fieldError{name, err}
		}
	}
	return c, nil
}

func (f *csvReader) readHeader() error {
	f.sniff()
	row, n, err := f.row(maxHeader)
	f.inRecord = false
	if errors.Is(err, io.EOF) {
		return errors.New("the file is empty; an export of nothing has a line with the names of the columns")
	}
	if err != nil {
		return err
	}
	if n > maxHeader {
		return fmt.Errorf("%d columns, more than the %d that are read", n, maxHeader)
	}
	names := make([]string, len(row))
	for i, cell := range row {
		names[i] = string(cell)
	}
	f.old = slices.Equal(names, header[:headerOf010])
	for i, name := range names {
		if columns[name] == nil {
			if err := f.unknown.add(name, func(known string) bool { return slices.Contains(names, known) }); err != nil {
				return err
			}
			names[i] = ""
		} else if slices.Contains(names[:i], name) {
			return fmt.Errorf("the column %s is there twice", name)
		}
	}
	for _, name := range requiredColumns {
		if !slices.Contains(names, name) {
			return fmt.Errorf("the column %s is missing", name)
		}
	}
	f.names = names
	return nil
}

// separators are what cells may be separated by.
const separators = ",;\t|"

// sniff finds out what separates the cells: whatever makes most known names of the
// first line.
func (f *csvReader) sniff() {
	f.comma = ','
	line, _ := f.in.Peek(bufferBytes)
	if line = bytes.TrimLeft(line, "\r\n"); len(line) > 0 {
		line, _, _ = bytes.Cut(line, []byte("\n"))
	}
	most := 0
	for _, separator := range []byte(separators) {
		known := 0
		for cell := range bytes.SplitSeq(line, []byte{separator}) {
			if columns[string(bytes.Trim(cell, "\"\r"))] != nil {
				known++
			}
		}
		if known > most {
			most, f.comma = known, separator
		}
	}
}

// row reads the next row that isn't blank. n is how many cells it has, and row has the
// first ones, at most as many as asked for. The next row overwrites them.
func (f *csvReader) row(most int) (row [][]byte, n int64, err error) {
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
	for next := f.comma; next == f.comma; {
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

// newline reads the second byte of a line end, if it is one.
func (f *csvReader) newline() bool {
	if next, err := f.in.Peek(1); err != nil || next[0] != '\n' {
		return false
	}
	_, _ = f.readByte()
	return true
}

// cell appends one cell, whose first byte is b, to raw. It returns the byte that ends
// it: a comma or a line end. The end of the file counts as a line end.
func (f *csvReader) cell(b byte) (next byte, err error) {
	if b == '"' {
		return f.quotedCell()
	}
	for {
		switch {
		case b == f.comma || b == '\n':
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

func (f *csvReader) quotedCell() (next byte, err error) {
	for {
		f.raw = f.take(f.raw, '"')
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
		case b == f.comma || b == '\n':
			return b, nil
		case b == '\r' && f.newline():
			return '\n', nil
		default:
			return 0, errors.New("something between the quote that ends a cell and the next cell")
		}
	}
}
