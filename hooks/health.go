package hooks

import "time"

// When an endpoint counts as dead, and its hook is disabled: all of its tries have failed
// for five days, there were at least twenty, and no two of them were more than 36 h apart.
//
// An answer that asks for a pause (429 with Retry-After) is no failed try. A delivery, a
// test that succeeds, and 'soniq hooks enable' end a run of failures. So does quiet: the
// waits between the tries of one delivery are at most 24 h and a fifth, so 36 h without a
// try mean that nothing waited, and nothing is known of that time. Deliveries that fail at
// the same moment are one try.
const (
	deadAfter = 5 * 24 * time.Hour
	deadTries = 20
	quietTime = 36 * time.Hour
)

// health is what the tries of a hook's deliveries say about its endpoint. The zero value
// is that of one that works. Times are those of the database's clock.
type health struct {
	// failures counts the failed tries of this run, since is when it began, and last is
	// its latest one. last is zero where only programs of 0.1.0 have counted.
	failures    int
	since, last time.Time
}

// failed returns the health after one more failed try.
func (h health) failed(now time.Time) health {
	switch {
	case h.failures <= 0 || !h.last.IsZero() && now.Sub(h.last) > quietTime:
		return health{1, now, now}
	case h.last.IsZero() || h.since.IsZero() || h.since.After(now):
		// 0.1.0 has counted, or the clock was set back: nothing is known of the time.
		return health{h.failures + 1, now, now}
	default:
		return health{h.failures + 1, h.since, now}
	}
}

// isDead reports whether the endpoint counts as dead.
func (h health) isDead() bool {
	return h.failures >= deadTries && h.last.Sub(h.since) >= deadAfter
}

// pause is how long nothing is sent after a failed try: from the fifth in a row on a
// minute, then twice as long each time, up to an hour.
func (h health) pause() time.Duration {
	if h.failures < breakerAfter {
		return 0
	}
	return min(time.Minute<<min(h.failures-breakerAfter, 10), time.Hour)
}
