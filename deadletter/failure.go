package deadletter

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// How much of an error an entry of the history keeps, in bytes: ten of them
// stay near 60 KiB at the worst.
const (
	maxFailureBytes = 2 << 10
	maxStackBytes   = 4 << 10
	// usualHistoryBytes is what a history of ours takes at the most, escapes
	// aside: it may be decoded as a whole, whoever wrote it.
	usualHistoryBytes = 64 << 10
)

// A Failure is one entry of a job's history: what one attempt ended with. The
// column 'errors' of both tables has the first failure and the last nine, as
// an array, oldest first. Times are by the database's clock.
type Failure struct {
	// Attempt is the number of the attempt, from 1.
	Attempt int `json:"attempt"`
	// StartedAt is when the attempt was claimed; nil if that isn't known.
	StartedAt *time.Time `json:"started_at,omitempty"`
	FailedAt  time.Time  `json:"failed_at"`
	// Kind, Type, Code and DecidedBy are the verdict's.
	Kind      Kind   `json:"kind,omitempty"`
	Type      string `json:"type,omitempty"`
	Code      string `json:"code,omitempty"`
	DecidedBy string `json:"decided_by,omitempty"`
	// Message is the error's text, its middle cut out beyond 2 KiB.
	Message string `json:"message"`
	// Stack is the goroutine's stack where there was one to tell: of a panic,
	// or of a handler that ignored its context.
	Stack string `json:"stack,omitempty"`
	// WorkerID is the worker that ran the attempt.
	WorkerID *uuid.UUID `json:"worker_id,omitempty"`
}

// NewFailure is the entry of an attempt that was judged so.
func NewFailure(attempt int, worker *uuid.UUID, startedAt *time.Time, failedAt time.Time, v Verdict) *Failure {
	return &Failure{
		Attempt:   attempt,
		StartedAt: startedAt,
		FailedAt:  failedAt.UTC(),
		Kind:      v.Kind,
		Type:      Storable(v.Type, maxNameBytes),
		Code:      Storable(v.Code, maxNameBytes),
		DecidedBy: v.DecidedBy,
		Message:   Storable(v.Message, maxFailureBytes),
		Stack:     Storable(v.Stack, maxStackBytes),
		WorkerID:  worker,
	}
}

// JSON returns the entry as the database takes it, nil for nil.
func (f *Failure) JSON() *string {
	if f == nil {
		return nil
	}
	entry, err := json.Marshal(f)
	if err != nil {
		// A year beyond 9999: the rest is worth more than the times.
		plain := *f
		plain.StartedAt, plain.FailedAt = nil, time.Time{}
		entry, _ = json.Marshal(plain)
	}
	return new(string(entry))
}

// DecodeFailures reads the column 'errors'. What another program may have put
// there is left out: it must not hide the job. Of more entries than a history
// has it reads the first and the last nine, so that a row of any size takes a
// bounded memory.
func DecodeFailures(column []byte) []Failure {
	if len(column) == 0 {
		return nil
	}
	var failures []Failure
	if len(column) <= usualHistoryBytes && json.Unmarshal(column, &failures) == nil && 0 < len(failures) && len(failures) <= maxFailures {
		return failures
	}
	// One by one, which takes longer.
	if !json.Valid(column) || bytes.TrimLeft(column, " \t\r\n")[0] != '[' {
		return nil
	}
	total := 0
	for range parts(column) {
		total++
	}
	failures = nil
	at := 0
	for entry := range parts(column) {
		if at++; at > 1 && at <= total-(maxFailures-1) {
			continue
		}
		var f Failure
		if json.Unmarshal(entry, &f) == nil {
			failures = append(failures, f)
		}
	}
	return failures
}
