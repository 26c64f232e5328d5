// Package periodic runs tasks now and then, until a context ends.
package periodic

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// Task is something to be done now and then.
type Task struct {
	// Name is the task's name in the log.
	Name string
	// Every is the time from the end of one run to the beginning of the next.
	Every time.Duration
	// Timeout limits one run. Default none.
	Timeout time.Duration
	// Do is one run.
	Do func(context.Context) error
	// Hurry makes the task due at once when it can be received from. Default none.
	Hurry <-chan struct{}

	last    time.Time
	failing bool
}

// Once runs the task and logs its failure. A task that goes on failing is logged
// once: others report a database that is away, and the next run tries again.
func (t *Task) Once(ctx context.Context, logger *slog.Logger) {
	if t.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.Timeout)
		defer cancel()
	}
	err := t.Do(ctx)
	t.last = time.Now()
	if err != nil && !t.failing && !errors.Is(ctx.Err(), context.Canceled) {
		logger.Warn("periodic task failed; trying again later", "task", t.Name, "error", err)
	}
	t.failing = err != nil
}

// Run runs the tasks in turn until ctx ends, each for the first time at once. It
// returns nil. Of the tasks, one at the most may have Hurry.
func Run(ctx context.Context, logger *slog.Logger, tasks ...*Task) error {
	var hurried *Task
	for _, t := range tasks {
		if t.Hurry != nil {
			hurried = t
		}
	}
	var hurry <-chan struct{}
	if hurried != nil {
		hurry = hurried.Hurry
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		next := time.Now().Add(time.Hour)
		for _, t := range tasks {
			if due := t.last.Add(t.Every); !time.Now().Before(due) {
				t.Once(ctx, logger)
			}
			if due := t.last.Add(t.Every); due.Before(next) {
				next = due
			}
		}
		timer.Reset(time.Until(next))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-hurry:
			hurried.last = time.Time{}
		}
	}
	return nil
}
