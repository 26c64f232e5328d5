package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/audit"
)

// Pace is how fast a bulk replay goes, and what stops it. The zero value goes as
// fast as the database does, and only an error stops it.
type Pace struct {
	// Rate is the number of jobs a second, which may be below one. Default 0: no
	// limit.
	Rate float64
	// Canary is how many dead letters are replayed first. The others follow only
	// if each of these succeeds. At most 2,000. Default 0: none.
	Canary int
	// CanaryTimeout is how long to wait for the canaries. Default 10 min.
	CanaryTimeout time.Duration
	// Breaker stops the replay once this part of its replays that have ended has
	// died again, from above 0 to 1. It judges from 20 ended replays on. Default
	// 0: never.
	Breaker float64
}

func (p Pace) validate() error {
	if math.IsNaN(p.Rate) || p.Rate < 0 || p.Rate > 1e6 {
		return fmt.Errorf("pace: Rate: %g is not between 0 and a million", p.Rate)
	}
	if p.Canary < 0 || p.Canary > runBatch {
		return fmt.Errorf("pace: Canary: %d is not between 0 and %d", p.Canary, runBatch)
	}
	if p.CanaryTimeout < 0 {
		return fmt.Errorf("pace: CanaryTimeout: %s is negative", p.CanaryTimeout)
	}
	if math.IsNaN(p.Breaker) || p.Breaker < 0 || p.Breaker > 1 {
		return fmt.Errorf("pace: Breaker: %g is not between 0 and 1", p.Breaker)
	}
	return nil
}

// ReplayAllOptions are the options of [Queue.ReplayAll]. The zero value works.
type ReplayAllOptions struct {
	// ReplayOptions change the jobs that are made. Args and Force are refused.
	ReplayOptions
	// Pace is how fast it goes, and what stops it.
	Pace Pace
	// OnProgress is called at the start, with no replays, and after each batch
	// with the replays that it committed. Default nil.
	OnProgress func(op Operation, made []Replayed)
}

// ReplayResult is what a bulk replay did.
type ReplayResult struct {
	// Operation is its record. Done and Skipped count what all its runs did.
	// Skipped are the dead letters that stay as they are: an equal unique job is
	// queued, or another program changed them meanwhile.
	Operation Operation `json:"operation"`
	// Replayed are the replays of this call, the oldest dead letter first. Never
	// nil.
	Replayed []Replayed `json:"replayed"`
}

// A StoppedError says that its canary or its breaker stopped a bulk replay.
// [Queue.ResumeReplay] continues it once the cause is fixed.
type StoppedError struct {
	// Operation is how far it came.
	Operation Operation
	// Ended is how many of the replays had ended that were judged, and Died how
	// many of these did not succeed.
	Died  int
	Ended int
	// Pending is how many canaries had not ended: in time, if none of the others failed.
	Pending int
}

func (e *StoppedError) Error() string {
	switch {
	case e.Operation.StoppedBy == StoppedByBreaker:
		return fmt.Sprintf("stopped: %d of %d replays that have ended died again", e.Died, e.Ended)
	case e.Died == 0:
		return fmt.Sprintf("stopped: %d of the first replays did not end in time; does a worker run?", e.Pending)
	case e.Pending > 0:
		return fmt.Sprintf("stopped: %d of the first replays did not succeed, and %d had not ended yet", e.Died, e.Pending)
	default:
		return fmt.Sprintf("stopped: %d of the first replays did not succeed", e.Died)
	}
}

// ReplayAll replays the dead letters that the filter picks, the oldest first. It
// refuses a filter without a condition unless All is set. [Queue.PlanReplay] is
// its preview.
//
// The rows are picked at the start: what dies later is not replayed. It takes rows
// in the state dead only, so running it again doubles nothing. It leaves out rows
// whose replay died too, since that has a younger dead letter, and rows whose
// [Job.OutcomeUnknown] is true. Under KeepAttempts, a row without attempts left
// fails it before the first replay; so does a row whose arguments have no place
// for an edit.
//
// It is an [Operation], unless it picks nothing, that goes in batches, each a transaction of its own. When
// ctx ends, or after an error, what was replayed stays replayed, the result tells
// how far it came, and [Queue.ResumeReplay] continues it. [Queue.ReplayAllTx] is
// all or nothing.
//
// Errors: [ErrFilterEmpty], [ErrEmptyFilterField] and others of a wrong filter or
// option; [*AttemptsError] and [*EditError], before the first replay;
// [*StoppedError]; the context's; those of the database.
func (q *Queue) ReplayAll(ctx context.Context, f Filter, o ReplayAllOptions) (ReplayResult, error) {
	r := q.newReplayRun(o.OnProgress)
	if err := r.start(ctx, f, replayOrder{Options: o.ReplayOptions, Pace: o.Pace}); err != nil {
		return ReplayResult{Replayed: r.replayed}, fmt.Errorf("start replay: %w", err)
	}
	return r.run(ctx)
}

// ResumeReplay continues a bulk replay that was stopped, or whose process was
// killed, with the options that it was started with. Two that run at the same time
// share the work. onProgress is that of [ReplayAllOptions]; it may be nil.
//
// Errors: [ErrNoOperation]; [ErrNotResumable] if the operation is done, isn't a
// replay or was given up; [*StoppedError]; the context's; those of the database.
func (q *Queue) ResumeReplay(ctx context.Context, operation uuid.UUID, onProgress func(op Operation, made []Replayed)) (ReplayResult, error) {
	r := q.newReplayRun(onProgress)
	if err := r.load(ctx, operation); err != nil {
		return r.result(), fmt.Errorf("replay, operation %s: %w", operation, err)
	}
	return r.run(ctx)
}

var errPaceTx = errors.New("pace: a replay in one transaction has none")

// ReplayAllTx is [Queue.ReplayAll] in the caller's transaction, without a Pace: it
// replays all that it picks or, if tx is rolled back, nothing. It locks the rows
// that it picks, so that of two at the same time the second waits for the first.
// It can't be resumed.
//
// At an isolation level above read committed the database returns a serialization
// failure (SQLSTATE 40001) if another transaction changed a row: run the
// transaction again.
//
// Errors: those of [Queue.ReplayAll], but for [*StoppedError].
func (q *Queue) ReplayAllTx(ctx context.Context, tx pgx.Tx, f Filter, o ReplayAllOptions) (ReplayResult, error) {
	result, err := q.replayAllTx(ctx, q.pool.Schema().Tx(tx), f, o)
	if err != nil {
		return ReplayResult{Replayed: []Replayed{}}, fmt.Errorf("replay dead letters: %w", err)
	}
	return result, nil
}

func (q *Queue) replayAllTx(ctx context.Context, tx pgx.Tx, f Filter, o ReplayAllOptions) (result ReplayResult, err error) {
	if err := f.validateBulk(); err != nil {
		return result, err
	}
	if err := o.validateAll(); err != nil {
		return result, err
	}
	if o.Pace != (Pace{}) {
		return result, errPaceTx
	}
	r := replayer{o.ReplayOptions, q.by}
	ids, err := lockReplayable(ctx, tx, r.replayable(f), f.Limit, o.checkAttempts)
	op := Operation{Action: ActionReplay, State: OperationDone, Total: int64(len(ids))}
	result = ReplayResult{Operation: op, Replayed: []Replayed{}}
	if err != nil || len(ids) == 0 {
		return result, err
	}
	order, err := json.Marshal(replayOrder{Options: o.ReplayOptions})
	if err != nil {
		return result, err
	}
	if err := q.beginOperation(ctx, tx, &op, f, audit.RedactOptions(order)); err != nil {
		return result, err
	}
	if o.OnProgress != nil {
		o.OnProgress(op, nil)
	}
	for len(ids) > 0 {
		batch := ids[:min(len(ids), r.atOnce(replayBatch))]
		ids = ids[len(batch):]
		made, err := r.makeJobs(ctx, tx, batch, &op.ID)
		if err != nil {
			return result, err
		}
		op.Done += int64(len(made))
		op.Skipped += int64(len(batch) - len(made))
		result.Replayed = append(result.Replayed, made...)
		if o.OnProgress != nil {
			o.OnProgress(op, made)
		}
	}
	result.Operation = op
	return result, op.save(ctx, tx)
}
