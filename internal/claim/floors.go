package claim

import (
	"context"
	"fmt"
	"slices"
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
// takes a fortieth of the time, so claims use floors that are some 40 times as old as it
// takes, and up to 3 s. While claims are full, no statement is needed: a claim has read these
// rows itself, and tells where its own jobs begin. Until then a job that comes before a floor waits: one that was
// queued again when its worker died or stopped, or that was given an earlier time. So what
// a claim with old floors finds may not be all.
type floors struct {
	lanes []floor
	// until is when they are old, and fresh that they were learnt by the last claim.
	until time.Time
	fresh bool
	// tried: old ones were used once more.
	tried bool
	// derived: they are those of a claim, and when they are old another one tells them.
	derived bool
	// took is how long that claim took.
	took time.Duration
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
	// slowClaim is when a claim was slow enough to ask why: jobs took it slowJob each, and each
	// of many queues slowQueue.
	slowClaim, slowJob, slowQueue = 5 * time.Millisecond, 40 * time.Microsecond, 20 * time.Microsecond
	// floorsEvery is how many times as long as it takes passes before floors are learnt
	// again: at least minWhole, and maxFloors at most unless that is under wholeEvery times.
	floorsEvery = 39
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
		names      = f.asked(scope.Names)
	)
	for i, lane := range f.lanes {
		queues[i], priorities[i], dues[i] = lane.queue, lane.priority, lane.of(names)
	}
	return []any{queues, priorities, dues}
}

// asked is a set of names, nil if no floor needs it.
func (f *floors) asked(names []string) map[string]bool {
	if !slices.ContainsFunc(f.lanes, func(l floor) bool { return len(l.names) > 0 }) {
		return nil
	}
	asked := make(map[string]bool, len(names))
	for _, name := range names {
		asked[name] = true
	}
	return asked
}

// of is the lane's floor for the names that are asked for.
func (l *floor) of(asked map[string]bool) pgtype.Timestamptz {
	due := l.due
	for n, name := range l.names {
		if asked[name] && isLater(due, l.dues[n]) {
			due = l.dues[n]
		}
	}
	return due
}

// raise moves lanes up to the floors of these names.
func (f *floors) raise(lanes []point, names []string) {
	asked := f.asked(names)
	due := make(map[lane]pgtype.Timestamptz, len(f.lanes))
	for _, l := range f.lanes {
		due[lane{l.queue, int(l.priority)}] = l.of(asked)
	}
	for i, p := range lanes {
		if at, ok := due[p.lane()]; ok && isLater(at, p.due) {
			lanes[i].due = at
		}
	}
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
	if c.survey != nil {
		c.survey.until = time.Time{}
	}
	if len(lanes) == 0 || took < c.slowFloors {
		c.floors = nil
		return nil
	}
	c.floors = &floors{lanes: lanes, until: c.learnt.Add(floorsLast(took)), fresh: true}
	return nil
}

// floorsLast is how long floors count that it took so long to learn.
func floorsLast(took time.Duration) time.Duration {
	return min(max(floorsEvery*took, minWhole), max(maxFloors, wholeEvery*took))
}

// slow reports whether a claim that looked into so many queues was slow.
func slow(took time.Duration, jobs, queues int) bool {
	if queues <= fewQueues {
		queues = 0
	}
	return took > slowClaim+time.Duration(jobs)*slowJob+time.Duration(queues)*slowQueue
}

// noteSlow follows a slow claim that has looked at all lanes: it is learnt where jobs begin, from
// what it brought, if it was full, else by the next one.
func (c *Claimer[J]) noteSlow(ctx context.Context, a asked, got brought[J], took time.Duration) {
	s := a.scope
	whole := len(c.bounded) == 0 && same(s.Names, c.all.Names) && len(s.Queues) == len(c.all.Queues) && !s.limits(a.n)
	switch f := c.floors; {
	case f != nil && f.derived:
		if took > f.took/2 {
			// They are not all: that of a lane is missing which the claim before did not reach.
			c.floors = &floors{tried: true}
		}
	case f != nil || time.Since(c.learnt) <= maxExpensive:
	case whole && len(got.jobs) == a.n:
		c.deriveFloors(ctx, got, took)
	default:
		c.floors = &floors{tried: true}
	}
}

// deriveFloors notes where jobs begin by a claim of all names without floors, which was full.
// There are none of ours in the more urgent lanes that it has taken nothing from, and none before
// the first one in those that it has. If it skipped one that another session had locked and gives
// back, that one waits until the floors are old.
func (c *Claimer[J]) deriveFloors(ctx context.Context, got brought[J], took time.Duration) {
	walked, err := c.walk(ctx)
	if err != nil {
		return // the next claim meets it
	}
	first := make(map[lane]pgtype.Timestamptz, len(got.lanes))
	last := got.lanes[0].priority
	for i, p := range got.lanes {
		first[p.lane()] = got.first[i]
		last = max(last, p.priority)
	}
	c.learnt = time.Now()
	f := &floors{until: c.learnt.Add(floorsLast(took)), derived: true, took: took}
	for _, p := range walked {
		due, ours := first[p.lane()]
		if !ours && p.priority < last || ours && isLater(due, got.before) {
			due, ours = got.before, true
		}
		if ours && isLater(due, p.due) {
			f.lanes = append(f.lanes, floor{queue: p.queue, priority: int32(p.priority), due: due})
		}
	}
	if c.survey != nil {
		c.survey.until = time.Time{}
	}
	if c.floors = f; len(f.lanes) == 0 {
		c.floors = nil
	}
}
