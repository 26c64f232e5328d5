package notify

import (
	"math/rand/v2"
	"time"
)

// healthyAfter is how long a connection must have lasted for its loss to count
// as a new accident and not as one more failure of the last one. A server that
// accepts and drops us each few seconds is not a healthy one.
const healthyAfter = time.Minute

// backoff says how long to wait before the next attempt: a random time between
// nothing and a ceiling that doubles with each failure. Full jitter, because a
// server that comes back is met by its whole fleet at once.
type backoff struct {
	min, max time.Duration
	failures int
}

// next counts a failure and returns the wait before the next attempt. lived is
// how long the connection lasted, 0 if there was none.
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
