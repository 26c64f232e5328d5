package claim

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/internal/byindex"
)

// survey is what a look at all lanes has found, for a worker of many queues. A thousand queues
// with a job each are a thousand lanes: to walk them takes 5 ms, in each claim, for ten jobs
// that take 2. So they are walked once for several claims, which take from the lanes in the
// order that a whole claim would.
//
// A survey takes a tenth of the time, so claims use one that is some nine times as old as it
// takes. What comes until then to lanes that are not in it, or is more urgent, waits for the
// next one. A claim that is not full is always followed by a whole one.
type survey struct {
	// names are those of the claims that it is for.
	names []string
	// lanes may have more jobs, each from its due time on. They are in their order.
	lanes []point
	// until is when it is old; zero if it is still to be made.
	until time.Time
	// few: there were so few lanes that claims do without.
	few bool
}

const (
	// surveyEvery is how many times as long as it takes passes before the next survey:
	// maxExpensive at most, unless that is under wholeEvery times.
	surveyEvery = 9
	// minAsked is the least number of lanes that a claim is given.
	minAsked = 16
)

// surveyed returns the survey that a claim may use; nil if there is none.
func (c *Claimer[J]) surveyed(ctx context.Context, a asked) (*survey, error) {
	s, f := c.survey, c.floors
	if s == nil || f != nil && (len(f.lanes) == 0 || time.Now().After(f.until)) {
		return nil, nil
	}
	if !same(s.names, a.scope.Names) || overLimit(a.scope.mostOfName, a.n) {
		// What it leaves out of a lane, since its name is full, it would never come back to.
		c.survey = nil
		return nil, nil
	}
	if time.Now().Before(s.until) {
		return s, nil
	}
	return s, c.makeSurvey(ctx, s)
}

// makeSurvey looks at all lanes.
func (c *Claimer[J]) makeSurvey(ctx context.Context, s *survey) error {
	began := time.Now()
	lanes, err := c.walk(ctx)
	if err != nil {
		return err
	}
	took := time.Since(began)
	s.until = time.Now().Add(max(min(surveyEvery*took, maxExpensive), wholeEvery*took))
	if s.few = len(lanes) <= fewQueues; s.few {
		s.lanes, s.until = nil, time.Now().Add(maxExpensive)
		return nil
	}
	s.lanes = lanes
	if c.floors != nil {
		c.floors.raise(s.lanes, s.names)
		slices.SortStableFunc(s.lanes, byOrder)
	}
	return nil
}

// walk returns the lanes with a due job, in the order in which claims take from them, each with the
// due time of its first job.
func (c *Claimer[J]) walk(ctx context.Context) ([]point, error) {
	rows, _ := byindex.Query(ctx, c.pool, c.form(false).survey, c.all.Queues)
	lanes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p point, err error) {
		err = row.Scan(&p.queue, &p.priority, &p.due)
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("look which queues have jobs: %w", err)
	}
	return lanes, nil
}

// wantSurvey follows a whole claim that was full: the next one may want a survey.
func (c *Claimer[J]) wantSurvey(a asked) {
	if len(c.all.Queues) > fewQueues && (c.survey == nil || !c.survey.few || time.Now().After(c.survey.until)) {
		c.survey = &survey{names: a.scope.Names}
	}
}

// byOrder is the order in which claims take from lanes.
func byOrder(a, b point) int {
	later := 0
	if isLater(a.due, b.due) {
		later = 1
	} else if isLater(b.due, a.due) {
		later = -1
	}
	return cmp.Or(cmp.Compare(a.priority, b.priority), later)
}

// takeSurveyed claims in the lanes of a survey, until some jobs were found.
func (c *Claimer[J]) takeSurveyed(ctx context.Context, a asked, s *survey) (got brought[J], err error) {
	for size := max(a.n, minAsked); len(got.jobs) == 0; size *= 2 {
		places := s.next(a.scope, len(c.all.Queues), size)
		if len(places) == 0 {
			break
		}
		lanes := make([]point, len(places))
		in := a
		in.scope.Queues = make([]string, len(places))
		for i, place := range places {
			lanes[i] = s.lanes[place]
			in.scope.Queues[i] = lanes[i].queue
		}
		began := time.Now()
		if got, err = c.claimIn(ctx, in, lanes); err != nil {
			return got, err
		}
		if c.floors == nil && slow(time.Since(began), len(got.jobs), len(lanes)) && time.Since(c.learnt) > maxExpensive {
			// A whole claim tells why.
			s.lanes = nil
			return got, nil
		}
		s.note(places, got.taken(a))
	}
	return got, nil
}

// next returns the places of the first lanes of a scope, up to size of them. all is how many
// queues the worker serves.
func (s *survey) next(scope Scope, all, size int) (places []int) {
	var open map[string]bool
	if len(scope.Queues) < all {
		open = make(map[string]bool, len(scope.Queues))
		for _, queue := range scope.Queues {
			open[queue] = true
		}
	}
	for place, lane := range s.lanes {
		if len(places) == size {
			break
		}
		if open == nil || open[lane.queue] {
			places = append(places, place)
		}
	}
	return places
}

// taken is what a claim has taken from some lanes.
type taken struct {
	// latest are the due times of the last jobs of each.
	latest map[lane]point
	// all: all that the lanes had was taken, but for queues that are full.
	all bool
	// full reports whether the queue runs as many jobs as it may.
	full func(queue string) bool
}

func (b *brought[J]) taken(a asked) taken {
	t := taken{
		latest: make(map[lane]point, len(b.lanes)), all: len(b.jobs) < a.n && !b.filled,
		full: func(queue string) bool {
			most, ok := a.scope.mostOfQueue[queue]
			return ok && b.ofQueue[queue] >= most
		},
	}
	for _, p := range b.lanes {
		t.latest[p.lane()] = p
	}
	return t
}

// note follows a claim in the lanes at these places: those that have no more are forgotten.
func (s *survey) note(places []int, t taken) {
	last := -1
	for i, place := range places {
		if _, ok := t.latest[s.lanes[place].lane()]; ok {
			last = i
		}
	}
	var moved []point
	gone := make(map[int]bool, len(places))
	for i, place := range places {
		p := s.lanes[place]
		if latest, ok := t.latest[p.lane()]; ok {
			p = latest
		}
		over := t.full(p.queue)
		switch {
		case !over && (t.all || i < last):
			gone[place] = true
		case p != s.lanes[place]:
			gone[place] = true
			moved = append(moved, p)
		}
	}
	kept := s.lanes[:0]
	for place, p := range s.lanes {
		if !gone[place] {
			kept = append(kept, p)
		}
	}
	s.lanes = append(kept, moved...)
	if len(moved) > 0 {
		slices.SortStableFunc(s.lanes, byOrder)
	}
}
