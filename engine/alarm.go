package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"soniq/deadletter"
	"soniq/internal/pg"
)

// alarmInterval is how often the fleet looks whether its dead letters pile up.
const alarmInterval = time.Minute

// An alarm is a limit of the dead letters. Whether it was raised is known to
// the fleet, not to one worker: it warns once, whoever looks next.
type alarm struct {
	// name has the limit in it: workers with another limit have another alarm.
	name string
	// filter picks what is measured.
	filter deadletter.Filter
	// over and under say where a backlog is; between the two nothing changes.
	over, under func(deadletter.Backlog) bool
	// warn and calm log the crossings.
	warn, calm func(context.Context, deadletter.Backlog)
}

// alarms are those that the configuration asks for.
func (w *Worker) alarms() (alarms []alarm) {
	if most := w.config.WarnDead; most > 0 {
		alarms = append(alarms, alarm{
			name:   fmt.Sprintf("warn of %d dead letters", most),
			filter: deadletter.Filter{State: deadletter.StateDead, Limit: most},
			over:   func(b deadletter.Backlog) bool { return b.Count >= int64(most) },
			// A tenth below: what hovers around the limit warns once.
			under: func(b deadletter.Backlog) bool { return b.Count < int64(most-most/10) },
			warn: func(ctx context.Context, b deadletter.Backlog) {
				// Counted no further than the limit so far.
				all, err := w.letters.Backlog(ctx, deadletter.Filter{State: deadletter.StateDead})
				if err == nil {
					b = all
				}
				w.logger.Warn("dead letters pile up; 'soniq dead-letter groups' shows the causes",
					"dead", b.Count, "limit", most, "oldest", b.OldestAge.Round(time.Second))
			},
			calm: func(_ context.Context, b deadletter.Backlog) {
				w.logger.Info("dead letters are fewer again", "dead", b.Count, "limit", most)
			},
		})
	}
	if most := w.config.WarnDeadAge; most > 0 {
		alarms = append(alarms, alarm{
			name:   "warn of a dead letter " + most.String() + " old",
			filter: deadletter.Filter{State: deadletter.StateDead, Limit: 1},
			over:   func(b deadletter.Backlog) bool { return b.OldestAge > most },
			under:  func(b deadletter.Backlog) bool { return b.OldestAge <= most },
			warn: func(_ context.Context, b deadletter.Backlog) {
				w.logger.Warn("a dead letter has been waiting for long; see 'soniq dead-letter show'",
					"id", b.OldestID, "age", b.OldestAge.Round(time.Second), "limit", most)
			},
			calm: func(_ context.Context, _ deadletter.Backlog) {
				w.logger.Info("no dead letter has been waiting for long any more", "limit", most)
			},
		})
	}
	return alarms
}

const (
	raiseAlarmSQL = `update public.soniq_chores set raised_at = now() where name = $1 and raised_at is null`
	clearAlarmSQL = `update public.soniq_chores set raised_at = null where name = $1 and raised_at is not null`
)

// watchDead warns when the queue of the dead has grown past a limit: once for
// each time that it does, and in the log of one worker of the fleet.
func (w *Worker) watchDead(ctx context.Context) error {
	var errs []error
	for _, a := range w.alarms() {
		if err := w.sound(ctx, a); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a.name, err))
		}
	}
	return errors.Join(errs...)
}

// sound raises or clears an alarm, if it is this worker's turn.
func (w *Worker) sound(ctx context.Context, a alarm) error {
	mine, err := pg.TakeTurn(ctx, w.pool, a.name, alarmInterval)
	if err != nil || !mine {
		return err
	}
	b, err := w.letters.Backlog(ctx, a.filter)
	if err != nil {
		return err
	}
	change, tell := "", a.warn
	switch {
	case a.over(b):
		change = raiseAlarmSQL
	case a.under(b):
		change, tell = clearAlarmSQL, a.calm
	default:
		return nil
	}
	tag, err := w.pool.Exec(ctx, change, a.name)
	if err == nil && tag.RowsAffected() > 0 {
		tell(ctx, b)
	}
	return err
}
