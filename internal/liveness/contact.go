package liveness

import (
	"sync"
	"time"
)

// contact is how long the database has answered.
type contact struct {
	mu sync.Mutex
	// since is when it began to answer without a gap; zero while it doesn't. Both are
	// of the monotonic clock, which no step of the machine's clock moves. It stands
	// still while the machine sleeps, and so does all that is measured here.
	since, last time.Time
}

// answered notes whether the database answered.
func (c *contact) answered(ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	switch {
	case !ok:
		c.since = time.Time{}
	case c.since.IsZero() || now.Sub(c.last) > DeadAfter:
		c.since = now
	}
	c.last = now
}

// duration is how long the database has answered without a gap; negative if it
// doesn't.
func (c *contact) duration() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since.IsZero() {
		return -1
	}
	return time.Since(c.since)
}
