package claim

import (
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// cursor is where a claim ended that took from one lane alone and left more there.
type cursor struct {
	scope Scope
	point
	// until is when the next claim is a whole one.
	until time.Time
}

// point is a point in a lane: the due time of the last job that was taken there.
type point struct {
	queue    string
	priority int
	due      pgtype.Timestamptz
}

// lane is a lane's name.
type lane struct {
	queue    string
	priority int
}

func (p point) lane() lane { return lane{p.queue, p.priority} }

func (p point) sameLane(o point) bool { return p.queue == o.queue && p.priority == o.priority }

// isLater reports whether a is after b. Both are due, so neither is at +infinity.
func isLater(a, b pgtype.Timestamptz) bool {
	if a.InfinityModifier != pgtype.Finite || b.InfinityModifier != pgtype.Finite {
		return a.InfinityModifier > b.InfinityModifier
	}
	return a.Time.After(b.Time)
}

// These limit the memory of lanes.
const (
	maxKnown  = 32
	maxScopes = 256
)

// defaultPriority is that of a job whose producer set none.
const defaultPriority = 100

// knownLanes are the lanes where claims have found jobs, by scope. The zero value has
// none.
type knownLanes map[string]*lanes

// lanes are those of one scope.
type lanes struct {
	// points are the latest ones, the last used at the end.
	points []point
	// until is when the next claim is a whole one.
	until time.Time
}

// of returns the lanes of a scope. With expect, a new scope begins with the lanes of
// the default priority, so what comes to them is found even before something was.
func (k *knownLanes) of(scope Scope, expect bool) *lanes {
	key := strings.Join(scope.Queues, "\x00") + "\x00\x00" + strings.Join(scope.Names, "\x00")
	known := (*k)[key]
	if known == nil {
		if known = new(lanes); expect {
			known.expect(scope.Queues)
		}
		if *k == nil || len(*k) >= maxScopes {
			*k = knownLanes{}
		}
		(*k)[key] = known
	}
	return known
}

func (l *lanes) expect(queues []string) {
	for _, queue := range queues[:min(len(queues), maxKnown)] {
		beginning := pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
		l.points = append(l.points, point{queue, defaultPriority, beginning})
	}
}

// remember notes where a claim has found jobs. In a lane that is known already it keeps
// the later due time: there the next claim continues.
func (l *lanes) remember(found []point) {
	for _, p := range found {
		if i := slices.IndexFunc(l.points, p.sameLane); i >= 0 {
			if isLater(l.points[i].due, p.due) {
				p.due = l.points[i].due
			}
			l.points = slices.Delete(l.points, i, i+1)
		}
		l.points = append(l.points, p)
	}
	l.points = l.points[max(len(l.points)-maxKnown, 0):]
}
