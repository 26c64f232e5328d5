package engine

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
)

// JobStatus is where a job is in its life, as text on the wire.
type JobStatus string

// The statuses of soniq_jobs, and the one of a job that has left it.
const (
	StatusQueued     JobStatus = "queued"
	StatusProcessing JobStatus = "processing"
	StatusDone       JobStatus = "done"
	StatusCancelled  JobStatus = "cancelled"
	// StatusDeadLetter is never in soniq_jobs: the row is in
	// soniq_dead_letter_jobs.
	StatusDeadLetter JobStatus = "dead_letter"
)

// Job is one row of soniq_jobs, or what is left of it in
// soniq_dead_letter_jobs. Times are UTC.
type Job struct {
	ID   uuid.UUID `json:"id"`
	Name string    `json:"job_name"`
	// Args is a JSON object. Where a job is only read, and not run, arguments and
	// a result over 16 MiB, or 256 KiB in a list, are a JSON string that says so.
	Args     json.RawMessage `json:"args"`
	Queue    string          `json:"queue"`
	Priority int             `json:"priority"`
	Status   JobStatus       `json:"status"`
	// Attempts counts the claims so far: in a handler it is the number of
	// this attempt, and 1 is the first.
	Attempts    int `json:"attempts"`
	MaxAttempts int `json:"max_attempts"`
	// ScheduledAt is when the job is, or was, due; nil is at once.
	ScheduledAt *time.Time `json:"scheduled_at,omitempty"`
	CreatedAt   time.Time  `json:"created_at"`
	UpdatedAt   time.Time  `json:"updated_at"`
	// LastError is the error of the latest failed attempt; empty if none
	// failed. A handler sees at most 8,192 characters of it, 1,000 of ProducerID
	// and 3,000 of DedupKey.
	LastError string `json:"last_error,omitempty"`
	// Result is what the handler returned, as JSON; nil if nothing.
	Result json.RawMessage `json:"result,omitempty"`
	// ExpiresAt is when a done or cancelled job's row is deleted.
	ExpiresAt  *time.Time `json:"expires_at,omitempty"`
	ProducerID string     `json:"producer_id,omitempty"`
	DedupKey   string     `json:"dedup_key,omitempty"`
	// CancelRequestedAt is when someone last asked to cancel the job.
	CancelRequestedAt *time.Time `json:"cancel_requested_at,omitempty"`
	// WorkerID is the worker that runs the job, or ran it last.
	WorkerID *uuid.UUID `json:"worker_id,omitempty"`
	// ReplayOf is the dead letter that this job replays.
	ReplayOf *uuid.UUID `json:"replay_of,omitempty"`
	// DeadLetterReason is set where Status is StatusDeadLetter.
	DeadLetterReason deadletter.Reason `json:"dead_letter_reason,omitempty"`
	// Errors tells of each failed attempt, the oldest first: the first one and
	// the last nine. In a handler it is nil.
	Errors []deadletter.Failure `json:"errors,omitempty"`

	token int64
	// held is what its arguments take of the worker's memory; nil is nothing that
	// is counted. stored is their size in the row, where that was asked.
	held   *heldArgs
	stored int64
}

// forHandler returns the copy that a handler gets. The worker goes on with its
// own: what a handler writes to its copy must change neither the slot that is
// freed nor the claim under which the outcome is written. The bytes of Args are
// shared, since they may be megabytes.
func (j *Job) forHandler() *Job {
	handed := *j
	handed.token, handed.held, handed.stored = 0, nil, 0
	handed.Args, handed.Result = slices.Clip(j.Args), slices.Clip(j.Result)
	handed.Errors = slices.Clone(j.Errors)
	handed.ScheduledAt, handed.ExpiresAt = clone(j.ScheduledAt), clone(j.ExpiresAt)
	handed.CancelRequestedAt = clone(j.CancelRequestedAt)
	handed.WorkerID, handed.ReplayOf = clone(j.WorkerID), clone(j.ReplayOf)
	return &handed
}

func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	return new(*p)
}

// inUTC turns the times that were read, which are local ones.
func (j *Job) inUTC() {
	for _, t := range []*time.Time{&j.CreatedAt, &j.UpdatedAt, j.ScheduledAt, j.ExpiresAt, j.CancelRequestedAt} {
		if t != nil {
			*t = t.UTC()
		}
	}
}

type jobKey struct{}

// JobFromContext returns the job that a handler's context belongs to, or nil
// outside a handler. It is the handler's copy: see [HandlerFunc].
func JobFromContext(ctx context.Context) *Job {
	job, _ := ctx.Value(jobKey{}).(*Job)
	return job
}
