package engine

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/internal/claim"
	"soniq/internal/jobargs"
)

// JobStatus is the status of a job, as text in the database and in JSON.
type JobStatus string

// The statuses of a job.
const (
	StatusQueued     JobStatus = "queued"
	StatusProcessing JobStatus = "processing"
	StatusDone       JobStatus = "done"
	StatusCancelled  JobStatus = "cancelled"
	// StatusDeadLetter is the status of a dead letter, whose row is in
	// soniq_dead_letter_jobs and no longer in soniq_jobs.
	StatusDeadLetter JobStatus = "dead_letter"
)

// Job is one row of soniq_jobs, or of soniq_dead_letter_jobs. Times are in UTC.
//
// Printing or logging a Job shows no secrets of its arguments, its result and its
// errors: see [Job.Redacted]. Encoding it as JSON shows them.
type Job struct {
	ID   uuid.UUID `json:"id"`
	Name string    `json:"job_name"`
	// Args is a JSON object. For a job that is read, and not run, a JSON string stands
	// in the place of arguments over 16 MiB, or over 256 KiB in a list, and says how
	// large they are. Result is the same.
	Args     json.RawMessage `json:"args"`
	Queue    string          `json:"queue"`
	Priority int             `json:"priority"`
	Status   JobStatus       `json:"status"`
	// Attempts counts the claims so far. In a handler it is the number of this
	// attempt: 1 is the first.
	Attempts    int `json:"attempts"`
	MaxAttempts int `json:"max_attempts"`
	// ScheduledAt is when the job is, or was, due. Nil means at once. A job that is never
	// due, at infinity, has the end of the year 9999.
	ScheduledAt *time.Time `json:"scheduled_at,omitempty"`
	CreatedAt   time.Time  `json:"created_at"`
	UpdatedAt   time.Time  `json:"updated_at"`
	// LastError is the error of the latest failed attempt, and empty if none failed.
	// In a handler it is cut to 8,192 characters, ProducerID to 1,000 and DedupKey to
	// 3,000.
	LastError string `json:"last_error,omitempty"`
	// Result is what the handler returned, as JSON. Nil means nothing.
	Result json.RawMessage `json:"result,omitempty"`
	// ExpiresAt is when a done or cancelled job's row is deleted.
	ExpiresAt  *time.Time `json:"expires_at,omitempty"`
	ProducerID string     `json:"producer_id,omitempty"`
	DedupKey   string     `json:"dedup_key,omitempty"`
	// CancelRequestedAt is when the job's cancellation was last requested.
	CancelRequestedAt *time.Time `json:"cancel_requested_at,omitempty"`
	// WorkerID is the worker that runs the job, or ran it last.
	WorkerID *uuid.UUID `json:"worker_id,omitempty"`
	// ReplayOf is the dead letter that this job replays.
	ReplayOf *uuid.UUID `json:"replay_of,omitempty"`
	// DeadLetterReason is why the job is a dead letter. Empty for other jobs.
	DeadLetterReason classify.Reason `json:"dead_letter_reason,omitempty"`
	// Errors has the failed attempts, the oldest first: the first one and the last
	// nine. In a handler it is nil.
	Errors []classify.Failure `json:"errors,omitempty"`
	// TraceContext is that of the span that enqueued the job. [TraceContextFrom] has that
	// of a running attempt.
	TraceContext TraceContext `json:"trace_context,omitzero"`

	token int64
	// held is what the arguments take of the worker's MaxArgsMemory; nil is nothing.
	// stored is their size in the row, if that was read, else 0.
	held   *jobargs.Held
	stored int64
}

// forHandler returns the copy that a handler gets. The worker goes on with its
// own: what a handler writes to its copy must change neither the slot that is
// freed nor the claim under which the outcome is written. The bytes of Args are
// shared, since they may be megabytes.
func (j *Job) forHandler() *Job {
	// One allocation for each job.
	var copied struct {
		Job
		worker uuid.UUID
	}
	handed := &copied.Job
	*handed = *j
	handed.token, handed.held, handed.stored = 0, nil, 0
	handed.Args, handed.Result = slices.Clip(j.Args), slices.Clip(j.Result)
	handed.Errors = slices.Clone(j.Errors)
	handed.ScheduledAt, handed.ExpiresAt = clone(j.ScheduledAt), clone(j.ExpiresAt)
	handed.CancelRequestedAt = clone(j.CancelRequestedAt)
	handed.ReplayOf = clone(j.ReplayOf)
	if j.WorkerID != nil {
		copied.worker = *j.WorkerID
		handed.WorkerID = &copied.worker
	}
	return handed
}

// claimedJob is a claimed row as a job. All jobs of a worker share its id.
func claimedJob(c *claim.Job, worker *uuid.UUID, token int64) *Job {
	j := &Job{
		ID: c.ID, Name: c.Name, Args: c.Args, Queue: c.Queue, Priority: c.Priority, Status: StatusProcessing,
		Attempts: c.Attempts, MaxAttempts: c.MaxAttempts,
		ScheduledAt: c.ScheduledAt, CreatedAt: c.CreatedAt, UpdatedAt: c.UpdatedAt, LastError: c.LastError,
		ProducerID: c.ProducerID, DedupKey: c.DedupKey, WorkerID: worker, ReplayOf: c.ReplayOf, token: token,
		TraceContext: c.TraceContext,
	}
	j.inUTC()
	return j
}

func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	return new(*p)
}

// inUTC converts the times, which pgx reads as local ones.
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
