// Package claim claims due jobs and finds out when the next one is due.
//
// A lane is the jobs of one queue and one priority. Jobs run in order of priority, and
// within a priority by due time. A claim is one statement. There are three ways:
//
//	whole    walks the lanes of all served queues and takes the most urgent due jobs
//	cursor   continues in the lane where the last claim ended
//	known    looks only at the lanes where jobs were found before
//
// Each claimed job leaves a dead entry in the index, which whole claims step over until
// it is vacuumed. Under an old snapshot, 300,000 of them make a claim of 500 jobs take
// 84 ms instead of 14. A claim at the cursor does not meet them. It misses jobs that
// became due earlier in its lane (a dead worker's job that was queued again) and other
// queues with the same priority, until the next whole claim.
//
// Whole claims are expensive if some queue has more lanes than are walked: with a
// million jobs far ahead in lanes of their own, a whole claim takes 0.15 s. Then only
// known lanes are looked at between two whole claims.
//
// Limits says what may be claimed while handlers and queues have concurrency limits of
// their own.
package claim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"soniq/internal/byindex"
	"soniq/internal/pg"
)

// Scope is what one claim takes: jobs of these names from these queues.
type Scope struct{ Queues, Names []string }

func (s Scope) equal(o Scope) bool {
	return slices.Equal(s.Queues, o.Queues) && slices.Equal(s.Names, o.Names)
}

// Job is a claimed job as its row has it. Times are local ones.
type Job struct {
	ID                    uuid.UUID
	Name                  string
	Args                  []byte // nil if they are not small
	Queue                 string
	Priority              int
	Attempts, MaxAttempts int
	ScheduledAt           *time.Time
	CreatedAt, UpdatedAt  time.Time
	LastError             string
	ProducerID, DedupKey  string
	ReplayOf              *uuid.UUID
}

// Claimer claims jobs for one worker, and returns each as a J. One goroutine at a time
// uses it.
type Claimer[J any] struct {
	pool   *pg.Pool
	worker uuid.UUID
	// take makes a J of a job, which it must not keep, under the token of its claim.
	take func(job *Job, token int64) J
	// limits are the handlers' attempt limits, by job name; attemptLimit is that of
	// all other jobs.
	limits       map[string]int
	attemptLimit int
	// cursor is where the last claim ended, until a whole one is due; nil is none.
	cursor *cursor
	// expensive: whole claims are, because of manyLanes or because a look took the
	// server slowAfter. manyLanes: some queue has more lanes than are walked. lookedAt
	// is when that was last checked.
	expensive, manyLanes bool
	lookedAt             time.Time
	known                knownLanes
	// most limits a claim after one that has timed out; 0 is no limit.
	most int
}

// New returns the claimer of a worker. attemptLimits are the handlers' own, by job
// name, and attemptLimit is that of all other jobs. take makes a J of each claimed job
// and its token; it must not keep the Job, which is used again for the next row.
func New[J any](
	pool *pg.Pool, worker uuid.UUID, attemptLimits map[string]int, attemptLimit int, take func(job *Job, token int64) J,
) *Claimer[J] {
	return &Claimer[J]{pool: pool, worker: worker, limits: attemptLimits, attemptLimit: attemptLimit, take: take}
}

const (
	// wholeEvery is how many times its own duration passes after a whole claim before
	// the next one: they take a fifth of the time at most.
	wholeEvery = 4
	// minWhole is the least time between two of them while there is a cursor.
	minWhole = 50 * time.Millisecond
	// maxExpensive is the most while they are expensive. A job in an unknown lane waits
	// that long, whatever its priority is.
	maxExpensive = time.Second
	// slowAfter is when a look was slow. It usually takes 1 ms. 0.25 s is a lane with
	// 700,000 due jobs of other names before the first one in scope.
	slowAfter = 250 * time.Millisecond
	// lookEvery is how often a worker whose claims are all full checks whether there are
	// more lanes than it sees.
	lookEvery = time.Second
	// unlimited is from where on a claim needs no limit after a timeout: no worker runs
	// more jobs at once.
	unlimited = 10_000
)

// Taken is what a claim brought.
type Taken[J any] struct {
	Jobs []J
	// Full: there may be more.
	Full bool
	// Again is when the next claim looks at all lanes; zero if this one did.
	Again time.Time
}

// Take claims up to n due jobs in scope, the most urgent ones, under a fresh token.
//
// Errors: those of the database. After an error the database may have committed the
// claim.
func (c *Claimer[J]) Take(ctx context.Context, token int64, scope Scope, n int) (Taken[J], error) {
	if c.most > 0 {
		n = min(n, c.most)
	}
	if c.expensive {
		return c.takeKnown(ctx, token, scope, n)
	}
	var jobs []J
	if at := c.cursor; at != nil && time.Now().Before(at.until) && at.scope.equal(scope) {
		var err error
		if jobs, err = c.takeAtCursor(ctx, token, n); err != nil || len(jobs) == n {
			return Taken[J]{Jobs: jobs, Full: true}, err
		}
	}
	began := time.Now()
	rest := n - len(jobs)
	more, lanes, err := c.claim(ctx, WholeSQL, token, scope, rest)
	if err != nil {
		c.cursor = nil
		if len(jobs) > 0 {
			// These are claimed. The next claim meets the error again.
			return Taken[J]{Jobs: jobs, Full: true}, nil
		}
		return Taken[J]{}, err
	}
	if c.cursor = nil; len(lanes) == 1 && len(more) == rest {
		c.cursor = &cursor{scope: scope, point: lanes[0], until: time.Now().Add(max(wholeEvery*time.Since(began), minWhole))}
	}
	if jobs == nil {
		jobs = more
	} else {
		jobs = append(jobs, more...)
	}
	return Taken[J]{Jobs: jobs, Full: len(more) == rest}, nil
}

// takeAtCursor claims at the cursor and moves it.
func (c *Claimer[J]) takeAtCursor(ctx context.Context, token int64, n int) ([]J, error) {
	at := c.cursor
	jobs, lanes, err := c.claim(ctx, CursorSQL, token, at.scope, n, at.queue, at.priority, at.due)
	if len(lanes) > 0 {
		at.due = lanes[0].due
	}
	return jobs, err
}

// takeKnown is Take while whole claims are expensive.
func (c *Claimer[J]) takeKnown(ctx context.Context, token int64, scope Scope, n int) (Taken[J], error) {
	known := c.known.of(scope, c.manyLanes)
	if time.Now().Before(known.until) {
		jobs, err := c.takeIn(ctx, token, scope, n, known)
		return Taken[J]{Jobs: jobs, Full: len(jobs) == n, Again: known.until}, err
	}
	began := time.Now()
	jobs, lanes, err := c.claim(ctx, WholeRestSQL, token, scope, n)
	known.until = time.Now().Add(min(max(wholeEvery*time.Since(began), minWhole), maxExpensive))
	known.remember(lanes)
	return Taken[J]{Jobs: jobs, Full: len(jobs) == n}, err
}

// takeIn claims in the known lanes.
func (c *Claimer[J]) takeIn(ctx context.Context, token int64, scope Scope, n int, known *lanes) ([]J, error) {
	if len(known.points) == 0 {
		return nil, nil
	}
	var (
		queues     = make([]string, len(known.points))
		priorities = make([]int32, len(known.points))
		dues       = make([]pgtype.Timestamptz, len(known.points))
	)
	for i, p := range known.points {
		queues[i], priorities[i], dues[i] = p.queue, int32(p.priority), p.due
	}
	jobs, found, err := c.claim(ctx, KnownSQL, token, scope, n, queues, priorities, dues)
	known.remember(found)
	return jobs, err
}

// claim runs one of the statements, with its further parameters. lanes are those that
// it took from, each with its latest due time.
func (c *Claimer[J]) claim(ctx context.Context, sql string, token int64, scope Scope, n int, further ...any) (jobs []J, lanes []point, err error) {
	args := append([]any{scope.Queues, scope.Names, n, c.worker, token, c.limits, c.attemptLimit}, further...)
	var r row
	err = byindex.Again(ctx, c.pool, func(db byindex.Batcher) error {
		jobs, lanes = nil, nil
		rows, _ := byindex.Query(ctx, db, sql, args...)
		_, err := pgx.ForEachRow(rows, r.targets(), func() error {
			r.complete()
			jobs = append(jobs, c.take(&r.Job, token))
			p := point{r.Queue, r.Priority, r.due}
			// Jobs of one lane come one after the other.
			i := len(lanes) - 1
			if i < 0 || !lanes[i].sameLane(p) {
				i = slices.IndexFunc(lanes, p.sameLane)
			}
			switch {
			case i < 0:
				lanes = append(lanes, p)
			case isLater(p.due, lanes[i].due):
				lanes[i].due = p.due
			}
			return nil
		})
		return err
	})
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			// Whatever makes it slow, a smaller claim meets less of it.
			c.most = max(n/4, 1)
		}
		return nil, nil, fmt.Errorf("claim jobs: %w", err)
	}
	if c.most *= 2; c.most >= unlimited {
		c.most = 0
	}
	return jobs, lanes, nil
}

// maxSmallArgs is how many bytes of arguments come with a claim.
const maxSmallArgs = 16 << 10

// row is a row of takePicked. One is used for all rows of a claim: what is allocated
// here would be allocated for each job.
type row struct {
	Job
	lastError, producer, key *string
	due                      pgtype.Timestamptz
}

// targets are what a row is scanned to.
func (r *row) targets() []any {
	return []any{
		pg.ScanID(&r.ID), &r.Name, &r.Args, &r.Queue, &r.Priority,
		&r.Attempts, &r.MaxAttempts, &r.ScheduledAt,
		&r.CreatedAt, &r.UpdatedAt, &r.lastError,
		&r.producer, &r.key, &r.ReplayOf, &r.due,
	}
}

// complete follows the scan of a row.
func (r *row) complete() {
	r.LastError, r.ProducerID, r.DedupKey = orEmpty(r.lastError), orEmpty(r.producer), orEmpty(r.key)
	if len(r.Args) > maxSmallArgs {
		r.Args = nil
	}
}

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
