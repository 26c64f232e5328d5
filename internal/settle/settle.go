// Package settle writes the outcomes of jobs.
//
// A Settler writes in batches that form by themselves: while one batch is on its way to
// the database, the next gathers. Each outcome is written under the claim of its job
// (id, worker, attempts and token). Outcomes are independent of each other:
//
//   - A database that is away is tried again until it is back.
//   - If the database refuses a batch, each row is written by itself, and a refused
//     outcome becomes another one: a failed attempt with the reason, for instance.
//   - An outcome whose row is locked is set aside and tried again later.
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
	// Refuse returns the outcome if the database refuses the result.
	Refuse func(error) Outcome
	// Job is the caller's.
	Job any

	// aside: a statement with it was given up because the row was locked. It may have
	// been written all the same.
	aside bool
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

// Settler writes outcomes. Its methods are called by one goroutine.
type Settler struct {
	Pool   *pg.Pool
	Logger *slog.Logger
	// Worker is the worker under whose claims it writes.
	Worker uuid.UUID
	// TTL is how long the row of a done job is kept; 0 deletes it at once.
	TTL time.Duration
	// Outcomes is where Run gets them.
	Outcomes <-chan Outcome
	// Batch is how many outcomes are written together, at most [MaxBatch].
	Batch int
	// Settled is called with each outcome after it was written.
	Settled func(context.Context, Outcome)

	// aside are the outcomes whose rows were locked.
	aside []Outcome
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

	// firstPatience is how long the first try of a statement may take before locked rows
	// are looked for. maxPatience is that of a later try: then a connection that hangs is
	// given up.
	firstPatience = 3 * time.Second
	maxPatience   = 30 * time.Second
	// requeuePatience is how long a requeue waits for a lock, of the row or of its unique
	// key. Whoever may enqueue can insert that key and not commit, for as long as they
	// like.
	requeuePatience = 250 * time.Millisecond
	// maxBroken is how often the server may report an internal error before that counts
	// as a refusal of the rows.
	maxBroken = 3
	// asideInterval is the time between two tries of what was set aside.
	asideInterval = 2 * time.Second
	// refusedDelay keeps a job whose outcome is refused from running again at once.
	refusedDelay = time.Minute
	// unstorableError replaces an error text that the database refused.
	unstorableError = "the error could not be stored"
)

// Run writes outcomes until the channel is closed and empty, or ctx ends. Then it gives
// up what could not be written, and recovery will find it.
//
// Errors: that some outcomes were given up.
func (s *Settler) Run(ctx context.Context) error {
	for open := true; open || len(s.aside) > 0; {
		var batch []Outcome
		batch, open = s.gather(ctx, open)
		if len(batch) > 0 {
			if err := s.Write(ctx, batch); err != nil {
				return fmt.Errorf("settle %d jobs: %w", len(batch)+len(s.aside), err)
			}
			// The buffer must not keep the jobs' arguments.
			clear(batch)
		}
		if ctx.Err() != nil && len(s.aside) > 0 {
			return fmt.Errorf("settle %d jobs: gave up: another session holds the rows locked", len(s.aside))
		}
	}
	return nil
}

// gather waits for one outcome and takes what else is there. It returns the outcomes
// that were set aside when their time has come.
func (s *Settler) gather(ctx context.Context, open bool) (batch []Outcome, stillOpen bool) {
	var aside <-chan time.Time
	var givenUp <-chan struct{}
	if len(s.aside) > 0 {
		timer := time.NewTimer(asideInterval)
		defer timer.Stop()
		aside, givenUp = timer.C, ctx.Done()
	}
	outcomes := s.Outcomes
	if !open {
		outcomes = nil
	}
	select {
	case o, ok := <-outcomes:
		if !ok {
			return nil, false
		}
		batch = append(s.buffer[:0], o)
	case <-aside:
		batch, s.aside = s.aside, nil
		return s.setAside(ctx, batch), open
	case <-givenUp:
		return nil, open
	}
	defer func() { s.buffer = batch }()
	for len(batch) < s.Batch {
		select {
		case o, ok := <-s.Outcomes:
			if !ok {
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
// Errors: that ctx ended before all of it was written.
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

// setAside takes from a group, which took too long to write, the outcomes whose rows
// are locked, and returns the others. If the database is only slow, there are none.
func (s *Settler) setAside(ctx context.Context, group []Outcome) (rest []Outcome) {
	ids := make([]uuid.UUID, len(group))
	for i, o := range group {
		ids[i] = o.ID
	}
	ctx, cancel := context.WithTimeout(ctx, firstPatience)
	defer cancel()
	rows, _ := s.Pool.Query(ctx, lockedSQL, pg.IDs(ids))
	locked, err := pg.CollectIDs(rows)
	if err != nil || len(locked) == 0 {
		return group
	}
	for _, o := range group {
		if !slices.Contains(locked, o.ID) {
			rest = append(rest, o)
			continue
		}
		if !o.aside {
			s.Logger.Warn("the row of a job is locked by another session; its outcome is written when the row is free",
				"job", o.ID, "name", o.Name, "outcome", string(o.Kind))
		}
		o.aside = true
		s.aside = append(s.aside, o)
	}
	return rest
}
