package maintenance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"soniq/deadletter"
	"soniq/internal/pg"
)

// alarmInterval is how often one worker checks whether dead letters pile up.
const alarmInterval = time.Minute

// alarm is a limit of the dead letters. The database knows whether it was raised, so
// all workers together warn once.
type alarm struct {
	// name contains the limit: workers with another limit have another alarm.
	name string
	// filter picks what is measured.
	filter deadletter.Filter
	// over and under say where a backlog is; between the two nothing changes.
	over, under func(deadletter.Backlog) bool
	// warn and calm log the crossings.
	warn, calm func(context.Context, deadletter.Backlog)
}

// alarms are those that the configuration asks for.
func (m *Maintenance) alarms() (alarms []alarm) {
	if m.config.WarnDead > 0 {
		alarms = append(alarms, m.countAlarm(m.config.WarnDead))
	}
	if m.config.WarnDeadAge > 0 {
		alarms = append(alarms, m.ageAlarm(m.config.WarnDeadAge))
	}
	return alarms
}

func (m *Maintenance) countAlarm(most int) alarm {
	return alarm{
		name:   fmt.Sprintf("warn of %d dead letters", most),
		filter: deadletter.Filter{State: deadletter.StateDead, Limit: most},
		over:   func(b deadletter.Backlog) bool { return b.Count >= int64(most) },
		// A tenth below: a count that stays near the limit warns once.
		under: func(b deadletter.Backlog) bool { return b.Count < int64(most-most/10) },
		warn: func(ctx context.Context, b deadletter.Backlog) {
			// So far they were counted up to the limit.
			all, err := m.config.DeadLetters.Backlog(ctx, deadletter.Filter{State: deadletter.StateDead})
			if err == nil {
				b = all
			}
			m.config.Logger.Warn("dead letters pile up; 'soniq dead-letter groups' shows the causes",
				"dead", b.Count, "limit", most, "oldest", b.OldestAge.Round(time.Second))
		},
		calm: func(_ context.Context, b deadletter.Backlog) {
			m.config.Logger.Info("dead letters are fewer again", "dead", b.Count, "limit", most)
		},
	}
}

func (m *Maintenance) ageAlarm(most time.Duration) alarm {
	return alarm{
		name:   "warn of a dead letter " + most.String() + " old",
		filter: deadletter.Filter{State: deadletter.StateDead, Limit: 1},
		over:   func(b deadletter.Backlog) bool { return b.OldestAge > most },
		under:  func(b deadletter.Backlog) bool { return b.OldestAge <= most },
		warn: func(_ context.Context, b deadletter.Backlog) {
			m.config.Logger.Warn("a dead letter has been waiting for long; see 'soniq dead-letter show'",
				"id", b.OldestID, "age", b.OldestAge.Round(time.Second), "limit", most)
		},
		calm: func(_ context.Context, _ deadletter.Backlog) {
			m.config.Logger.Info("no dead letter has been waiting for long any more", "limit", most)
		},
	}
}

// Parameter: $1 the alarm's name.
const (
	raiseAlarmSQL = `update public.soniq_leader_tasks set raised_at = now() where name = $1 and raised_at is null`
	clearAlarmSQL = `update public.soniq_leader_tasks set raised_at = null where name = $1 and raised_at is not null`
)

// WatchDeadLetters warns when the dead letters have passed a limit: once for each
// time that they do, and in the log of one worker.
//
// Errors: those of the database.
func (m *Maintenance) WatchDeadLetters(ctx context.Context) error {
	var errs []error
	for _, a := range m.alarms() {
		if err := m.check(ctx, a); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a.name, err))
		}
	}
	return errors.Join(errs...)
}

// check raises or clears an alarm, if this worker is the leader of the turn.
func (m *Maintenance) check(ctx context.Context, a alarm) error {
	leads, raised, err := pg.TakeTurnRaised(ctx, m.config.Pool, a.name, alarmInterval)
	if err != nil || !leads {
		return err
	}
	b, err := m.config.DeadLetters.Backlog(ctx, a.filter)
	if err != nil {
		return err
	}
	change, log := raiseAlarmSQL, a.warn
	switch {
	case a.over(b) && !raised:
	case a.under(b) && raised:
		change, log = clearAlarmSQL, a.calm
	default:
		return nil
	}
	tag, err := m.config.Pool.Exec(ctx, change, a.name)
	if err == nil && tag.RowsAffected() > 0 {
		log(ctx, b)
	}
	return err
}
