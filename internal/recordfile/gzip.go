package recordfile

import (
	"compress/gzip"
	"io"
)

// longRecord is how long a record may be that is compressed. A longer one is stored as it is in a
// part of its own: a [Reader] wouldn't take it if it were much shorter compressed. See
// [MaxRecordBytes].
const longRecord = MaxRecordBytes / 2

// A Gzip compresses a file of records.
type Gzip struct {
	to     io.Writer
	writer *gzip.Writer
}

// NewGzip returns a Gzip that writes to to.
func NewGzip(to io.Writer) *Gzip { return &Gzip{to, gzip.NewWriter(to)} }

// Write compresses p.
//
// Errors: those of the output.
func (g *Gzip) Write(p []byte) (int, error) { return g.writer.Write(p) }

// Close ends the file.
//
// Errors: those of the output.
func (g *Gzip) Close() error { return g.writer.Close() }

// WriteLong writes a long record as it is, in a part of its own.
//
// Errors: those of the output.
func (g *Gzip) WriteLong(p []byte) (n int, err error) {
	if err := g.level(gzip.NoCompression); err != nil {
		return 0, err
	}
	if n, err = g.writer.Write(p); err != nil {
		return n, err
	}
	return n, g.level(gzip.DefaultCompression)
}

// level ends a part of the file, and begins one that is compressed so much.
func (g *Gzip) level(level int) (err error) {
	if err := g.writer.Close(); err != nil {
		return err
	}
	g.writer, err = gzip.NewWriterLevel(g.to, level)
	return err
}
