package notify

import (
	"math/rand/v2"
	"time"
)

// healthyAfter is how long a connection must have lasted for the backoff to begin anew: one
// that is dropped each time costs little then. It is short, since after a failover the next
// loss may come soon: a switch back, or the restart of a pooler.
const healthyAfter = 5 * time.Second

// backoff is the wait before the next attempt: a random time from 0 to a ceiling that
// doubles with each failure. It has full jitter because all programs reconnect at once
// when a server comes back.
type backoff struct {
	min, max time.Duration
	failures int
}

// next counts a failure and returns the wait before the next attempt. lived is how long
// the connection lasted; 0: there was none.
func (b *backoff) next(lived time.Duration) time.Duration {
	if lived >= healthyAfter {
		b.failures = 0
	}
	ceiling := b.ceiling()
	b.failures++
	return rand.N(ceiling + 1)
}

func (b *backoff) ceiling() time.Duration {
	c := b.min
	for range b.failures {
		if c >= b.max/2 {
			return b.max
		}
		c *= 2
	}
	return min(c, b.max)
}
