package recordfile

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/google/uuid"
)

// Limits of a [Batch]: above them a larger one gains nothing, and takes memory.
const (
	batchRecords = 1000
	batchBytes   = 4 << 20
)

// recordOverhead is what the JSON of a record mostly has beside its arguments, tags and
// history.
const recordOverhead = 2 << 10

// A Batch is some records as JSON.
type Batch struct {
	// IDs are the ids of the records.
	IDs []uuid.UUID
	// First is the number of the first record in the file, from 1.
	First int64

	rows  [][]byte
	bytes int
}

func (b *Batch) add(id uuid.UUID, row []byte) {
	b.IDs = append(b.IDs, id)
	b.rows = append(b.rows, row)
	b.bytes += len(row)
}

// Pick returns the records of the batch for whose id pick returns true.
func (b *Batch) Pick(pick func(id uuid.UUID) bool) Batch {
	picked := Batch{First: b.First}
	for n, id := range b.IDs {
		if pick(id) {
			picked.add(id, b.rows[n])
		}
	}
	return picked
}

// Array returns the batch as a JSON array. It takes no more memory than its own
// length: one record can have many megabytes.
func (b *Batch) Array() string {
	var text strings.Builder
	text.Grow(b.bytes + len(b.rows) + 2)
	text.WriteByte('[')
	for n, row := range b.rows {
		if n > 0 {
			text.WriteByte(',')
		}
		text.Write(row)
	}
	text.WriteByte(']')
	return text.String()
}

// NextBatch returns the next records. more is false at the end of the file.
//
// Errors: those of [Reader.Next], for the first mistake in any of the records, and that
// of ctx.
func (r *Reader) NextBatch(ctx context.Context) (b Batch, more bool, err error) {
	b.First = r.count + 1
	for len(b.IDs) < batchRecords && b.bytes < batchBytes {
		if err := ctx.Err(); err != nil {
			return b, false, err
		}
		record, err := r.Next()
		if errors.Is(err, io.EOF) {
			return b, false, nil
		}
		if err != nil {
			return b, false, err
		}
		row := make([]byte, 0, len(record.Args)+len(record.Tags)+len(record.Errors)+recordOverhead)
		b.add(record.ID, record.AppendJSON(row))
	}
	return b, true, nil
}
