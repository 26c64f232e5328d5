package deadletter

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/deadletter/classify"
	"soniq/internal/audit"
	"soniq/internal/byindex"
	"soniq/internal/deadwrite"
	"soniq/internal/history"
	"soniq/internal/jsondoc"
	"soniq/internal/pause"
	"soniq/internal/pg"
)

// Action is what was done to dead letters.
type Action string

// The actions.
const (
	ActionReplay  Action = "replay"
	ActionDelete  Action = "delete"
	ActionCleanup Action = "cleanup"
	ActionTag     Action = "tag"
	ActionImport  Action = "import"
	// ActionBury: [Queue.MoveQueued] moved the job.
	ActionBury Action = deadwrite.ActionBury
	// ActionReveal: somebody was shown the secrets of a dead letter, or of a job.
	ActionReveal Action = "reveal"
)

// OperationState is how far an operation is.
type OperationState string

// The states of an operation.
const (
	// OperationRunning: it runs. A process that was killed counts as running for two
	// more minutes.
	OperationRunning OperationState = "running"
	// OperationDone: it is complete.
	OperationDone OperationState = "done"
	// OperationStopped: it ended early. StoppedBy says why.
	OperationStopped OperationState = "stopped"
)

// The values of [Operation].StoppedBy other than the text of an error.
const (
	// StoppedByCaller: the context of the call ended, without a cause of its own.
	StoppedByCaller = "interrupted"
	// StoppedByLoss: its process has not been heard of for two minutes. It was killed,
	// or lost the database.
	StoppedByLoss = audit.StoppedByLoss
	// StoppedByCanary: one of the first replays did not succeed.
	StoppedByCanary = "canary"
	// StoppedByBreaker: too many of the replays died again.
	StoppedByBreaker = "breaker"
)

// author is who changes dead letters, and why.
type author struct{ actor, comment string }

// As returns a queue whose records name the actor, a person or a program, and a
// comment, which says why. Default both empty.
func (q *Queue) As(actor, comment string) *Queue {
	as := *q
	as.by = author{pg.Storable(actor, classify.MaxNameBytes), pg.Storable(comment, history.MaxMessageBytes)}
	return &as
}

// An Operation is the record of a change to many dead letters. Times are in UTC.
type Operation struct {
	// ID is nil if nothing was recorded, since there was nothing to do.
	ID uuid.UUID `json:"id"`
	// Action is any but [ActionTag] and [ActionBury].
	Action Action `json:"action"`
	// State is how far it is.
	State OperationState `json:"state"`
	// StoppedBy says why it stopped, by one of the constants or an error's text.
	StoppedBy string `json:"stopped_by"`
	// Actor and Comment are those of [Queue.As].
	Actor   string `json:"actor"`
	Comment string `json:"comment"`
	// Filter is a JSON object with the conditions that picked the dead letters. For
	// an import it is the file, as 'source'.
	Filter json.RawMessage `json:"filter"`
	// Total is how many dead letters were picked, or revealed. Done is how many of
	// them were changed, and Skipped how many were left as they are.
	Total   int64 `json:"total"`
	Done    int64 `json:"done"`
	Skipped int64 `json:"skipped"`
	// CreatedAt is when it began, and UpdatedAt when its last batch ended.
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// A Record is one change to one dead letter.
type Record struct {
	// DeadLetterID is the dead letter.
	DeadLetterID uuid.UUID `json:"dead_letter_id"`
	// OperationID is the operation that it was part of, or nil.
	OperationID *uuid.UUID `json:"operation_id"`
	// Action is what was done.
	Action Action `json:"action"`
	// Actor and Comment are those of [Queue.As].
	Actor   string `json:"actor"`
	Comment string `json:"comment"`
	// JobID is the job that a replay made, or nil.
	JobID *uuid.UUID `json:"job_id"`
	// Detail is a JSON object, or nil. A replay with other arguments has them
	// through [Redact] as 'args', and the paths at which they differ from the dead
	// letter's as 'changed'. A tag has the tags through Redact as 'tags'.
	Detail json.RawMessage `json:"detail"`
	// At is when it was done, in UTC.
	At time.Time `json:"at"`
}

// Changes returns what a replay with other arguments changed, for people to read:
// secrets are "[redacted]" before and after. args are the dead letter's. It returns
// nil for any other record.
func (r Record) Changes(args json.RawMessage) []ArgsChange {
	if r.Action != ActionReplay {
		return nil
	}
	return argsChanges(audit.Changes(r.Detail, args))
}

// MarshalJSON returns the conditions and the limit as a JSON object, without those
// that are not set.
//
// Errors: none.
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
		State     State             `json:"state,omitempty"`
		Groups    []string          `json:"groups,omitempty"`
		ErrorLike string            `json:"error_like,omitempty"`
		Text      string            `json:"text,omitempty"`
		Replayed  *bool             `json:"replayed,omitempty"`
		Limit     int               `json:"limit,omitempty"`
	}{
		f.JobNames, f.Queues, f.NameLike, f.Reasons, moment(f.From), moment(f.To),
		f.Tags, f.State, f.Groups, f.ErrorLike, f.Text, f.Replayed, f.Limit,
	})
}

// beginOperation records the operation under a new id. f is its filter, unless it
// has one. options is what it needs to be resumed, or nil.
func (q *Queue) beginOperation(ctx context.Context, db pg.Querier, op *Operation, f Filter, options any) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	op.ID, op.Actor, op.Comment = id, q.by.actor, q.by.comment
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
	return db.QueryRow(ctx, audit.BeginSQL, id, string(op.Action), string(op.State), op.Actor, op.Comment, string(op.Filter), stored,
		op.Total, op.Done, op.Skipped).Scan(&op.CreatedAt, &op.UpdatedAt)
}

// save records how far the operation is.
func (op *Operation) save(ctx context.Context, db pg.Querier) error {
	_, err := db.Exec(ctx, audit.SaveSQL, op.ID, string(op.State), pg.Storable(op.StoppedBy, history.MaxMessageBytes), op.Total, op.Done, op.Skipped)
	return err
}

// endOperation records the end of an operation, also if ctx has ended. It returns
// err or, if that is nil, its own error.
func (q *Queue) endOperation(ctx context.Context, op *Operation, err error) error {
	op.State = OperationDone
	if err != nil {
		op.State, op.StoppedBy = OperationStopped, stoppedBy(ctx, err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	return cmp.Or(err, op.save(ctx, q.pool))
}

// stoppedBy is why an operation stopped that ended with err.
func stoppedBy(ctx context.Context, err error) string {
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return RedactText(err.Error())
	case cause == ctx.Err(): //nolint:errorlint // a cause that wraps it says more
		return StoppedByCaller
	default:
		return RedactText(cause.Error())
	}
}

// heartbeatInterval is how often an operation shows that its process lives. It is a
// small part of what [audit.IsLost] waits.
const heartbeatInterval = 10 * time.Second

// keepAlive shows that the operation's process lives, until stop is called.
func (q *Queue) keepAlive(ctx context.Context, operation uuid.UUID) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var beating sync.WaitGroup
	beating.Go(func() {
		for pause.For(ctx, heartbeatInterval) == nil {
			// After an error there is the next one, and the operation has its own errors.
			_, _ = q.pool.Exec(ctx, audit.HeartbeatSQL, operation)
		}
	})
	return func() {
		cancel()
		beating.Wait()
	}
}

func scanOperation(row pgx.CollectableRow) (op Operation, err error) {
	err = row.Scan(
		&op.ID, (*string)(&op.Action), (*string)(&op.State), &op.StoppedBy, &op.Actor, &op.Comment, (*[]byte)(&op.Filter),
		&op.Total, &op.Done, &op.Skipped, &op.CreatedAt, &op.UpdatedAt,
	)
	op.CreatedAt, op.UpdatedAt = op.CreatedAt.UTC(), op.UpdatedAt.UTC()
	op.Filter = jsondoc.Shown(op.Filter, "a filter")
	return op, err
}

// A HistoryFilter picks operations and records of the history by the dead letter's ID, the
// Actor and the time, From and To included, at most Limit of them; 0 is 1,000. The zero
// value picks all.
type HistoryFilter = audit.Filter

// Operations returns the latest operations, the newest first. A limit of 0 is 1,000.
//
// Errors: those of the database.
func (q *Queue) Operations(ctx context.Context, limit int) ([]Operation, error) {
	return q.OperationsOf(ctx, HistoryFilter{Limit: limit})
}

// OperationsOf returns the latest operations that the filter picks, the newest first. Its
// ID doesn't count.
//
// Errors: a negative limit, a year before 1 or after 9999; those of the database.
func (q *Queue) OperationsOf(ctx context.Context, f HistoryFilter) ([]Operation, error) {
	if err := f.Validate("list operations"); err != nil {
		return nil, err
	}
	sql, params := f.Operations()
	rows, _ := q.pool.Query(ctx, sql, params...)
	ops, err := pgx.CollectRows(rows, scanOperation)
	if err != nil {
		return nil, fmt.Errorf("list operations: %w", err)
	}
	return ops, nil
}

// Records returns the latest records that the filter picks, the newest first: all of the
// dead letter ID or, without one, those of single dead letters, which no operation made.
//
// Errors: as for [Queue.OperationsOf].
func (q *Queue) Records(ctx context.Context, f HistoryFilter) ([]Record, error) {
	if err := f.Validate("list records"); err != nil {
		return nil, err
	}
	sql, params := f.Records()
	records, err := byindex.Collect(ctx, q.pool, scanHistoryRecord, sql, params...)
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	return records, nil
}

func scanHistoryRecord(row pgx.CollectableRow) (r Record, err error) {
	err = row.Scan(&r.DeadLetterID, &r.OperationID, (*string)(&r.Action), &r.Actor, &r.Comment, &r.JobID, (*[]byte)(&r.Detail), &r.At)
	r.Detail = jsondoc.Shown(r.Detail, "details")
	r.At = r.At.UTC()
	return r, err
}

// Operation returns one operation.
//
// Errors: [ErrNoOperation]; those of the database.
func (q *Queue) Operation(ctx context.Context, id uuid.UUID) (Operation, error) {
	rows, _ := q.pool.Query(ctx, audit.SelectOperations+"\nwhere id = $1", id)
	op, err := pgx.CollectExactlyOneRow(rows, scanOperation)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNoOperation
	}
	if err != nil {
		return Operation{}, fmt.Errorf("get operation %s: %w", id, err)
	}
	return op, nil
}

// History returns the last 1,000 records of what was done to a dead letter, the
// oldest first. They outlive the dead letter. Python Soniq doesn't write any.
//
// Errors: those of the database.
func (q *Queue) History(ctx context.Context, id uuid.UUID) ([]Record, error) {
	rows, _ := q.pool.Query(ctx, audit.HistorySQL, id, listLimit)
	records, err := pgx.CollectRows(rows, scanHistoryRecord)
	if err != nil {
		return nil, fmt.Errorf("history of dead letter %s: %w", id, err)
	}
	return records, nil
}

// record adds a record for each of the dead letters.
func (q *Queue) record(ctx context.Context, db pg.Querier, ids []uuid.UUID, action Action, detail *string) error {
	_, err := db.Exec(ctx, audit.RecordSQL, ids, string(action), q.by.actor, q.by.comment, detail)
	return err
}
