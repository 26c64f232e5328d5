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
	"strings"
)

// MaxRecordBytes limits a record of a file, decompressed. With the limits on what a
// record consists of (see cells) it limits the memory of a [Reader]: a few times as
// much, however long the file is and however well it was compressed.
const MaxRecordBytes = 64 << 20

// bufferBytes is how much is read at once. A record mostly has about 500 bytes.
const bufferBytes = 64 << 10

var (
	errRecordTooLong = fmt.Errorf("it is longer than %d bytes", MaxRecordBytes)
	errCutOff        = errors.New("the file ends in the middle of it")
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
	*byteReader
	fault   *faultReader
	records recordReader
	count   int64
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
	r := &Reader{fault: &faultReader{ctx: ctx, in: in}}
	buffered := bufio.NewReaderSize(r.fault, bufferBytes)
	r.byteReader = &byteReader{in: buffered, line: 1, from: 1}
	if magic, err := buffered.Peek(2); err == nil && bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		unzipped, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, r.wrong(err)
		}
		r.in = bufio.NewReaderSize(&faultReader{ctx: ctx, in: &gzipReader{unzipped}, over: r.fault}, bufferBytes)
	}
	// Some editors put a byte order mark before the first character.
	if mark, err := r.in.Peek(3); err == nil && string(mark) == "\ufeff" {
		_, _ = r.in.Discard(3)
	}
	switch format {
	case JSON:
		r.records = &jsonArrayReader{byteReader: r.byteReader}
	case JSONL:
		r.records = &jsonLinesReader{byteReader: r.byteReader}
	case CSV:
		r.records = &csvReader{byteReader: r.byteReader}
	}
	return r, nil
}

// Next returns the next record.
//
// Errors: io.EOF after the last record, *Error for the first mistake, and those of
// the input.
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
	return Record{}, r.wrong(err)
}

// wrong returns err with its place in the file. Where the input failed, it returns
// the input's error.
func (r *Reader) wrong(err error) error {
	if r.fault.err != nil {
		return r.fault.err
	}
	where := &Error{Line: r.from, Err: err}
	if r.inRecord {
		where.Record = r.count
	}
	return where
}

// A faultReader keeps an error of the input, and the end of ctx. The file's content
// isn't wrong then.
type faultReader struct {
	ctx context.Context
	in  io.Reader
	err error
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
}

// begin starts a record at the byte that was read last.
func (r *byteReader) begin() { r.from, r.inRecord, r.size = r.line, true, 1 }

// between says that the next bytes belong to no record.
func (r *byteReader) between() { r.from, r.inRecord, r.size = r.line, false, 0 }

func (r *byteReader) readByte() (byte, error) {
	b, err := r.in.ReadByte()
	if err != nil {
		return 0, err
	}
	if b == '\n' {
		r.line++
	}
	if r.size++; r.size > MaxRecordBytes {
		return 0, errRecordTooLong
	}
	return b, nil
}

// skipSpace returns the next byte that is no white space.
func (r *byteReader) skipSpace() (byte, error) {
	for {
		b, err := r.readByte()
		if err != nil || !strings.ContainsRune(" \t\r\n", rune(b)) {
			return b, err
		}
		r.size = 0
	}
}
