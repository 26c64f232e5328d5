package deadletter

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"soniq/deadletter/classify"
	"soniq/internal/history"
	"soniq/internal/jsondoc"
	"soniq/internal/pg"
	"soniq/internal/tracecontext"
)

// State is what became of a dead letter. Its text is that of the column.
type State string

// The states of a dead letter.
const (
	// StateDead: it was not replayed, or its latest replay died or was cancelled.
	StateDead State = "dead"
	// StateReplaying: its latest replay, the job ReplayJobID, hasn't ended.
	StateReplaying State = "replaying"
	// StateResolved: a replay of it succeeded.
	StateResolved State = "resolved"
	// StateSuperseded is no state of a row, only of counts: the row is dead, and its
	// work died again in a replay or was replayed again since.
	StateSuperseded State = "superseded"
)

// A Job is a dead letter: a row of soniq_dead_letter_jobs. Its JSON has the names
// of the columns. Times are in UTC. A text that is NULL in the database is empty.
//
// Reads are bounded, but for an export: arguments over 16 MiB, or 256 KiB in a
// list, or nested over 1,000 levels deep, are replaced by a JSON string that says so,
// and so are Tags. LastError is cut at 65,536 characters, DedupKey and ArgsHash at
// 3,000, JobName and Queue at 2,000, ProducerID at 1,000. A history over 1 MiB is left
// out.
type Job struct {
	// ID is the id that the job had in the queue.
	ID      uuid.UUID `json:"id"`
	JobName string    `json:"job_name"`
	// Args are the arguments, a JSON object. Numbers keep their digits.
	Args  json.RawMessage `json:"args"`
	Queue string          `json:"queue"`
	// Priority: the lower number runs first.
	Priority    int `json:"priority"`
	MaxAttempts int `json:"max_attempts"`
	// Attempts is how often the job was started.
	Attempts int `json:"attempts"`
	// LastError is the text of the last attempt's error.
	LastError string `json:"last_error"`
	// Reason is why the job died.
	Reason classify.Reason `json:"dead_letter_reason"`
	// OriginalCreatedAt is when the job was enqueued.
	OriginalCreatedAt time.Time `json:"original_created_at"`
	// MovedAt is when it died.
	MovedAt time.Time `json:"moved_to_dead_letter_at"`
	// ResurrectionCount is how often it was replayed.
	ResurrectionCount int `json:"resurrection_count"`
	// LastResurrectionAt is when it was last replayed, or nil.
	LastResurrectionAt *time.Time `json:"last_resurrection_at"`
	// Tags is a JSON object, or nil.
	Tags json.RawMessage `json:"tags"`

	// State is what became of it.
	State State `json:"state"`
	// ReplayJobID is the job that the latest replay made, or nil.
	ReplayJobID *uuid.UUID `json:"replay_job_id"`
	// ReplayOf is the dead letter that this job was a replay of, or nil.
	ReplayOf *uuid.UUID `json:"replay_of"`
	// ErrorKind, ErrorType, ErrorCode, DecidedBy and Fingerprint are those of the
	// verdict. They are empty if another program moved the job.
	ErrorKind   classify.Kind `json:"error_kind"`
	ErrorType   string        `json:"error_type"`
	ErrorCode   string        `json:"error_code"`
	DecidedBy   string        `json:"decided_by"`
	Fingerprint string        `json:"fingerprint"`

	// ArgsHash, UniqueJob, DedupKey and ProducerID are those of the job. They are
	// nil or false if a program moved it that doesn't keep them.
	ArgsHash   *string `json:"args_hash"`
	UniqueJob  bool    `json:"unique_job"`
	DedupKey   *string `json:"dedup_key"`
	ProducerID *string `json:"producer_id"`
	// WorkerID is the worker that ran the last attempt, or nil.
	WorkerID *uuid.UUID `json:"worker_id"`
	// ScheduledAt is when the last attempt was due, or nil if it was due at once.
	ScheduledAt *time.Time `json:"scheduled_at"`

	// MovedXID is the transaction in which the job died. Readers that must miss
	// nothing go by (MovedXID, ID), see docs/channel.md. Nil for rows older than
	// Soniq for Go and for imported ones.
	MovedXID *uint64 `json:"moved_xid"`
	// CreatedAt is when the row was made, or nil.
	CreatedAt *time.Time `json:"created_at"`

	// Errors are the first failed attempt and the last nine, the oldest first. Nil
	// if another program ran them.
	Errors []classify.Failure `json:"errors"`
	// TraceContext is that of the job: the span that enqueued it.
	TraceContext TraceContext `json:"trace_context,omitzero"`
}

// TraceContext is the trace context of W3C; the zero value is none. It is the same type as
// engine.TraceContext.
type TraceContext = tracecontext.Context

// OutcomeUnknown reports whether a program that doesn't record the outcome, such
// as Python Soniq, replayed the job since it died. Its state is dead then, and
// whether the replay succeeded can't be known.
func (j Job) OutcomeUnknown() bool {
	return j.State == StateDead && j.ReplayJobID == nil &&
		j.LastResurrectionAt != nil && j.LastResurrectionAt.After(j.MovedAt)
}

// The times that both Go and JSON can hold have a year of four digits. A row may
// hold any other, an infinite one too: it must not make a list fail.
const (
	earliest = "timestamptz '0001-01-01 00:00:00+00'"
	latest   = "timestamptz '9999-12-31 23:59:59+00'"
	between  = " between " + earliest + " and " + latest
	movedAt  = "least(greatest(d.moved_to_dead_letter_at, " + earliest + "), " + latest + ")"
)

// A reading is the SQL of the columns that may be of any size. A list bounds them,
// and an export reads them whole.
type reading struct{ name, queue, args, lastError, tags, argsHash, dedupKey, producer, failures string }

// whole reads them as they are, and names that were shortened in full.
var whole = reading{
	name: "coalesce(d.whole_job_name, d.job_name)", queue: "coalesce(d.whole_queue, d.queue)", args: "d.args",
	lastError: "d.last_error", tags: "d.tags", argsHash: "d.args_hash", dedupKey: "d.dedup_key", producer: "d.producer_id", failures: "d.errors",
}

// bounded replaces arguments over most bytes by a JSON string that says so, and
// cuts the other texts.
func bounded(most int) reading {
	return reading{
		name: pg.BoundedText("d.job_name", 2000), queue: pg.BoundedText("d.queue", 2000), args: pg.BoundedJSON("d.args", "arguments", most),
		lastError: pg.BoundedText("d.last_error", 65536), tags: pg.BoundedJSON("d.tags", "tags", most), argsHash: pg.BoundedText("d.args_hash", 3000), dedupKey: pg.BoundedText("d.dedup_key", 3000),
		producer: pg.BoundedText("d.producer_id", 1000),
		failures: pg.BoundedHistory("d.errors"),
	}
}

// columns are what scanJob reads, in its order. A time out of range is read as
// null. The time of death is read as the nearest one in range, and a time of
// enqueueing out of range as the time of death.
func (r reading) columns() string {
	return `
  d.id, ` + r.name + `, ` + r.args + `, ` + r.queue + `, d.priority, d.max_attempts, d.attempts,
  coalesce(` + r.lastError + `, ''), d.dead_letter_reason,
  case when d.original_created_at` + between + ` then d.original_created_at else ` + movedAt + ` end,
  ` + movedAt + `,
  coalesce(d.resurrection_count, 0),
  case when d.last_resurrection_at` + between + ` then d.last_resurrection_at end, ` + r.tags + `,
  d.state, d.replay_job_id, d.replay_of,
  coalesce(d.error_kind, ''), coalesce(d.error_type, ''), coalesce(d.error_code, ''),
  coalesce(d.decided_by, ''), coalesce(d.fingerprint, ''),
  ` + r.argsHash + `, coalesce(d.unique_job, false), ` + r.dedupKey + `, ` + r.producer + `, d.worker_id,
  case when d.scheduled_at` + between + ` then d.scheduled_at end,
  d.moved_xid::text::bigint, case when d.created_at` + between + ` then d.created_at end,
  ` + r.failures + `, ` + tracecontext.Column("d.trace_context")
}

// selectJobs selects dead letters d.
func (r reading) selectJobs() string {
	return "select" + r.columns() + "\nfrom public.soniq_dead_letter_jobs d"
}

// readBounded reads dead letters by a statement that is made for a reading. If the
// arguments of one are too long for any text, it reads small arguments only.
func (q *Queue) readBounded(ctx context.Context, most int, params []any, sql func(reading) string) ([]Job, error) {
	jobs, err := q.read(ctx, sql(bounded(most)), params)
	if pg.IsTooLarge(err) {
		jobs, err = q.read(ctx, sql(bounded(pg.PlainBytes)), params)
	}
	return jobs, err
}

func (q *Queue) read(ctx context.Context, sql string, params []any) ([]Job, error) {
	var jobs []Job
	err := pg.Again(ctx, q.pool, func(db pg.Querier) (err error) {
		rows, err := db.Query(ctx, sql, params...)
		if err != nil {
			return err
		}
		jobs, err = pgx.CollectRows(rows, scanJob)
		return err
	})
	return jobs, err
}

// scanJob reads a row of a reading's columns.
func scanJob(row pgx.CollectableRow) (Job, error) {
	var j Job
	failures, err := scanRow(row, &j)
	if err != nil {
		return Job{}, err
	}
	j.Errors = history.Decode(failures)
	j.Args, j.Tags = jsondoc.Shown(j.Args, "arguments"), jsondoc.Shown(j.Tags, "tags")
	return j, nil
}

// scanRow is scanJob without Errors: it returns the column as it is. more is where to
// put what follows the columns of a reading.
func scanRow(row pgx.CollectableRow, j *Job, more ...any) (failures []byte, err error) {
	var replayJob, replayOf, worker pgtype.UUID
	// As bytes JSON is copied. As a json.RawMessage it would be parsed.
	err = row.Scan(append([]any{
		pg.ScanID(&j.ID), &j.JobName, (*[]byte)(&j.Args), &j.Queue, &j.Priority, &j.MaxAttempts, &j.Attempts,
		&j.LastError, (*string)(&j.Reason),
		&j.OriginalCreatedAt,
		&j.MovedAt,
		&j.ResurrectionCount, &j.LastResurrectionAt, (*[]byte)(&j.Tags),
		(*string)(&j.State), &replayJob, &replayOf,
		(*string)(&j.ErrorKind), &j.ErrorType, &j.ErrorCode,
		&j.DecidedBy, &j.Fingerprint,
		&j.ArgsHash, &j.UniqueJob, &j.DedupKey, &j.ProducerID, &worker,
		&j.ScheduledAt,
		&j.MovedXID, &j.CreatedAt,
		&failures, &j.TraceContext,
	}, more...)...)
	if err != nil {
		return nil, err
	}
	j.ReplayJobID, j.ReplayOf, j.WorkerID = pg.OptionalID(replayJob), pg.OptionalID(replayOf), pg.OptionalID(worker)
	j.OriginalCreatedAt = j.OriginalCreatedAt.UTC()
	j.MovedAt = j.MovedAt.UTC()
	for _, t := range []*time.Time{j.LastResurrectionAt, j.ScheduledAt, j.CreatedAt} {
		if t != nil {
			*t = t.UTC()
		}
	}
	j.Tags = jsondoc.Inner(j.Tags)
	return failures, nil
}
