package claim

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/internal/byindex"
)

// horizon is further ahead than a worker ever sleeps.
const horizon = 10 * time.Minute

// Next is what a look ahead has found.
type Next struct {
	// Wait is the time until the next job is due, negative if one is overdue. OK is
	// false if none is due within the horizon.
	Wait time.Duration
	OK   bool
	// Unsure: the claims before may not have seen everything.
	Unsure bool
}

// UntilNext looks for the next job in scope, and whether whole claims are expensive.
//
// Errors: those of the database.
func (c *Claimer[J]) UntilNext(ctx context.Context, scope Scope) (next Next, err error) {
	if c.floors != nil && len(c.floors.lanes) > 0 && !c.floors.fresh {
		// What comes before old floors was not looked at.
		return Next{Unsure: true}, nil
	}
	was := c.expensive
	next, more, err := c.look(ctx, scope)
	if err != nil || !more {
		return next, err
	}
	if !was {
		// The claims that led here have looked at the first lanes alone.
		return Next{Unsure: true}, nil
	}
	far, full, _, err := c.lookAhead(ctx, c.form(false).nextRest, scope)
	if err != nil {
		return Next{}, err
	}
	if far.OK && (!next.OK || far.Wait < next.Wait) {
		next = far
	}
	if full && (!next.OK || next.Wait > maxExpensive) {
		// A job in scope may be behind what was looked at.
		next.Wait, next.OK = maxExpensive, true
	}
	return next, nil
}

// LookIfDue checks now and then, for a worker whose claims are all full, whether whole
// claims are expensive.
//
// Errors: those of the database.
func (c *Claimer[J]) LookIfDue(ctx context.Context, scope Scope) error {
	if time.Since(c.lookedAt) <= lookEvery || c.floors != nil && len(c.floors.lanes) == 0 {
		return nil // or it will be known with the next claim where jobs begin
	}
	_, _, err := c.look(ctx, scope)
	return err
}

// look looks ahead in the first lanes, and notes whether whole claims are expensive.
// more reports that there are more lanes.
func (c *Claimer[J]) look(ctx context.Context, scope Scope) (next Next, more bool, err error) {
	sql, further := c.form(false).next, []any(nil)
	// A claim was slow, and it is not known yet why.
	unknown := c.floors != nil && len(c.floors.lanes) == 0
	if c.floors != nil && !unknown {
		sql, further = c.form(false).nextFloored, c.floors.of(scope)
	}
	next, more, took, err := c.lookAhead(ctx, sql, scope, further...)
	if err != nil {
		return Next{}, false, err
	}
	c.lookedAt, c.manyLanes = time.Now(), more
	if expensive := more || took > slowAfter && !unknown; expensive != c.expensive {
		c.expensive, c.cursor, c.known, c.floors, c.survey = expensive, nil, nil, nil, nil
	}
	return next, more, nil
}

// lookAhead runs one of the statements that look ahead.
func (c *Claimer[J]) lookAhead(ctx context.Context, sql string, scope Scope, further ...any) (next Next, more bool, took time.Duration, err error) {
	var until *float64
	var seconds float64
	rows, _ := byindex.Query(ctx, c.pool, sql, append([]any{scope.Queues, scope.Names, horizon}, further...)...)
	_, err = pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (struct{}, error) {
		return struct{}{}, row.Scan(&until, &more, &seconds)
	})
	if err != nil {
		return Next{}, false, 0, fmt.Errorf("read next due time: %w", err)
	}
	if until != nil {
		next.Wait, next.OK = inSeconds(*until), true
	}
	return next, more, inSeconds(seconds), nil
}

func inSeconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
