package bench

import (
	"context"
	"fmt"
	"time"

	"soniq/deadletter"
)

// failures lets Jobs fail for good; the clock runs until the last is a dead
// letter. Then it replays all of them.
func failures(ctx context.Context, s *stage, o Options) ([]Figure, error) {
	if err := s.fill(ctx, o.Jobs); err != nil {
		return nil, err
	}
	left := newCountdown(o.Jobs)
	err := s.work(ctx, s.pool, left, left.wait)
	if err != nil {
		return nil, err
	}
	moved := perSecond("moved to the dead letters", o.Jobs, left.took())
	queue, err := deadletter.NewQueue(s.pool, deadletter.QueueConfig{})
	if err != nil {
		return nil, err
	}
	start := time.Now()
	result, err := queue.ReplayAll(ctx, deadletter.Filter{All: true}, deadletter.ReplayAllOptions{})
	if err != nil {
		return nil, err
	}
	if len(result.Replayed) != o.Jobs {
		return nil, fmt.Errorf("replayed %d of %d", len(result.Replayed), o.Jobs)
	}
	return []Figure{moved, perSecond("replayed", o.Jobs, time.Since(start))}, nil
}
