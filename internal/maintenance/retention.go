package maintenance

import (
	"context"
	"errors"
	"time"

	"soniq/deadletter"
	"soniq/internal/pg"
)

// How often dead letters that are too old are looked for: a tenth of the shortest
// time that a rule keeps one, within these limits. Hours don't matter to what is kept
// for a month.
const (
	minRetentionInterval = time.Minute
	maxRetentionInterval = time.Hour
	// retentionCheck is how often a worker asks whether it is the leader of a turn.
	retentionCheck = time.Minute
	retentionTask  = "clean up dead letters"
)

func retentionInterval(rules []deadletter.Retention) time.Duration {
	interval := maxRetentionInterval
	for _, r := range rules {
		if r.Keep > 0 {
			interval = min(interval, max(r.Keep/10, minRetentionInterval))
		}
	}
	return interval
}

// Retain makes one pass, if this worker is the leader of the turn.
//
// Errors: those of the database.
func (m *Maintenance) Retain(ctx context.Context) error {
	leads, err := pg.TakeTurn(ctx, m.config.Pool, retentionTask, retentionInterval(m.config.Retention))
	if err != nil || !leads {
		return err
	}
	queue := m.config.DeadLetters.As("worker "+m.config.Worker.String(), "kept for as long as the rules say")
	deleted, err := queue.ApplyRetention(ctx, m.config.Retention, deadletter.MaintenanceOptions{
		Lock: m.config.Pool.Schema().LockKey(pg.MaintenanceLock),
	})
	if deleted > 0 {
		m.config.Logger.Info("dead letters cleaned up", "deleted", deleted)
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
