package recordfile

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"
)

// csvReader reads a table with a header. It keeps the line ends within a cell, which
// encoding/csv doesn't.
type csvReader struct {
	*byteReader
	names []string
	// escape says how the texts were escaped.
	escape csvEscaping
	// raw has the cells of the row, one after the other, and ends has the end of
	// each. There are no more ends than the header has, so that a row of commas
	// needs no memory.
	raw  []byte
	ends []int
}

// A csvEscaping says how the texts of a CSV file were escaped.
type csvEscaping int

const (
	// escapeNone: Python Soniq wrote the file. It escapes nothing.
	escapeNone csvEscaping = iota
	// escapeStart: Soniq for Go 0.1.0 wrote it; see undefuseStart.
	escapeStart
	// escapeCells: the file has the column that says so; see defuse.
	escapeCells
)

// pythonHeader is the header of a file by Python Soniq.
var pythonHeader = header[:14]

func (f *csvReader) next() (cells, error) {
	if f.names == nil {
		if err := f.readHeader(); err != nil {
			return nil, err
		}
	}
	row, n, err := f.row(len(f.names))
	if err != nil {
		return nil, err
	}
	if n != int64(len(f.names)) {
		return nil, fmt.Errorf("it has %d cells, and the header has %d", n, len(f.names))
	}
	c := make(cells, len(row))
	for i, name := range f.names {
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

func (f *csvReader) readHeader() error {
	row, _, err := f.row(len(header) + 1)
	f.inRecord = false
	if errors.Is(err, io.EOF) {
		return errors.New("the file is empty; an export of nothing has a line with the names of the columns")
	}
	if err != nil {
		return err
	}
	// A header with more cells than there are columns has one that is unknown,
	// or there twice, among the first ones already.
	var names []string
	for _, cell := range row {
		name := string(cell)
		if columns[name] == nil && name != escapeColumn {
			return fmt.Errorf("unknown column %s", quoted(name))
		}
		if slices.Contains(names, name) {
			return fmt.Errorf("the column %s is there twice", name)
		}
		names = append(names, name)
	}
	for _, name := range requiredColumns {
		if !slices.Contains(names, name) {
			return fmt.Errorf("the column %s is missing", name)
		}
	}
	f.names = names
	switch {
	case slices.Contains(names, escapeColumn):
		f.escape = escapeCells
	case slices.Equal(names, pythonHeader):
		f.escape = escapeNone
	default:
		f.escape = escapeStart
	}
	return nil
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

func (f *csvReader) quotedCell() (next byte, err error) {
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
