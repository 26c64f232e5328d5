package bench

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// enqueuers returns a workload in which that many clients insert single jobs,
// each in a transaction of its own, while nobody works.
func enqueuers(clients int) func(context.Context, *stage, Options) ([]Figure, error) {
	return func(ctx context.Context, s *stage, o Options) ([]Figure, error) {
		if err := s.calm(ctx); err != nil {
			return nil, err
		}
		n, took, err := s.insertFor(ctx, clients, o.For)
		if err != nil {
			return nil, err
		}
		return []Figure{perSecond("inserted", n, took)}, nil
	}
}

// enqueueWatched is the same with a worker that takes the jobs.
func enqueueWatched(clients int) func(context.Context, *stage, Options) ([]Figure, error) {
	return func(ctx context.Context, s *stage, o Options) (figures []Figure, err error) {
		if err := s.calm(ctx); err != nil {
			return nil, err
		}
		err = whileAsleep(ctx, s, func(ctx context.Context, _ *sleeper) error {
			n, took, err := s.insertFor(ctx, clients, o.For)
			figures = []Figure{perSecond("inserted", n, took)}
			return err
		})
		return figures, err
	}
}

// insertFor has clients insert jobs, one after the other each, until d has
// passed.
func (s *stage) insertFor(ctx context.Context, clients int, d time.Duration) (n int, took time.Duration, err error) {
	insert, err := s.system.Inserter(s.pool)
	if err != nil {
		return 0, 0, err
	}
	var seq atomic.Int64
	start := time.Now()
	var inserting errgroup.Group
	for range clients {
		inserting.Go(func() error {
			for time.Since(start) < d {
				if err := insert(ctx, nil, seq.Add(1)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = inserting.Wait()
	return int(seq.Load()), time.Since(start), err
}

// enqueueMany inserts Jobs in batches, as fast as the client can.
func enqueueMany(ctx context.Context, s *stage, o Options) ([]Figure, error) {
	if err := s.calm(ctx); err != nil {
		return nil, err
	}
	start := time.Now()
	if err := s.system.Fill(ctx, s.pool, o.Jobs); err != nil {
		return nil, err
	}
	return []Figure{perSecond("inserted", o.Jobs, time.Since(start))}, nil
}
