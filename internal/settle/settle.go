// Package settle writes the outcomes of jobs.
//
// A Settler writes in batches that form by themselves: while one batch is on its way to
// the database, the next gathers. Each outcome is written under the claim of its job
// (id, worker, attempts and token). Outcomes are independent of each other:
//
//   - A database that is away is tried again until it is back.
//   - If the database refuses a batch, for whatever reason, its outcomes are deferred
//     (see [Deferred]): each is written by itself, beside the batches. One that is
//     refused then is kept and tried again until it is written. A text or a result
//     that can't be stored is replaced; what becomes of the job never changes.
//   - An outcome whose row is locked is deferred too.
//   - If the connection broke at the commit, the rows are read back.
//
// Package engine decides the outcomes, and deadwrite writes the deaths.
package settle

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/internal/history"
	"soniq/internal/pg"
)

// Kind is what becomes of an attempt.
type Kind string

// The kinds; see the constants of package engine.
const (
	Done       Kind = "done"
	Retry      Kind = "retry"
	Snooze     Kind = "snooze"
	Released   Kind = "released"
	Cancelled  Kind = "cancelled"
	DeadLetter Kind = "dead_letter"
	Lost       Kind = "lost"
)

// Outcome is the end of one attempt.
type Outcome struct {
	// ID, Attempts and Token are the claim.
	ID       uuid.UUID
	Attempts int
	Token    int64
	Name     string
	// ClaimedAt is when the job was claimed, by the database's clock.
	ClaimedAt time.Time
	// Replay: the job is a replay of a dead letter.
	Replay bool

	Kind     Kind
	Delay    time.Duration
	Verdict  classify.Verdict
	Duration time.Duration
	Result   json.RawMessage
	// Completed: the handler has made the job done in a transaction of its own, which
	// may have been committed.
	Completed bool
	// Bytes is what the caller keeps for it in memory; see [MaxDeferredBytes].
	Bytes int
	// Deferred: a batch with it was refused, and a [Deferred] has it or has written it.
	Deferred bool
	// Job is the caller's.
	Job any
	// Trace is the trace of the attempt, for the log, or empty.
	Trace string

	// unsure: an earlier try may have been committed.
	unsure bool
}

// failure is the history's entry for a failed attempt. It is nil for a job that died
// when it was claimed: nothing ran.
func (o *Outcome) failure(worker uuid.UUID) *classify.Failure {
	if o.Verdict.Kind == classify.KindCrash {
		return nil
	}
	startedAt := o.ClaimedAt
	return history.Entry(o.Attempts, &worker, &startedAt, startedAt.Add(o.Duration), o.Verdict)
}

// Writer is what it takes to write outcomes.
type Writer struct {
	Pool   *pg.Pool
	Logger *slog.Logger
	// Worker is the worker under whose claims it writes.
	Worker uuid.UUID
	// TTL is how long the row of a done job is kept; 0 deletes it at once.
	TTL time.Duration
	// Settled is called with each outcome after it was written. A Settler and a Deferred
	// may call it at the same time.
	Settled func(context.Context, Outcome)
	// Wrote is called after each statement that writes outcomes, with how many and how long
	// it took. Nil is nobody.
	Wrote func(ctx context.Context, outcomes int, took time.Duration, err error)
}

// Settler writes outcomes in batches. Its methods are called by one goroutine.
type Settler struct {
	Writer
	// Outcomes is where Run gets them.
	Outcomes <-chan Outcome
	// Batch is how many outcomes are written together, at most [MaxBatch].
	Batch int
	// Deferred takes what can't be written with its batch. If it is nil, each of these
	// is tried once, and Write returns the error.
	Deferred *Deferred

	// buffer is used for each batch again. Nothing keeps a batch.
	buffer []Outcome
}

const (
	// MaxBatch limits one statement, so that trying it again stays cheap.
	MaxBatch = 500
	// CancelledTTL is how long a cancelled job's row is kept. It is a day, so that
	// whoever cancelled the wrong one can still see it and run it after all. The schema
	// has the same number, for jobs that their requeue cancels.
	CancelledTTL = 24 * time.Hour

	// firstPatience is how long the first try of a statement may take. maxPatience is
	// that of a later try: then a connection that hangs is given up.
	firstPatience = 3 * time.Second
	maxPatience   = 30 * time.Second
	// maxTries is how often a batch is tried if the server reports an internal error or
	// that another transaction was faster, or if the connection breaks or hangs each
	// time. Then one of its rows may be the cause.
	maxTries = 3
)

// Run writes outcomes until the channel is closed and empty, or ctx ends. Then it gives
// up what could not be written, and recovery will find it.
//
// Errors: that some outcomes were given up.
func (s *Settler) Run(ctx context.Context) error {
	for open := true; open; {
		var batch []Outcome
		batch, open = s.gather()
		if err := s.Write(ctx, batch); err != nil {
			return fmt.Errorf("settle %d jobs: %w", len(batch)+len(s.Outcomes), err)
		}
		// The buffer must not keep the jobs' arguments.
		clear(batch)
	}
	return nil
}

// gather waits for one outcome and takes what else is there.
func (s *Settler) gather() (batch []Outcome, open bool) {
	o, open := <-s.Outcomes
	if !open {
		return nil, false
	}
	batch = append(s.buffer[:0], o)
	defer func() { s.buffer = batch }()
	for len(batch) < s.Batch {
		select {
		case o, open := <-s.Outcomes:
			if !open {
				return batch, false
			}
			batch = append(batch, o)
		default:
			return batch, true
		}
	}
	return batch, true
}

// Write settles a batch, with one statement for each way to write.
//
// Errors: that ctx ended before all of it was written or deferred.
func (s *Settler) Write(ctx context.Context, batch []Outcome) error {
	if len(batch) == 0 {
		return nil
	}
	first := s.wayOf(batch[0])
	if !slices.ContainsFunc(batch[1:], func(o Outcome) bool { return s.wayOf(o) != first }) {
		return s.writeGroup(ctx, first, batch)
	}
	groups := make(map[way][]Outcome, 4)
	for _, o := range batch {
		w := s.wayOf(o)
		groups[w] = append(groups[w], o)
	}
	for w, group := range groups {
		if err := s.writeGroup(ctx, w, group); err != nil {
			return err
		}
	}
	return nil
}

// locked returns which rows of a group another session has locked. ok is false if the
// database doesn't say.
func (s *Writer) locked(ctx context.Context, group []Outcome) (ids []uuid.UUID, ok bool) {
	all := make([]uuid.UUID, len(group))
	for i, o := range group {
		all[i] = o.ID
	}
	ctx, cancel := context.WithTimeout(ctx, firstPatience)
	defer cancel()
	rows, _ := s.Pool.Query(ctx, lockedSQL, pg.IDs(all))
	ids, err := pg.CollectIDs(rows)
	return ids, err == nil
}
