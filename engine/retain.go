package engine

import (
	"context"
	"errors"
	"time"

	"soniq/deadletter"
	"soniq/internal/pg"
)

// How often the dead letters that are kept no longer are looked for: a tenth of
// the shortest time that a rule keeps one, within these bounds. Hours don't
// matter to what is kept for a month.
const (
	minRetainInterval = time.Minute
	maxRetainInterval = time.Hour
	// retainLook is how often a worker asks whether it is its turn.
	retainLook = time.Minute
	retainTurn = "clean up dead letters"
)

func retainInterval(rules []deadletter.Retention) time.Duration {
	interval := maxRetainInterval
	for _, r := range rules {
		if r.Keep > 0 {
			interval = min(interval, max(r.Keep/10, minRetainInterval))
		}
	}
	return interval
}

// retain deletes dead letters by the rules until ctx ends. It has a goroutine of
// its own: a first pass may take long, and no other chore should wait for it.
func (w *Worker) retain(ctx context.Context) error {
	if len(w.config.Retention) == 0 {
		return nil
	}
	failing := false
	for {
		err := w.retainOnce(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			w.logger.Warn("dead letters can't be cleaned up; trying again later", "error", err)
		}
		failing = err != nil
		if sleep(ctx, retainLook, nil, nil); ctx.Err() != nil {
			return nil
		}
	}
}

// retainOnce is a pass, if it is this worker's turn.
func (w *Worker) retainOnce(ctx context.Context) error {
	mine, err := pg.TakeTurn(ctx, w.pool, retainTurn, retainInterval(w.config.Retention))
	if err != nil || !mine {
		return err
	}
	queue := w.letters.As("worker "+w.id.String(), "kept for as long as the rules say")
	deleted, err := queue.Retain(ctx, w.config.Retention, pg.MaintenanceLock)
	if deleted > 0 {
		w.logger.Info("dead letters cleaned up", "deleted", deleted)
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
