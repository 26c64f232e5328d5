package recordfile

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"unicode/utf8"

	"soniq/internal/jsondoc"
)

// jsonArrayReader reads one array of objects.
type jsonArrayReader struct {
	*byteReader
	unknown *unknownColumns
	begun   bool
	raw     []byte
}

func (f *jsonArrayReader) next() (cells, error) {
	b, err := f.separator()
	if err != nil {
		return nil, structural(err)
	}
	f.begin()
	if b != '{' {
		return nil, structural(errors.New("not a JSON object"))
	}
	if err := f.object(); err != nil {
		return nil, structural(err)
	}
	c, err := f.unknown.decodeObject(f.raw)
	if errors.As(err, new(*syntaxError)) {
		// Where the object ends isn't sure then.
		err = structural(err)
	}
	return c, err
}

// separator reads up to the first byte of a record, and returns that byte. After the
// last record it returns io.EOF.
func (f *jsonArrayReader) separator() (byte, error) {
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
func (f *jsonArrayReader) end() error {
	_, err := f.skipSpace()
	if err == nil {
		f.from = f.line
		return errors.New("there is something after the array")
	}
	return err
}

// object reads the rest of an object whose brace was read. It only looks for the end
// of the object; the decoder checks the content.
func (f *jsonArrayReader) object() error {
	f.raw = append(f.raw[:0], '{')
	text := false
	for depth := 1; depth > 0; {
		if text {
			f.raw = f.take(f.raw, '"', '\\')
		}
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

// jsonLinesReader reads one object a line.
type jsonLinesReader struct {
	*byteReader
	unknown *unknownColumns
	raw     []byte
}

func (f *jsonLinesReader) next() (cells, error) {
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
		return f.unknown.decodeObject(text)
	}
}

func (f *jsonLinesReader) readLine() ([]byte, error) {
	f.between()
	f.raw = f.raw[:0]
	// The rest of a line that is too long is read, so that the next one can be.
	var tooLong error
	for {
		part, err := f.in.ReadSlice('\n')
		if !f.inRecord {
			// White space before a record is no part of it.
			if part = bytes.TrimLeft(part, " \t\r"); len(part) > 0 && part[0] != '\n' {
				f.inRecord = true
			}
		}
		if tooLong == nil {
			f.raw = append(f.raw, part...)
			tooLong = f.checkSize(len(f.raw))
			if errors.Is(tooLong, errNoEnd) {
				return nil, structural(tooLong) // its end may never come
			}
		}
		switch {
		case err == nil:
			f.line++
			return f.raw, tooLong
		case errors.Is(err, io.EOF) && len(f.raw) > 0:
			return f.raw, tooLong
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

// A syntaxError says that a record is not JSON.
type syntaxError struct{ err error }

func (e *syntaxError) Error() string { return "not valid JSON: " + e.err.Error() }

// decodeObject returns the columns of one record, which are parts of text. The
// decoder would put U+FFFD in the place of bytes that are not UTF-8, and copy every
// column, known or not.
func (u *unknownColumns) decodeObject(text []byte) (cells, error) {
	if !utf8.Valid(text) {
		return nil, errNotUTF8
	}
	if !jsondoc.Valid(text) {
		return nil, &syntaxError{json.Unmarshal(text, new(struct{}))}
	}
	if u.cells == nil {
		u.cells = make(cells, len(columns))
	}
	c := u.cells
	clear(c)
	more := false
	for raw, value := range jsondoc.Members(text) {
		if name := knownColumn(raw); name != "" {
			c[name] = value
		} else {
			more = true
		}
	}
	if !more {
		return c, c.ofCSV()
	}
	for raw := range jsondoc.Members(text) {
		name := columnName(raw)
		if columns[name] != nil {
			continue
		}
		if err := u.add(name, func(known string) bool { _, there := c[known]; return there }); err != nil {
			return c, err
		}
	}
	return c, c.ofCSV()
}

// ofCSV reads the cells of a record that a program has made of our CSV: all of them are texts. In our
// CSV each record has the column exact, which is a text then; in our JSON it is an object or missing.
func (c cells) ofCSV() error {
	exact := c[exactColumn]
	if len(exact) == 0 || exact[0] != '"' || !bytes.HasPrefix(jsondoc.Inner(exact), []byte("{")) {
		return nil
	}
	for name, raw := range c {
		cell := []byte(raw)
		switch raw[0] {
		case '{', '[', 'n':
			continue // read already, or null
		case '"':
			text, err := assignText(raw)
			if err != nil {
				return &fieldError{name, err}
			}
			cell = []byte(text)
		}
		var err error
		if c[name], err = cellJSON(name, cell, false); err != nil {
			return &fieldError{name, err}
		}
	}
	return nil
}

// knownColumn returns the name of the column that a key of a JSON object is, or "".
func knownColumn(raw []byte) string {
	if name := columnNames[string(raw[1:len(raw)-1])]; name != "" {
		return name
	}
	if name := columnName(raw); columns[name] != nil {
		return name
	}
	return ""
}

// columnNames are the names of the columns: a map finds one of bytes without making a text of them.
var columnNames = func() map[string]string {
	names := map[string]string{}
	for name := range columns {
		names[name] = name
	}
	return names
}()

// columnName returns a key of a JSON object as text, or its beginning: no column has
// a name that long.
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
