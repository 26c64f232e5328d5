package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"soniq/internal/pg"
	"soniq/internal/sweep"
)

// What is forgotten, and when. A worker of ours that was away for longer
// registers anew; Python's can't, and its names are written only once, when it
// starts.
const (
	pruneInterval  = time.Hour
	forgetInterval = 24 * time.Hour
	workerMemory   = 24 * time.Hour
	pythonMemory   = 30 * 24 * time.Hour
	namesMemory    = 30 * 24 * time.Hour
	choresMemory   = 30 * 24 * time.Hour

	pruneTurn  = "prune workers and job names"
	forgetTurn = "forget what was done to dead letters"
)

// A worker with jobs to recover is kept, and so is one whose jobs are kept where
// Python's foreign key is: deleting it would write to each of them. Parameters:
// $1 and $2 the memory of our workers and of Python's.
const forgottenWorkers = `
      r.last_heartbeat < now() - case when r.version like 'go/%' then $1::interval else $2::interval end
      and not exists (select from public.soniq_jobs j where j.worker_id = r.id and j.status = 'processing')
      and (
        not exists (
          select from pg_constraint c
          where c.conrelid = 'public.soniq_jobs'::regclass
            and c.conname = 'soniq_jobs_worker_id_fkey'
        )
        or not exists (select from public.soniq_jobs j where j.worker_id = r.id)
      )`

// Hunger goes with its worker. What a worker sent before it was gone may have
// arrived after that. $1 how long that takes.
const forgottenHunger = `
      not exists (
        select from public.soniq_workers o
        where o.id = r.worker_id
          and (o.status <> 'stopped' or o.last_heartbeat > now() - $1::interval)
      )`

// tidy deletes what is of no use any more, until ctx ends. It has a goroutine of
// its own: where there is much of it, a pass takes long. It is taken in turns,
// hourly for what workers leave behind and daily for the history, which is long.
func (w *Worker) tidy(ctx context.Context) error {
	failing := false
	for {
		err := w.tidyOnce(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			w.logger.Warn("old rows can't be deleted; trying again later", "error", err)
		}
		failing = err != nil
		if sleep(ctx, pruneInterval, nil, nil); ctx.Err() != nil {
			return nil
		}
	}
}

func (w *Worker) tidyOnce(ctx context.Context) error {
	mine, err := pg.TakeTurn(ctx, w.pool, pruneTurn, pruneInterval)
	if err == nil && mine {
		err = w.prune(ctx)
	}
	mine, turnErr := pg.TakeTurn(ctx, w.pool, forgetTurn, forgetInterval)
	if turnErr == nil && mine {
		turnErr = w.letters.Forget(ctx, pg.MaintenanceLock)
	}
	return errors.Join(err, turnErr)
}

// prune deletes the rows of workers, of registered names and of chores that
// nobody has heard of for long, hunger that nobody has, and queues of which there
// is nothing to know: all there are, in small batches. Names are kept for any
// grace, and chores for a month: an alarm whose limit nobody has any more. What
// keeps one table from being pruned doesn't keep the others.
func (w *Worker) prune(ctx context.Context) error {
	names := max(namesMemory, plus(w.config.UnknownGrace, registryWindow))
	var errs []error
	for _, p := range []struct {
		what  string
		table sweep.Table
	}{
		// Before the workers: each of these looks for hunger of its own when it goes,
		// in all there is.
		{"hunger", sweep.Table{Name: "public.soniq_hunger", Where: forgottenHunger, Args: []any{pythonDeadAfter}}},
		{"workers", sweep.Table{Name: "public.soniq_workers", Where: forgottenWorkers, Args: []any{workerMemory, pythonMemory}}},
		{"job names", sweep.Table{Name: "public.soniq_task_registry", Where: "r.last_seen_at < now() - $1::interval", Args: []any{names}}},
		{"chores", sweep.Table{Name: "public.soniq_chores", Where: "r.begun_at < now() - $1::interval", Args: []any{choresMemory}}},
		{"queues", sweep.Table{Name: "public.soniq_queues", Where: "r.paused_at is null"}},
	} {
		p.table.Lock = pg.MaintenanceLock
		_, err := sweep.Delete(ctx, w.pool, p.table)
		switch {
		case errors.Is(err, sweep.ErrLocked):
			// Somebody does this, or more, now.
			return errors.Join(errs...)
		case err != nil:
			errs = append(errs, fmt.Errorf("prune %s: %w", p.what, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}
