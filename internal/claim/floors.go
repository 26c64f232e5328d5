package claim

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"soniq/internal/byindex"
)

// floors are where claims begin in the lanes whose first jobs can't be taken: they are of
// other names, or of a name that runs as many as it may. With 100,000 of those, each claim
// would read 100,000 rows, 30 ms. The floor of a lane and a name is a time before which
// the lane has no due job of that name.
//
// They are learnt by a statement that reads these rows once, when a claim was slow. It
// takes a twentieth of the time, so claims use floors that are some 20 times as old as it
// takes, and up to 3 s. Until then a job that comes before a floor waits: one that was
// queued again when its worker died or stopped, or that was given an earlier time. So what
// a claim with old floors finds may not be all.
type floors struct {
	lanes []floor
	// until is when they are old, and fresh that they were learnt by the last claim.
	until time.Time
	fresh bool
	// tried: old ones were used once more.
	tried bool
}

// floor is that of one lane.
type floor struct {
	queue    string
	priority int32
	// due is for the names without a limit, and for those with one that are not among
	// names. Each of names has an earlier one.
	due   pgtype.Timestamptz
	names []string
	dues  []pgtype.Timestamptz
}

const (
	// slowClaim is when a claim was slow enough to ask why: jobs took it slowJob each.
	slowClaim, slowJob = 5 * time.Millisecond, 100 * time.Microsecond
	// floorsEvery is how many times as long as it takes passes before floors are learnt
	// again: at least minWhole, and maxFloors at most unless that is under wholeEvery times.
	floorsEvery = 19
	maxFloors   = 3 * time.Second
	// slowFloors is the default of a claimer's.
	slowFloors = 2 * time.Millisecond
)

// of are the floors of a scope, as the parameters of a statement. f may be nil.
func (f *floors) of(scope Scope) []any {
	if f == nil {
		f = new(floors)
	}
	var (
		queues     = make([]string, len(f.lanes))
		priorities = make([]int32, len(f.lanes))
		dues       = make([]pgtype.Timestamptz, len(f.lanes))
		asked      map[string]bool
	)
	for i, lane := range f.lanes {
		queues[i], priorities[i], dues[i] = lane.queue, lane.priority, lane.due
		if len(lane.names) > 0 && asked == nil {
			asked = make(map[string]bool, len(scope.Names))
			for _, name := range scope.Names {
				asked[name] = true
			}
		}
		for n, name := range lane.names {
			if asked[name] && isLater(dues[i], lane.dues[n]) {
				dues[i] = lane.dues[n]
			}
		}
	}
	return []any{queues, priorities, dues}
}

// learnFloors learns the floors of all that the worker serves, or that none are worth it.
func (c *Claimer[J]) learnFloors(ctx context.Context) error {
	began := time.Now()
	rows, _ := byindex.Query(ctx, c.pool, c.form(false).floors, c.all.Queues, c.unlimited, c.bounded)
	lanes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (f floor, err error) {
		err = row.Scan(&f.queue, &f.priority, &f.due, &f.names, &f.dues)
		return f, err
	})
	if err != nil {
		return fmt.Errorf("read where jobs begin: %w", err)
	}
	took := time.Since(began)
	c.learnt = time.Now()
	if len(lanes) == 0 || took < c.slowFloors {
		c.floors = nil
		return nil
	}
	every := max(floorsEvery*took, minWhole)
	every = min(every, max(maxFloors, wholeEvery*took))
	c.floors = &floors{lanes: lanes, until: c.learnt.Add(every), fresh: true}
	return nil
}

// noteSlow follows a claim without floors: if it was slow, the next one learns them.
func (c *Claimer[J]) noteSlow(took time.Duration, jobs int) {
	if took > slowClaim+time.Duration(jobs)*slowJob && time.Since(c.learnt) > maxExpensive {
		c.floors = &floors{tried: true}
	}
}
