package pg

import (
	"sync"
	"time"
)

// A Clock watches the database's clock for steps: it compares what passes between two
// readings with what passes by this process's monotonic clock, which nobody can set.
// Times that a step has made wrong are in the tables then: a lease seems expired, a
// worker silent, a job due for long. The zero Clock has read nothing yet.
type Clock struct {
	mu sync.Mutex
	// at is the database's time of the last reading, between sent and received.
	at, sent, received time.Time
	first              time.Time
	stepped            time.Time
}

// clockTolerance is by how much two clocks may differ after a moment, and
// clockDrift by which part of the time they may differ after longer: NTP corrects 0.5 ms
// in each second at most.
const (
	clockTolerance = 500 * time.Millisecond
	clockDrift     = 1000
)

// Note takes in a reading: at is what the database's clock said in an answer that was
// asked for at sent and received at received. It returns by how much the clock was set
// since the last reading: 0 if it wasn't, negative if it was set back.
func (c *Clock) Note(at, sent, received time.Time) (step time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first.IsZero() {
		c.first = received
		c.at, c.sent, c.received = at, sent, received
		return 0
	}
	passed := at.Sub(c.at)
	most, least := received.Sub(c.sent), sent.Sub(c.received)
	tolerance := clockTolerance + most/clockDrift
	switch {
	case passed > most+tolerance:
		step = passed - most
	case passed < least-tolerance:
		step = passed - least
	}
	if step != 0 {
		c.stepped = received
	}
	c.at, c.sent, c.received = at, sent, received
	return step
}

// Steady reports whether no step was seen in the last d. Of the time before the first
// reading it knows nothing.
func (c *Clock) Steady(d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stepped.IsZero() || time.Since(c.stepped) >= d
}

// Watched reports whether the first reading was made at least d ago.
func (c *Clock) Watched(d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.first.IsZero() && time.Since(c.first) >= d
}
