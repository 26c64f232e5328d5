package recordfile

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
	"io/fs"
	"strings"
)

// MaxRecordBytes limits a record of a file that was compressed: it may have so many bytes,
// and 20 more for each byte that it takes in the file. A [Writer] keeps below, see [Gzip]. So
// the memory of a [Reader] is a few times what the record takes in the file and this.
const MaxRecordBytes = 64 << 20

const (
	// mostInflated is how many bytes a long record may have for each byte of the file.
	mostInflated = 20
	// mostRecordBytes limits any record. No server sends or takes a row over 1 GiB.
	mostRecordBytes = 2 << 30
	// mostStreamedBytes limits a record of what is no regular file. A pipe or a device may have
	// no end, and what has been read of a record is in memory.
	mostStreamedBytes = MaxRecordBytes
)

// bufferBytes is how much is read at once. A record mostly has about 500 bytes.
const bufferBytes = 64 << 10

var (
	errRecordTooLong = fmt.Errorf("it is longer than %d bytes", mostRecordBytes)
	errNoEnd         = fmt.Errorf("it is longer than %d bytes, and this is no regular file; if it has an end, write it to a file first", mostStreamedBytes)
	errInflated      = fmt.Errorf("it is longer than %d bytes, and over %d times as long as in the compressed file; decompress the file first if you trust it", MaxRecordBytes, mostInflated)
	errCutOff        = errors.New("the file ends in the middle of it")
	errNotUTF8       = errors.New("not valid UTF-8")
	errUTF16         = errors.New("the file is UTF-16; save it as UTF-8")
	errAfterGzip     = errors.New("after the compressed data comes something that gzip did not write; the file is damaged, or something was appended to it")
)

// cells are a record of a file: its columns by name, as JSON. All are known columns.
// They are valid until the next record is read.
type cells map[string]json.RawMessage

// A recordReader reads the records of one format. next returns io.EOF after the last
// record, and another error where the file isn't whole.
type recordReader interface {
	next() (cells, error)
}

// A Reader reads the records of a file.
type Reader struct {
	// Preview leaves the JSON of a record out of its [Batch], unless the record is Alone or
	// has [Record.Exact]: a preview has no need of it.
	Preview bool

	*byteReader
	fault   *faultReader
	records recordReader
	unknown *unknownColumns
	count   int64
	// pending is a record that was read and is in no batch yet.
	pending *pendingRecord
}

// NewReader reads the beginning of in. It knows a file that gzip compressed by its
// first two bytes. The end of ctx is an error of the input, at the next bytes that
// are needed: a small file can be a very long one that was compressed, without one
// record in it.
//
// Errors: *Error for a damaged file, one that names the formats for an unknown
// format, and those of in.
func NewReader(ctx context.Context, in io.Reader, format Format) (*Reader, error) {
	if _, err := ParseFormat(string(format)); err != nil {
		return nil, err
	}
	r := &Reader{fault: &faultReader{ctx: ctx, in: in, streamed: !hasEnd(in)}, unknown: &unknownColumns{}}
	buffered := bufio.NewReaderSize(r.fault, bufferBytes)
	r.byteReader = &byteReader{in: buffered, line: 1, from: 1, fault: r.fault}
	if magic, err := buffered.Peek(2); err == nil && bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		unzipped, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, r.wrong(nil, structural(err))
		}
		r.in = bufio.NewReaderSize(&faultReader{ctx: ctx, in: &gzipReader{unzipped}, over: r.fault}, bufferBytes)
	}
	if mark, err := r.in.Peek(2); err == nil && (string(mark) == "\xff\xfe" || string(mark) == "\xfe\xff") {
		return nil, r.wrong(nil, structural(errUTF16))
	}
	// Some editors put a byte order mark before the first character.
	if mark, err := r.in.Peek(3); err == nil && string(mark) == "\ufeff" {
		_, _ = r.in.Discard(3)
	}
	switch format {
	case JSON:
		r.records = &jsonArrayReader{byteReader: r.byteReader, unknown: r.unknown}
	case JSONL:
		r.records = &jsonLinesReader{byteReader: r.byteReader, unknown: r.unknown}
	case CSV:
		r.records = &csvReader{byteReader: r.byteReader, unknown: r.unknown}
	}
	return r, nil
}

// hasEnd reports whether in surely has an end: it is in memory and says its length, or it
// is a regular file, or says so as an *os.File does.
func hasEnd(in io.Reader) bool {
	if _, ok := in.(interface{ Len() int }); ok {
		return true
	}
	f, ok := in.(interface{ Stat() (fs.FileInfo, error) })
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular()
}

// Next returns the next record. What it has of JSON is valid until the call after it.
//
// Errors: io.EOF after the last record, *Error for a mistake, and those of the input. After an
// *Error that is not Fatal, Next can go on with the record after it.
func (r *Reader) Next() (Record, error) {
	c, err := r.records.next()
	if errors.Is(err, io.EOF) {
		return Record{}, io.EOF
	}
	if r.inRecord {
		r.count++
	}
	if err == nil {
		var record Record
		if record, err = c.record(); err == nil {
			return record, nil
		}
	}
	return Record{}, r.wrong(c, err)
}

// Ignored returns the names of the columns that the file has and a dead letter hasn't, or the
// beginning of them.
func (r *Reader) Ignored() []string { return r.unknown.names }

// wrong returns err with its place in the file. Where the input failed, it returns
// the input's error.
func (r *Reader) wrong(c cells, err error) error {
	if r.fault.err != nil {
		return r.fault.err
	}
	where := &Error{Line: r.from, Err: err, ID: c.id()}
	if r.inRecord {
		where.Record = r.count
	}
	var shape *structuralError
	if where.Fatal = errors.As(err, &shape); where.Fatal {
		where.Err = shape.err
	}
	if field := (*fieldError)(nil); errors.As(err, &field) {
		where.Field, where.Err = field.name, field.err
	}
	return where
}

// A structuralError is a mistake after which the place of the next record isn't known.
type structuralError struct{ err error }

func structural(err error) error {
	if errors.Is(err, io.EOF) {
		return err
	}
	return &structuralError{err}
}

func (e *structuralError) Error() string { return e.err.Error() }
func (e *structuralError) Unwrap() error { return e.err }

// A fieldError is a mistake in a column.
type fieldError struct {
	name string
	err  error
}

func (e *fieldError) Error() string { return e.name + ": " + e.err.Error() }
func (e *fieldError) Unwrap() error { return e.err }

// A faultReader keeps an error of the input, and the end of ctx. The file's content
// isn't wrong then.
type faultReader struct {
	ctx context.Context
	in  io.Reader
	err error
	// read is how many bytes were read.
	read int64
	// streamed: in is no regular file, and may have no end.
	streamed bool
	// over is the faultReader of the input, where this one reads decompressed bytes.
	// Its errors are about the file's content, but for the end of ctx.
	over *faultReader
}

func (r *faultReader) Read(p []byte) (int, error) {
	at := cmp.Or(r.over, r)
	if err := r.ctx.Err(); err != nil {
		at.err = cmp.Or(at.err, err)
		return 0, err
	}
	n, err := r.in.Read(p)
	r.read += int64(n)
	if err != nil && !errors.Is(err, io.EOF) && r.over == nil {
		r.err = err
	}
	return n, err
}

// A gzipReader returns a clear error for other bytes after a member of a gzip file. A
// file can have several members.
type gzipReader struct{ in *gzip.Reader }

func (r *gzipReader) Read(p []byte) (int, error) {
	n, err := r.in.Read(p)
	if errors.Is(err, gzip.ErrHeader) {
		err = errAfterGzip
	}
	return n, err
}

// A byteReader reads bytes and counts lines.
type byteReader struct {
	in *bufio.Reader
	// line is that of the next byte; from is where the record began.
	line, from int64
	// inRecord is set once a record has begun, or what should be one.
	inRecord bool
	size     int
	// fault is the file's own reader, and began how much of the file was read when the
	// record began.
	fault *faultReader
	began int64
}

// begin starts a record at the byte that was read last.
func (r *byteReader) begin() { r.from, r.inRecord, r.size = r.line, true, 1 }

// between says that the next bytes belong to no record.
func (r *byteReader) between() {
	r.from, r.inRecord, r.size, r.began = r.line, false, 0, r.fault.read
}

// checkSize is the error of a record with so many bytes, if these are too many.
func (r *byteReader) checkSize(size int) error {
	if size <= MaxRecordBytes {
		return nil
	}
	if size > mostRecordBytes {
		return errRecordTooLong
	}
	// Of a file that isn't compressed it is less than the record by what was read ahead.
	taken := r.fault.read - r.began + bufferBytes
	switch {
	case int64(size) > MaxRecordBytes+mostInflated*taken:
		return errInflated
	case size > mostStreamedBytes && int64(size) <= taken && r.fault.streamed:
		return errNoEnd
	}
	return nil
}

func (r *byteReader) readByte() (byte, error) {
	b, err := r.in.ReadByte()
	if err != nil {
		return 0, err
	}
	if b == '\n' {
		r.line++
	}
	if r.size++; r.size > MaxRecordBytes {
		return b, r.checkSize(r.size)
	}
	return b, nil
}

// take appends to raw the next bytes that were read ahead, up to the first one of stops, and
// only while the record is so short that its size needs no check.
func (r *byteReader) take(raw []byte, stops ...byte) []byte {
	part, _ := r.in.Peek(min(r.in.Buffered(), max(0, MaxRecordBytes-r.size)))
	for _, stop := range stops {
		if i := bytes.IndexByte(part, stop); i >= 0 {
			part = part[:i]
		}
	}
	r.line += int64(bytes.Count(part, []byte{'\n'}))
	r.size += len(part)
	raw = append(raw, part...)
	_, _ = r.in.Discard(len(part)) // it was read ahead
	return raw
}

const whiteSpace = " \t\r\n"

// skipSpace returns the next byte that is no white space.
func (r *byteReader) skipSpace() (byte, error) {
	for {
		ahead, _ := r.in.Peek(r.in.Buffered())
		if space := ahead[:len(ahead)-len(bytes.TrimLeft(ahead, whiteSpace))]; len(space) > 0 {
			r.size = 0
			r.line += int64(bytes.Count(space, []byte{'\n'}))
			_, _ = r.in.Discard(len(space)) // it was read ahead
		}
		b, err := r.readByte()
		if err != nil || !strings.ContainsRune(whiteSpace, rune(b)) {
			return b, err
		}
		r.size = 0
	}
}
