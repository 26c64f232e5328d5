package deadletter

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/deadletter/classify"
	"soniq/internal/history"
	"soniq/internal/pg"
)

// What can be done to dead letters, as Operation.Action and Record.Action tell.
const (
	ActionReplay  = "replay"
	ActionDelete  = "delete"
	ActionCleanup = "cleanup"
	ActionTag     = "tag"
	ActionImport  = "import"
	// ActionReveal: somebody was shown the secrets of a dead letter, or of a job.
	ActionReveal = "reveal"
)

// The states of an operation.
const (
	// OperationRunning: it is under way, or the process that did it was killed.
	OperationRunning = "running"
	// OperationDone: all of it was done.
	OperationDone = "done"
	// OperationStopped: it ended before it was done; StoppedBy says why.
	OperationStopped = "stopped"
)

// Why an operation stopped, as Operation.StoppedBy tells; an error's text is
// there otherwise.
const (
	// StoppedByCaller: the context of who ran it ended.
	StoppedByCaller = "interrupted"
	// StoppedByCanary: one of the first replays did not succeed.
	StoppedByCanary = "canary"
	// StoppedByBreaker: too many of the replays died again.
	StoppedByBreaker = "breaker"
)

// author is who changes dead letters, and why.
type author struct{ actor, because string }

// As returns the queue with the changes of one person, or one program: the
// records of what they do say who it was, and why. Both may be empty, as they
// are of NewQueue.
func (q *Queue) As(actor, because string) *Queue {
	as := *q
	as.by = author{pg.Storable(actor, classify.MaxNameBytes), pg.Storable(because, history.MaxMessageBytes)}
	return &as
}

// An Operation is what somebody did to many dead letters at once.
type Operation struct {
	ID uuid.UUID `json:"id"`
	// Action is ActionReplay, ActionDelete, ActionCleanup, ActionImport or
	// ActionReveal.
	Action string `json:"action"`
	// State is OperationRunning, OperationDone or OperationStopped.
	State string `json:"state"`
	// StoppedBy says why a stopped one is not done.
	StoppedBy string `json:"stopped_by"`
	// Actor and Because are those of Queue.As.
	Actor   string `json:"actor"`
	Because string `json:"because"`
	// Filter is a JSON object with the conditions that picked the dead letters.
	// Of an import its 'source' is the file that they came from.
	Filter json.RawMessage `json:"filter"`
	// Total is how many were picked, or shown; Done and Skipped, of a replay and an import,
	// how many of them were replayed or restored, and left alone.
	Total   int64 `json:"total"`
	Done    int64 `json:"done"`
	Skipped int64 `json:"skipped"`
	// CreatedAt is when it began, UpdatedAt when it last went on.
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// A Record tells of one thing that was done to one dead letter.
type Record struct {
	DeadLetterID uuid.UUID `json:"dead_letter_id"`
	// OperationID is the operation that it was part of, or nil.
	OperationID *uuid.UUID `json:"operation_id"`
	Action      string     `json:"action"`
	Actor       string     `json:"actor"`
	Because     string     `json:"because"`
	// JobID is the job that a replay made, or nil.
	JobID *uuid.UUID `json:"job_id"`
	// Detail is a JSON object with what else is known, or nil. Of a replay that
	// was given other arguments 'args' are these, as Redact makes them, and
	// 'changed' lists the paths at which they differ from the dead letter's, those
	// of secrets too. Of a tag 'tags' are the tags, as Redact makes them.
	Detail json.RawMessage `json:"detail"`
	At     time.Time       `json:"at"`
}

// MarshalJSON returns the filter's conditions as a JSON object, as the record of
// an operation has them.
func (f Filter) MarshalJSON() ([]byte, error) {
	moment := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	return json.Marshal(struct {
		JobNames  []string          `json:"job_names,omitempty"`
		Queues    []string          `json:"queues,omitempty"`
		NameLike  string            `json:"name_like,omitempty"`
		Reasons   []classify.Reason `json:"reasons,omitempty"`
		From      *time.Time        `json:"from,omitempty"`
		To        *time.Time        `json:"to,omitempty"`
		Tags      map[string]string `json:"tags,omitempty"`
		State     string            `json:"state,omitempty"`
		Groups    []string          `json:"groups,omitempty"`
		ErrorLike string            `json:"error_like,omitempty"`
		Replayed  *bool             `json:"replayed,omitempty"`
		Limit     int               `json:"limit,omitempty"`
	}{
		f.JobNames, f.Queues, f.NameLike, f.Reasons, moment(f.From), moment(f.To),
		f.Tags, f.State, f.Groups, f.ErrorLike, f.Replayed, f.Limit,
	})
}

// $1 the id, $2 the action, $3 the state, $4 who, $5 why, $6 the filter, $7 the
// options or null, $8 to $10 the counts.
const beginOperationSQL = `
insert into public.soniq_dead_letter_operations (id, action, state, actor, because, filter, options, total, done, skipped)
values ($1, $2, $3, nullif($4, ''), nullif($5, ''), $6::jsonb, $7::jsonb, $8, $9, $10)
returning created_at, updated_at`

// beginOperation records the operation under a new id, with the filter f unless
// it has one. options is what it needs to go on after a break, or nil.
func (q *Queue) beginOperation(ctx context.Context, db pg.Querier, op *Operation, f Filter, options any) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	op.ID, op.Actor, op.Because = id, q.by.actor, q.by.because
	if op.Filter == nil {
		if op.Filter, err = json.Marshal(f); err != nil {
			return err
		}
	}
	var stored *string
	if options != nil {
		text, err := json.Marshal(options)
		if err != nil {
			return err
		}
		stored = new(string(text))
	}
	return db.QueryRow(ctx, beginOperationSQL, id, op.Action, op.State, op.Actor, op.Because, string(op.Filter), stored,
		op.Total, op.Done, op.Skipped).Scan(&op.CreatedAt, &op.UpdatedAt)
}

const saveOperationSQL = `
update public.soniq_dead_letter_operations
set
  state = $2,
  stopped_by = nullif($3, ''),
  total = $4,
  done = $5,
  skipped = $6,
  updated_at = clock_timestamp()
where id = $1`

// save records how far the operation has come.
func (op *Operation) save(ctx context.Context, db pg.Querier) error {
	_, err := db.Exec(ctx, saveOperationSQL, op.ID, op.State, pg.Storable(op.StoppedBy, history.MaxMessageBytes), op.Total, op.Done, op.Skipped)
	return err
}

// endOperation records the end of an operation, also when ctx has ended: what
// was done was done. It returns err, or its own error.
func (q *Queue) endOperation(ctx context.Context, op *Operation, err error) error {
	op.State = OperationDone
	if err != nil {
		op.State, op.StoppedBy = OperationStopped, RedactText(err.Error())
		if ctx.Err() != nil {
			op.StoppedBy = StoppedByCaller
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	return cmp.Or(err, op.save(ctx, q.pool))
}

var selectOperations = `
select
  id, action, state, coalesce(stopped_by, ''), coalesce(actor, ''), coalesce(because, ''), filter,
  total, done, skipped, ` + pg.BoundedTime("created_at") + `, ` + pg.BoundedTime("updated_at") + `
from public.soniq_dead_letter_operations`

func scanOperation(row pgx.CollectableRow) (op Operation, err error) {
	err = row.Scan(
		&op.ID, &op.Action, &op.State, &op.StoppedBy, &op.Actor, &op.Because, &op.Filter,
		&op.Total, &op.Done, &op.Skipped, &op.CreatedAt, &op.UpdatedAt,
	)
	op.CreatedAt, op.UpdatedAt = op.CreatedAt.UTC(), op.UpdatedAt.UTC()
	return op, err
}

// Operations returns the latest operations, the newest first; a limit of 0
// means 1,000.
func (q *Queue) Operations(ctx context.Context, limit int) ([]Operation, error) {
	if limit <= 0 {
		limit = listLimit
	}
	rows, _ := q.pool.Query(ctx, selectOperations+"\norder by created_at desc, id desc\nlimit $1", limit)
	ops, err := pgx.CollectRows(rows, scanOperation)
	if err != nil {
		return nil, fmt.Errorf("list operations: %w", err)
	}
	return ops, nil
}

// Operation returns one operation, or ErrNoOperation.
func (q *Queue) Operation(ctx context.Context, id uuid.UUID) (Operation, error) {
	rows, _ := q.pool.Query(ctx, selectOperations+"\nwhere id = $1", id)
	op, err := pgx.CollectExactlyOneRow(rows, scanOperation)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNoOperation
	}
	if err != nil {
		return Operation{}, fmt.Errorf("get operation %s: %w", id, err)
	}
	return op, nil
}

// History returns what was done to a dead letter, the oldest first; what there
// is no record of, such as a replay by Python Soniq, is not in it. It outlives
// the dead letter. At most the last 1,000 records.
func (q *Queue) History(ctx context.Context, id uuid.UUID) ([]Record, error) {
	rows, _ := q.pool.Query(ctx, historySQL, id, listLimit)
	records, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Record, err error) {
		err = row.Scan(&r.DeadLetterID, &r.OperationID, &r.Action, &r.Actor, &r.Because, &r.JobID, &r.Detail, &r.At)
		r.At = r.At.UTC()
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("history of dead letter %s: %w", id, err)
	}
	return records, nil
}

// $1 who it is about, $2 the most.
var historySQL = `
select r.dead_letter_id, r.operation_id, r.action, coalesce(r.actor, ''), coalesce(r.because, ''), r.job_id, r.detail, ` + pg.BoundedTime("r.at") + `
from (
  select *
  from public.soniq_dead_letter_audit
  where dead_letter_id = $1
  order by id desc
  limit $2
) r
order by r.id`

// $1 the dead letters, $2 the action, $3 who, $4 why, $5 what else or null.
const recordSQL = `
insert into public.soniq_dead_letter_audit (dead_letter_id, action, actor, because, detail)
select unnest($1::uuid[]), $2, nullif($3, ''), nullif($4, ''), $5::jsonb`

// record tells what was done to some dead letters.
func (q *Queue) record(ctx context.Context, db pg.Querier, ids []uuid.UUID, action string, detail *string) error {
	_, err := db.Exec(ctx, recordSQL, ids, action, q.by.actor, q.by.because, detail)
	return err
}
