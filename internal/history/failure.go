package history

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/internal/jsondoc"
	"soniq/internal/pg"
)

const (
	// MaxMessageBytes limits the message of an entry: ten entries stay near 60 KiB.
	MaxMessageBytes = 2 << 10
	// MaxEntries is how many entries a history has: the first one and the last nine.
	MaxEntries = 10
	// usualBytes is the size of the largest history that Soniq writes, escapes
	// aside. Up to it a history is decoded as a whole, whichever program wrote it.
	usualBytes = 64 << 10
)

// Entry returns the entry of an attempt that ended with this verdict. worker and
// startedAt are nil if they aren't known.
func Entry(attempt int, worker *uuid.UUID, startedAt *time.Time, failedAt time.Time, v classify.Verdict) *classify.Failure {
	return &classify.Failure{
		Attempt:   attempt,
		StartedAt: startedAt,
		FailedAt:  failedAt.UTC(),
		Kind:      v.Kind,
		Type:      pg.Storable(v.Type, classify.MaxNameBytes),
		Code:      pg.Storable(v.Code, classify.MaxNameBytes),
		DecidedBy: v.DecidedBy,
		Message:   pg.Storable(v.Message, MaxMessageBytes),
		Stack:     pg.Storable(v.Stack, classify.MaxStackBytes),
		WorkerID:  worker,
	}
}

// JSON returns an entry as jsonb takes it, nil for nil.
func JSON(f *classify.Failure) *string {
	if f == nil {
		return nil
	}
	entry, err := json.Marshal(f)
	if err != nil {
		// A year beyond 9999. The rest is worth more than the times.
		plain := *f
		plain.StartedAt, plain.FailedAt = nil, time.Time{}
		entry, _ = json.Marshal(plain)
	}
	return new(string(entry))
}

// Decode reads the column 'errors'. It leaves out entries that are none, which
// another program may have written there: they must not hide the job. Of more than
// MaxEntries it reads the first one and the last nine, so that a row of any size
// takes a bounded memory.
func Decode(column []byte) []classify.Failure {
	if len(column) == 0 {
		return nil
	}
	var failures []classify.Failure
	if len(column) <= usualBytes && json.Unmarshal(column, &failures) == nil && 0 < len(failures) && len(failures) <= MaxEntries {
		return failures
	}
	// One by one, which takes longer.
	if !json.Valid(column) || bytes.TrimLeft(column, " \t\r\n")[0] != '[' {
		return nil
	}
	total := Len(column)
	failures = nil
	at := 0
	for entry := range jsondoc.Elements(column) {
		if at++; at > 1 && at <= total-(MaxEntries-1) {
			continue
		}
		var f classify.Failure
		if json.Unmarshal(entry, &f) == nil {
			failures = append(failures, f)
		}
	}
	return failures
}

// Len returns how many elements a JSON array has.
func Len(array []byte) (n int) {
	for range jsondoc.Elements(array) {
		n++
	}
	return n
}
