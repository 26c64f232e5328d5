package settle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"

	"soniq/deadletter/classify"
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

func (s *Settler) wayOf(o Outcome) way {
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
	// broken counts the internal errors of the server.
	broken int
	warned bool
}

// refusalError is about the rows: the same statement would fail again.
type refusalError struct{ error }

// writeGroup writes a group, again and again while the database is away. If the
// database refuses a row, the group is written row by row.
func (s *Settler) writeGroup(ctx context.Context, way way, group []Outcome) error {
	w := &writing{Settler: s, way: way, group: group, patience: firstPatience}
	ids, err := backoff.Retry(ctx, func() ([]uuid.UUID, error) { return w.try(ctx) },
		backoff.WithBackOff(&backoff.ExponentialBackOff{
			InitialInterval:     50 * time.Millisecond,
			RandomizationFactor: 0.5,
			Multiplier:          2,
			MaxInterval:         5 * time.Second,
		}),
		backoff.WithMaxElapsedTime(0),
		backoff.WithNotify(func(err error, _ time.Duration) {
			if !w.warned {
				s.Logger.Warn("outcomes can't be written; trying until they are", "jobs", len(w.group), "error", err)
				w.warned = true
			}
		}),
	)
	var refused *refusalError
	if errors.As(err, &refused) {
		return s.writeRows(ctx, way, w.group, refused.error)
	}
	if err != nil {
		return fmt.Errorf("gave up: %w", cmp.Or(w.trouble, err))
	}
	if w.warned {
		s.Logger.Info("outcomes are written again", "jobs", len(w.group))
	}
	s.report(ctx, w.group, ids, w.ambiguous)
	return nil
}

// try writes the group once. A permanent error is a refusal. It takes outcomes whose
// rows are locked out of the group.
func (w *writing) try(ctx context.Context) ([]uuid.UUID, error) {
	ids, err := w.exec(ctx, w.way, w.group, w.patience)
	switch {
	case err == nil:
		return ids, nil
	case pg.IsDataError(err):
		return nil, backoff.Permanent(&refusalError{err})
	case pg.IsClass(err, pg.ClassInternal):
		if w.broken++; w.broken >= maxBroken {
			return nil, backoff.Permanent(&refusalError{err})
		}
		return nil, err
	case pg.IsCode(err, pg.LockNotAvailable):
		all := len(w.group)
		switch w.group = w.setAside(ctx, w.group); {
		case len(w.group) == 0:
			return nil, nil
		case len(w.group) == all && w.way == writeRequeue:
			// No row is locked, so it is the unique key of one.
			return nil, backoff.Permanent(&refusalError{err})
		}
		return nil, err
	}
	// The statement may have been committed before the connection broke.
	w.ambiguous, w.trouble = true, cmp.Or(w.trouble, err)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		w.patience = min(2*w.patience, maxPatience)
		if w.group = w.setAside(ctx, w.group); len(w.group) == 0 {
			return nil, nil
		}
	}
	return nil, err
}

// writeRows is for a group, or at last a row, that the database refuses. A row must not
// stay processing under a live worker. If all else fails it goes back to its queue,
// charged and after a while, because the next outcome may be refused too.
func (s *Settler) writeRows(ctx context.Context, way way, group []Outcome, refusal error) error {
	if len(group) > 1 {
		for _, o := range group {
			if err := s.writeGroup(ctx, way, []Outcome{o}); err != nil {
				return err
			}
		}
		return nil
	}
	o := group[0]
	switch {
	case way == writeRequeue:
		// Its unique twin is queued, or about to be.
		return s.writeGroup(ctx, writeRequeuePlain, group)
	case way == writeDone && o.Result != nil && o.Refuse != nil:
		return s.Write(ctx, []Outcome{o.Refuse(fmt.Errorf("store result: %w", refusal))})
	case way == writeDead && o.Verdict.Message != unstorableError:
		o.Verdict.Message, o.Verdict.Stack = unstorableError, ""
		return s.writeGroup(ctx, way, []Outcome{o})
	}
	s.Logger.Error("the database refuses a job's outcome",
		"job", o.ID, "name", o.Name, "outcome", string(o.Kind), "error", refusal)
	if way == writeRequeuePlain {
		o.Kind = Lost
		s.Settled(ctx, o)
		return nil
	}
	o.Kind, o.Delay, o.Result = Retry, refusedDelay, nil
	o.Verdict = classify.Verdict{Retry: true, Message: pg.Storable(
		"the database refuses the outcome: "+refusal.Error(), classify.MaxErrorBytes)}
	return s.writeGroup(ctx, writeRequeuePlain, []Outcome{o})
}
