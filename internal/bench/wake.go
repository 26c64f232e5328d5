package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"soniq/internal/pause"
)

const (
	// A worker has these many jobs, this far apart, to begin with: then it
	// listens.
	warmUps     = 5
	warmUpPause = 100 * time.Millisecond
	// wakePause lets a worker fall asleep between two samples.
	wakePause = 25 * time.Millisecond
	// wakePatience is when a job counts as lost.
	wakePatience = time.Minute
	// The second of two inserts comes between these after the first.
	minGap, maxGap = time.Millisecond, 90 * time.Millisecond
)

// sleeper is a worker that waits for what is inserted.
type sleeper struct {
	stage  *stage
	insert Inserter
	clock  *stopwatch
	seq    int64
}

// whileAsleep calls do once a worker is at rest.
func whileAsleep(ctx context.Context, s *stage, do func(context.Context, *sleeper) error) error {
	insert, err := s.system.Inserter(s.pool)
	if err != nil {
		return err
	}
	w := &sleeper{s, insert, newStopwatch(), 0}
	return s.work(ctx, s.pool, w.clock, func(ctx context.Context) error {
		for range warmUps {
			if _, err := w.sample(ctx); err != nil {
				return err
			}
			if err := pause.For(ctx, warmUpPause); err != nil {
				return err
			}
		}
		return do(ctx, w)
	})
}

// sample inserts a job and returns how long it took, from the call on, until
// its handler began.
func (w *sleeper) sample(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, wakePatience, errors.New("a job did not start within a minute"))
	defer cancel()
	w.seq++
	start := time.Now()
	if err := w.insert(ctx, nil, w.seq); err != nil {
		return 0, err
	}
	at, err := w.clock.wait(ctx, w.seq)
	return at.Sub(start), err
}

// wakes measures from an insert to the start of the handler, with a worker that
// sleeps. before, which may be nil, comes before each insert, and rest after it.
func wakes(ctx context.Context, s *stage, o Options, rest time.Duration, before func(context.Context, *sleeper, int) error) ([]Figure, error) {
	waited := make([]time.Duration, 0, o.Samples)
	err := whileAsleep(ctx, s, func(ctx context.Context, w *sleeper) error {
		for i := range o.Samples {
			if before != nil {
				if err := before(ctx, w, i); err != nil {
					return err
				}
			}
			d, err := w.sample(ctx)
			if err != nil {
				return err
			}
			waited = append(waited, d)
			if err := pause.For(ctx, rest); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return delays(waited), nil
}

func wakeIdle(ctx context.Context, s *stage, o Options) ([]Figure, error) {
	return wakes(ctx, s, o, wakePause, nil)
}

// wakePairs measures the second of two inserts that are 1 to 90 ms apart: a
// worker that rests after a fetch lets it wait.
func wakePairs(ctx context.Context, s *stage, o Options) ([]Figure, error) {
	return wakes(ctx, s, o, maxGap, func(ctx context.Context, w *sleeper, i int) error {
		if _, err := w.sample(ctx); err != nil {
			return err
		}
		return pause.For(ctx, minGap+(maxGap-minGap)*time.Duration(i)/time.Duration(o.Samples))
	})
}

// wakeAfterRollback measures an insert that follows one that was rolled back.
func wakeAfterRollback(ctx context.Context, s *stage, o Options) ([]Figure, error) {
	undone := errors.New("rolled back")
	return wakes(ctx, s, o, wakePause, func(ctx context.Context, w *sleeper, _ int) error {
		w.seq++
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			if err := w.insert(ctx, tx, w.seq); err != nil {
				return err
			}
			return undone
		})
		if !errors.Is(err, undone) {
			return fmt.Errorf("roll back: %w", err)
		}
		return nil
	})
}

// sustainedClients insert the jobs of sustained.
const sustainedClients = 4

// sustained inserts Rate jobs a second and measures from each insert to the
// start of its handler.
func sustained(ctx context.Context, s *stage, o Options) ([]Figure, error) {
	waited := make([]time.Duration, int(float64(o.Rate)*o.For.Seconds()))
	var took time.Duration
	err := whileAsleep(ctx, s, func(ctx context.Context, w *sleeper) error {
		numbers := make(chan int64)
		inserted := make([]time.Time, len(waited))
		first := w.seq + 1
		start := time.Now()
		var group errgroup.Group
		group.Go(func() error {
			defer close(numbers)
			pace := rate.NewLimiter(rate.Limit(o.Rate), max(o.Rate/100, 1))
			for i := range waited {
				if err := pace.Wait(ctx); err != nil {
					return err
				}
				select {
				case numbers <- first + int64(i):
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			return nil
		})
		for range sustainedClients {
			group.Go(func() error {
				for seq := range numbers {
					inserted[seq-first] = time.Now()
					if err := w.insert(ctx, nil, seq); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		took = time.Since(start)
		ctx, cancel := context.WithTimeoutCause(ctx, wakePatience, errors.New("not all jobs had started a minute after the last insert"))
		defer cancel()
		for i := range waited {
			at, err := w.clock.wait(ctx, first+int64(i))
			if err != nil {
				return err
			}
			waited[i] = at.Sub(inserted[i])
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return append([]Figure{{Name: "inserted", Value: float64(len(waited)) / took.Seconds(), Unit: "jobs/s"}}, delays(waited)...), nil
}
