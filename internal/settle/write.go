package settle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"soniq/internal/pg"
)

// way is a way to write outcomes.
type way int

const (
	writeDone way = iota
	writeDelete
	writeRequeue
	// writeRequeuePlain is writeRequeue for a job that can't be unique any more.
	writeRequeuePlain
	writeDead
	writeCancelled
)

func (s *Writer) wayOf(o Outcome) way {
	switch o.Kind {
	case Done:
		// A trigger reads a replay's success from its row. So that row is kept for the
		// moment and expires at once.
		if s.TTL == 0 && !o.Replay {
			return writeDelete
		}
		return writeDone
	case DeadLetter:
		return writeDead
	case Cancelled:
		return writeCancelled
	default:
		return writeRequeue
	}
}

// writing is the tries to write one group.
type writing struct {
	*Settler
	way   way
	group []Outcome
	// patience is how long the next try may take.
	patience time.Duration
	// ambiguous: a try may have been committed. trouble is the first error of such a try.
	ambiguous bool
	trouble   error
	// tries counts those in a row that failed although the server could be reached.
	tries int
	told  reminder
}

// refusalError is about the rows: the same statement would fail again.
type refusalError struct{ error }

// writeGroup writes a group, again and again while the database is away. What the
// database refuses is deferred.
func (s *Settler) writeGroup(ctx context.Context, way way, group []Outcome) error {
	w := &writing{Settler: s, way: way, group: group, patience: firstPatience}
	ids, err := backoff.Retry(ctx, func() ([]uuid.UUID, error) { return w.try(ctx) },
		backoff.WithBackOff(&backoff.ExponentialBackOff{
			InitialInterval:     50 * time.Millisecond,
			RandomizationFactor: 0.5,
			Multiplier:          2,
			MaxInterval:         2 * time.Second, // a failover takes some seconds, and should not take more
		}),
		backoff.WithMaxElapsedTime(0),
		backoff.WithNotify(func(err error, _ time.Duration) {
			if pg.Momentary(err) || !w.told.due() {
				return
			}
			s.Logger.Warn("outcomes can't be written; trying until they are", "jobs", len(w.group)+len(s.Outcomes), "error", err)
		}),
	)
	var refused *refusalError
	if errors.As(err, &refused) {
		return s.deferAll(ctx, w.group, w.ambiguous, refused.error)
	}
	if err != nil {
		return fmt.Errorf("gave up: %w", cmp.Or(w.trouble, err))
	}
	if w.told.times > 0 {
		s.Logger.Info("outcomes are written again", "jobs", len(w.group))
	}
	s.report(ctx, w.group, ids, w.ambiguous)
	return nil
}

// try writes the group once. A permanent error is a refusal.
func (w *writing) try(ctx context.Context) ([]uuid.UUID, error) {
	ids, err := w.exec(ctx, w.way, w.group, w.patience)
	var connecting *pgconn.ConnectError
	switch {
	case err == nil:
		return ids, nil
	case pg.IsCode(err, pg.LockNotAvailable):
		return w.deferLocked(ctx, err)
	case pg.Refused(err) && !pg.Momentary(err) && !pg.IsClass(err, pg.ClassInternal):
		return nil, backoff.Permanent(&refusalError{err})
	case pg.Refused(err):
		return nil, w.again(err)
	}
	// The statement may have been committed before the connection broke.
	w.ambiguous, w.trouble = true, cmp.Or(w.trouble, err)
	if errors.As(err, &connecting) {
		w.tries = 0
		return nil, err
	}
	if pg.NoServer(err) {
		// It says nothing of the outcomes; a pooler says it at once, and again and again.
		return nil, err
	}
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		w.patience = min(2*w.patience, maxPatience)
	}
	return nil, w.again(err)
}

// again counts a try that failed although the server could be reached.
func (w *writing) again(err error) error {
	if w.tries++; w.tries >= maxTries {
		return backoff.Permanent(&refusalError{err})
	}
	return err
}

// deferLocked defers the outcomes whose rows are locked. If there are none, another lock
// keeps the group from being written, such as that of a unique key.
func (w *writing) deferLocked(ctx context.Context, err error) ([]uuid.UUID, error) {
	ids, ok := w.locked(ctx, w.group)
	if !ok {
		return nil, w.again(err)
	}
	if len(ids) == 0 {
		return nil, backoff.Permanent(&refusalError{err})
	}
	var locked, free []Outcome
	for _, o := range w.group {
		if slices.Contains(ids, o.ID) {
			locked = append(locked, o)
		} else {
			free = append(free, o)
		}
	}
	if err := w.deferAll(ctx, locked, w.ambiguous, err); err != nil {
		return nil, backoff.Permanent(err)
	}
	if w.group = free; len(free) == 0 {
		return nil, nil
	}
	return nil, err
}

// deferAll hands outcomes over to Deferred, or else tries each once.
func (s *Settler) deferAll(ctx context.Context, group []Outcome, unsure bool, refusal error) error {
	var errs []error
	for _, o := range group {
		o.unsure = o.unsure || unsure
		if s.Deferred != nil {
			s.Deferred.add(o, refusal)
			continue
		}
		if err := s.writeOne(ctx, o, refusal, firstPatience); err != nil {
			errs = append(errs, fmt.Errorf("job %s: %w", o.ID, err))
		}
	}
	return errors.Join(errs...)
}
