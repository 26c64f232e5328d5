package classify

import (
	"time"

	"github.com/google/uuid"

	"soniq/internal/redact"
)

// A Failure is one entry of a job's history: how one attempt ended. The column
// 'errors' of both tables is an array of them, the oldest first. It has the first
// failure and the last nine. Times are by the database's clock, in UTC.
type Failure struct {
	// Attempt is the number of the attempt, from 1.
	Attempt int `json:"attempt"`
	// StartedAt is when the attempt was claimed, nil if that isn't known.
	StartedAt *time.Time `json:"started_at,omitempty"`
	FailedAt  time.Time  `json:"failed_at"`
	// Kind, Type, Code and DecidedBy are the verdict's.
	Kind      Kind   `json:"kind,omitempty"`
	Type      string `json:"type,omitempty"`
	Code      string `json:"code,omitempty"`
	DecidedBy string `json:"decided_by,omitempty"`
	// Message is the error's text. Beyond 2 KiB its middle is cut out.
	Message string `json:"message"`
	// Stack is the goroutine's stack at a panic, or that of a handler that ignored
	// its context, at most MaxStackBytes of it.
	Stack string `json:"stack,omitempty"`
	// WorkerID is the worker that ran the attempt.
	WorkerID *uuid.UUID `json:"worker_id,omitempty"`
}

// Redacted returns the failure with what looks like a secret replaced in its texts,
// to show it to people.
func (f Failure) Redacted() Failure {
	f.Message, f.Stack = redact.Text(f.Message), redact.Text(f.Stack)
	f.Type, f.Code, f.DecidedBy = redact.Text(f.Type), redact.Text(f.Code), redact.Text(f.DecidedBy)
	return f
}
