package engine

import (
	"math"
	"math/rand/v2"
	"time"
)

// RetryPolicy says how long to wait before the next attempt. It has no say in
// whether there is one.
type RetryPolicy interface {
	// Delay is asked after a failed attempt, with that attempt's number (1 is
	// the first) and the handler's own error. A negative delay is read as 0.
	Delay(attempt int, err error) time.Duration
}

// RetryFunc is a function as a [RetryPolicy].
type RetryFunc func(attempt int, err error) time.Duration

// Delay calls f.
func (f RetryFunc) Delay(attempt int, err error) time.Duration { return f(attempt, err) }

// Exponential doubles the delay with each attempt. Its zero value is the
// default policy: 1 s, 2 s, 4 s ... up to an hour, each between half of that
// and all of it, by chance, so that jobs that failed together don't come back
// together.
type Exponential struct {
	// Base is the delay after the first attempt. Default 1 s.
	Base time.Duration
	// Max bounds the delay. Default 1 h.
	Max time.Duration
	// NoJitter makes delays exact.
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
	// A product past the limit may not fit into an int64 either.
	if d := float64(base) * math.Pow(2, float64(max(attempt, 1)-1)); d < float64(limit) {
		delay = time.Duration(d)
	}
	if !e.NoJitter {
		delay -= rand.N(delay/2 + 1)
	}
	return delay
}

// Delays is a fixed list: the first entry follows the first attempt, and the
// last serves all later ones. An empty list retries at once.
type Delays []time.Duration

// Delay implements [RetryPolicy].
func (d Delays) Delay(attempt int, _ error) time.Duration {
	if len(d) == 0 {
		return 0
	}
	return d[min(max(attempt, 1), len(d))-1]
}
