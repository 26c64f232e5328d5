package deadletter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
	"soniq/internal/replaysql"
)

// readCommitted is the isolation level of every transaction here, whatever the
// database's default is: a statement that waited for a row must see what the
// transaction before made of it.
var readCommitted = pgx.TxOptions{IsoLevel: pgx.ReadCommitted}

// ReplayOptions change the job that a replay makes. The zero value makes an equal
// job with no attempts used.
type ReplayOptions struct {
	// KeepAttempts starts the new job with the attempts of the dead letter, which
	// must be fewer than its maximum. Default false: it starts with 0.
	KeepAttempts bool `json:"keep_attempts,omitempty"`
	// MaxAttempts is the new job's maximum. Default 0: the dead letter's.
	MaxAttempts int `json:"max_attempts,omitempty"`
	// Priority is the new job's; the lower number runs first, and 0 is a valid
	// priority. Default nil: the dead letter's.
	Priority *int `json:"priority,omitempty"`
	// Queue is the new job's, at most 2,000 bytes. Default "": the dead letter's.
	Queue string `json:"queue,omitempty"`
	// Delay is how long the new job waits before it is due, at most 36,500 days.
	// Default 0.
	Delay time.Duration `json:"delay,omitempty"`
	// MaxReplays leaves out dead letters that were replayed so often already.
	// Replays of the dead letters that they are a replay of count too. Default 0:
	// no limit.
	MaxReplays int `json:"max_replays,omitempty"`
	// Args are the new job's arguments, a JSON object. The dead letter keeps its
	// own. [Queue.ReplayAll] refuses it. Default nil: the dead letter's.
	Args json.RawMessage `json:"args,omitempty"`
	// Edits change the new job's arguments, in this order. The dead letter keeps
	// its own. An edit that the arguments have no place for is an [*EditError].
	// Default none.
	Edits []ArgsEdit `json:"edits,omitempty"`
	// Force also replays a dead letter that is being replayed or is resolved, so
	// the work may be done twice. From then on the state follows the new job.
	// [Queue.ReplayAll] refuses it. Default false.
	Force bool `json:"force,omitempty"`
}

// MaxDelay is the longest Delay of [ReplayOptions], a century. A much longer one overflows a Duration.
const MaxDelay = 36500 * 24 * time.Hour

// MaxNewQueue bounds Queue of [ReplayOptions], in bytes, so that it fits into every index.
const MaxNewQueue = 2000

// Validate returns an error that names the first wrong field.
//
// Errors: without types.
func (o ReplayOptions) Validate() error {
	if o.MaxAttempts < 0 || o.MaxAttempts > math.MaxInt32 {
		return fmt.Errorf("replay options: MaxAttempts: %d is not between 0 and %d", o.MaxAttempts, math.MaxInt32)
	}
	if o.Priority != nil && (*o.Priority < math.MinInt32 || *o.Priority > math.MaxInt32) {
		return fmt.Errorf("replay options: Priority: %d is not between %d and %d", *o.Priority, math.MinInt32, math.MaxInt32)
	}
	if !acceptable(o.Queue) {
		return errors.New("replay options: Queue: not valid UTF-8, or with a NUL byte in it")
	}
	if len(o.Queue) > MaxNewQueue {
		return fmt.Errorf("replay options: Queue: %d bytes, more than %d", len(o.Queue), MaxNewQueue)
	}
	if o.Delay < 0 || o.Delay > MaxDelay {
		return fmt.Errorf("replay options: Delay: %s is not between 0 and %s", o.Delay, MaxDelay)
	}
	if o.MaxReplays < 0 {
		return fmt.Errorf("replay options: MaxReplays: %d is negative", o.MaxReplays)
	}
	if o.Args != nil {
		if err := checkArgs(o.Args); err != nil {
			return fmt.Errorf("replay options: Args: %w", err)
		}
	}
	for _, e := range o.Edits {
		if err := e.Validate(); err != nil {
			return fmt.Errorf("replay options: Edits: %w", err)
		}
	}
	return nil
}

var errNoObject = errors.New("not a JSON object")

// checkArgs finds what a handler or the database would refuse as arguments.
func checkArgs(args json.RawMessage) error {
	if trimmed := bytes.TrimLeft(args, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' || !json.Valid(args) {
		return errNoObject
	}
	return pg.CheckJSON(args)
}

var (
	errForceAll = errors.New("replay options: Force: only for a single dead letter")
	errArgsAll  = errors.New("replay options: Args: only for a single dead letter")
)

// validateAll is Validate for a bulk replay.
func (o ReplayOptions) validateAll() error {
	if o.Force {
		return errForceAll
	}
	if o.Args != nil {
		return errArgsAll
	}
	return o.Validate()
}

// edits reports whether the new jobs get other arguments.
func (o ReplayOptions) edits() bool { return o.Args != nil || len(o.Edits) > 0 }

// checkAttempts returns an *AttemptsError for a dead letter that keeps its
// attempts and has none left.
func (o ReplayOptions) checkAttempts(id uuid.UUID, attempts, maxAttempts int) error {
	if o.MaxAttempts > 0 {
		maxAttempts = o.MaxAttempts
	}
	if o.KeepAttempts && attempts >= maxAttempts {
		return &AttemptsError{ID: id, Attempts: attempts, MaxAttempts: maxAttempts}
	}
	return nil
}

// Replayed is a dead letter and the job that its replay made.
type Replayed struct {
	// From is the dead letter.
	From uuid.UUID `json:"from"`
	// To is the new job.
	To uuid.UUID `json:"to"`
}

// Replay enqueues the job of a dead letter again and returns the new job's id. The
// dead letter stays: its state becomes replaying, and then resolved or dead when
// the new job ends. No handler needs to be registered in this process.
//
// Two concurrent replays of one dead letter make one job. After an error nothing
// has changed.
//
// Errors: [ErrNotFound]; [*StateError] if an earlier replay runs or has succeeded;
// [*AttemptsError] for KeepAttempts without any left; [*ReplaysError] at
// MaxReplays; [*EditError] if the arguments have no place for an edit;
// [*DuplicateError] if an equal unique job is queued; those of the database.
func (q *Queue) Replay(ctx context.Context, id uuid.UUID, o ReplayOptions) (uuid.UUID, error) {
	var job uuid.UUID
	err := pg.InTxWith(ctx, q.pool, readCommitted, func(tx pgx.Tx) (err error) {
		job, err = q.replay(ctx, tx, id, o)
		return err
	})
	if err != nil {
		return uuid.Nil, fmt.Errorf("replay dead letter %s: %w", id, err)
	}
	return job, nil
}

// ReplayTx is [Queue.Replay] in the caller's transaction: the new job exists once
// tx is committed. It changes nothing if it returns one of the errors of this
// package. After an error of the database tx can only be rolled back.
//
// At an isolation level above read committed the database returns a serialization
// failure (SQLSTATE 40001) if another transaction changed the row: run the
// transaction again.
//
// Errors: those of [Queue.Replay].
func (q *Queue) ReplayTx(ctx context.Context, tx pgx.Tx, id uuid.UUID, o ReplayOptions) (uuid.UUID, error) {
	job, err := q.replay(ctx, q.pool.Schema().Tx(tx), id, o)
	if err != nil {
		return uuid.Nil, fmt.Errorf("replay dead letter %s: %w", id, err)
	}
	return job, nil
}

func (q *Queue) replay(ctx context.Context, tx pgx.Tx, id uuid.UUID, o ReplayOptions) (uuid.UUID, error) {
	if err := o.Validate(); err != nil {
		return uuid.Nil, err
	}
	job, err := replayer{o, q.by}.one(ctx, tx, id)
	if isQueueTooLong(err) {
		err = fmt.Errorf("its queue's name is too long for the index of the jobs, give another queue: %w", err)
	}
	return job, err
}

// CheckReplay returns the error that [Queue.Replay] would return now, or nil. It
// changes nothing and, unless the name of the queue has over 2,000 bytes, locks
// nothing.
//
// Errors: those of [Queue.Replay].
func (q *Queue) CheckReplay(ctx context.Context, id uuid.UUID, o ReplayOptions) error {
	r := replayer{o, q.by}
	err := o.Validate()
	if err == nil {
		err = r.refusal(ctx, q.pool, replaysql.State, id)
	}
	if err == nil {
		err = r.duplicate(ctx, q.pool, id)
	}
	if err == nil {
		err = q.tryLongQueue(ctx, id, o)
	}
	if err != nil {
		return fmt.Errorf("check replay of dead letter %s: %w", id, err)
	}
	return nil
}

// $1 the dead letter.
const longQueueSQL = `
select true
from public.soniq_dead_letter_jobs
where id = $1
  and octet_length(whole_queue) > 2000`

var errUndo = errors.New("undo")

// tryLongQueue finds out whether an index takes the queue of a dead letter whose name
// is long: how far it can be compressed is not known before. It is undone.
func (q *Queue) tryLongQueue(ctx context.Context, id uuid.UUID, o ReplayOptions) error {
	var long bool
	err := q.pool.QueryRow(ctx, longQueueSQL, id).Scan(&long)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && o.Queue != "" {
		return nil
	}
	if err != nil {
		return err
	}
	err = pg.InTxWith(ctx, q.pool, readCommitted, func(tx pgx.Tx) error {
		if _, err := q.replay(ctx, tx, id, o); err != nil {
			return err
		}
		return errUndo
	})
	if errors.Is(err, errUndo) {
		return nil
	}
	return err
}
