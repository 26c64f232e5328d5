package bench

import (
	"context"
	"sync"
	"time"
)

// countdown is a Probe that waits for a number of outcomes.
type countdown struct {
	mu   sync.Mutex
	left int
	// began and ended are the worker's first look and the last outcome.
	began, ended time.Time
	done         chan struct{}
}

func newCountdown(n int) *countdown { return &countdown{left: n, done: make(chan struct{})} }

// Began implements [Probe].
func (c *countdown) Began() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.began = time.Now()
}

// Started implements [Probe].
func (*countdown) Started(int64) {}

// Settled implements [Probe].
func (c *countdown) Settled(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.left
	if c.left -= n; was > 0 && c.left <= 0 {
		c.ended = time.Now()
		close(c.done)
	}
}

// wait waits for the last outcome.
func (c *countdown) wait(ctx context.Context) error {
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// took is from the worker's first look to the last outcome, once wait has
// returned.
func (c *countdown) took() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended.Sub(c.began)
}

// stopwatch is a Probe that knows when each job started.
type stopwatch struct {
	mu      sync.Mutex
	started map[int64]chan time.Time
}

func newStopwatch() *stopwatch { return &stopwatch{started: map[int64]chan time.Time{}} }

func (s *stopwatch) of(seq int64) chan time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.started[seq]
	if !ok {
		c = make(chan time.Time, 1)
		s.started[seq] = c
	}
	return c
}

// Began implements [Probe].
func (*stopwatch) Began() {}

// Started implements [Probe].
func (s *stopwatch) Started(seq int64) {
	now := time.Now()
	select {
	case s.of(seq) <- now:
	default: // a second attempt
	}
}

// Settled implements [Probe].
func (s *stopwatch) Settled(int) {}

// wait returns when the job with that number started.
func (s *stopwatch) wait(ctx context.Context, seq int64) (time.Time, error) {
	c := s.of(seq)
	select {
	case at := <-c:
		s.mu.Lock()
		delete(s.started, seq)
		s.mu.Unlock()
		return at, nil
	case <-ctx.Done():
		return time.Time{}, context.Cause(ctx)
	}
}
