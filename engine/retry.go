package engine

import (
	"math"
	"math/rand/v2"
	"time"
)

// RetryPolicy decides how long to wait before the next attempt. Whether there is one is
// decided before.
type RetryPolicy interface {
	// Delay returns the delay after a failed attempt. attempt is its number, from 1,
	// and err is the handler's error. A negative delay means 0.
	Delay(attempt int, err error) time.Duration
}

// RetryFunc makes a [RetryPolicy] of a function.
type RetryFunc func(attempt int, err error) time.Duration

// Delay calls f.
func (f RetryFunc) Delay(attempt int, err error) time.Duration { return f(attempt, err) }

// Exponential doubles the delay with each attempt. Its zero value is the default
// policy: 1 s, 2 s, 4 s and so on, up to an hour. Jitter takes up to half of a delay
// away, at random, so that jobs which failed together are not retried together.
type Exponential struct {
	// Base is the delay after the first attempt. Default 1 s.
	Base time.Duration
	// Max is the longest delay. Default 1 h.
	Max time.Duration
	// NoJitter turns jitter off. Default false.
	NoJitter bool
}

// Delay implements [RetryPolicy].
func (e Exponential) Delay(attempt int, _ error) time.Duration {
	base, limit := e.Base, e.Max
	if base <= 0 {
		base = time.Second
	}
	if limit <= 0 {
		limit = time.Hour
	}
	delay := limit
	// In float64, since a large product doesn't fit into an int64.
	if d := float64(base) * math.Pow(2, float64(max(attempt, 1)-1)); d < float64(limit) {
		delay = time.Duration(d)
	}
	if !e.NoJitter {
		delay -= rand.N(delay/2 + 1)
	}
	return delay
}

// Delays is a list of delays: the first one follows the first attempt, and the last
// one is repeated. An empty list retries at once.
type Delays []time.Duration

// Delay implements [RetryPolicy].
func (d Delays) Delay(attempt int, _ error) time.Duration {
	if len(d) == 0 {
		return 0
	}
	return d[min(max(attempt, 1), len(d))-1]
}
