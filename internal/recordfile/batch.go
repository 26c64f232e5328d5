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
	// Alone is the one record of a batch of one that is too long for JSON in a statement, or
	// nested too deep. It is valid until the next batch is read. Nil for other batches.
	Alone *Record

	rows   [][]byte
	brief  []Brief
	places []place
	bytes  int
}

// A Brief is what a preview needs to know of a record.
type Brief struct {
	// Exact: the record has [Record.Exact], which the database alone can check.
	Exact bool
	// Replay is the job that replays it, in the state replaying; else nil.
	Replay *uuid.UUID
}

// Briefs are those of the records.
func (b *Batch) Briefs() []Brief { return b.brief }

// A place is that of a record in its file.
type place struct{ line, record int64 }

type pendingRecord struct {
	Record
	place
}

func (b *Batch) add(id uuid.UUID, row []byte, brief Brief, at place) {
	b.IDs = append(b.IDs, id)
	b.rows = append(b.rows, row)
	b.brief = append(b.brief, brief)
	b.places = append(b.places, at)
	b.bytes += len(row)
}

// Pick returns the records of the batch for whose id pick returns true.
func (b *Batch) Pick(pick func(id uuid.UUID) bool) Batch {
	picked := Batch{Alone: b.Alone}
	for n, id := range b.IDs {
		if pick(id) {
			picked.add(id, b.rows[n], b.brief[n], b.places[n])
		}
	}
	return picked
}

// Halves returns the first and the second half of a batch of at least two records.
func (b *Batch) Halves() (first, second Batch) {
	half := len(b.IDs) / 2
	for n, id := range b.IDs {
		if n < half {
			first.add(id, b.rows[n], b.brief[n], b.places[n])
		} else {
			second.add(id, b.rows[n], b.brief[n], b.places[n])
		}
	}
	return first, second
}

// Refused returns err as the mistake of the one record of the batch: the database doesn't take it.
func (b *Batch) Refused(err error) *Error {
	return &Error{Line: b.places[0].line, Record: b.places[0].record, ID: b.IDs[0].String(), Err: err}
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

func (r *Record) brief() Brief {
	b := Brief{Exact: r.Exact != nil}
	if r.State == stateReplaying {
		b.Replay = r.ReplayJobID
		if b.Replay == nil {
			b.Replay = &uuid.Nil
		}
	}
	return b
}

// NextBatch returns the next records. more is false at the end of the file. skip is called with
// each mistake after which the file can be read on; if it returns nil, the record is left out.
//
// Errors: those of [Reader.Next] and of skip, and that of ctx.
func (r *Reader) NextBatch(ctx context.Context, skip func(*Error) error) (b Batch, more bool, err error) {
	if p := r.pending; p != nil {
		r.pending = nil
		b.Alone = &p.Record
		b.add(p.ID, nil, p.Record.brief(), p.place)
		return b, true, nil
	}
	for len(b.IDs) < batchRecords && b.bytes < batchBytes {
		if err := ctx.Err(); err != nil {
			return b, false, err
		}
		record, err := r.Next()
		switch mistake := (*Error)(nil); {
		case errors.Is(err, io.EOF):
			return b, false, nil
		case errors.As(err, &mistake) && !mistake.Fatal:
			if err := skip(mistake); err != nil {
				return b, false, err
			}
			continue
		case err != nil:
			return b, false, err
		}
		at := place{r.from, r.count}
		if record.alone() {
			r.pending = &pendingRecord{record, at}
			break
		}
		brief := record.brief()
		if r.Preview && !brief.Exact {
			b.add(record.ID, nil, brief, at)
			continue
		}
		row := make([]byte, 0, len(record.Args)+len(record.Tags)+len(record.Errors)+recordOverhead)
		b.add(record.ID, record.appendFilled(row), brief, at)
	}
	return b, true, nil
}
