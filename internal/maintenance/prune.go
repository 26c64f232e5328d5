package maintenance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"soniq/deadletter"
	"soniq/internal/deadwrite"
	"soniq/internal/liveness"
	"soniq/internal/pg"
	"soniq/internal/sweep"
)

// What is deleted, and after how long. A Go worker that was away for longer registers
// anew. A Python worker can't: it writes its names only once, when it starts.
const (
	pruneInterval   = time.Hour
	historyInterval = 24 * time.Hour
	workersKept     = 24 * time.Hour
	pythonKept      = 30 * 24 * time.Hour
	namesKept       = 30 * 24 * time.Hour
	tasksKept       = 30 * 24 * time.Hour

	pruneTask   = "prune workers and job names"
	historyTask = "forget what was done to dead letters"
	closeTask   = "mark dead letters that need no attention"
)

// A worker with jobs to recover is kept. Where Python's foreign key is, a worker with
// any jobs is kept: deleting it would write to each of them. Parameters: $1 and $2
// how long Go and Python workers are kept.
const oldWorkers = `
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

// A waiter's row goes with its worker. What a worker sent before it was gone may
// arrive after that. Parameter: $1 how long that takes.
const oldWaiters = `
      not exists (
        select from public.soniq_workers o
        where o.id = r.worker_id
          and (o.status <> 'stopped' or o.last_heartbeat > now() - $1::interval)
      )`

// What a worker could not write is of no use once the job is no longer under that claim.
const oldKept = `
      not exists (
        select from public.soniq_jobs j
        where j.id = r.job_id
          and j.status = 'processing'
          and j.claim_token = r.token
      )`

// pruneInTurn prunes hourly, and daily deletes the long history and marks dead letters, each if
// this worker is the leader of the turn.
func (m *Maintenance) pruneInTurn(ctx context.Context) error {
	leads, err := pg.TakeTurn(ctx, m.config.Pool, pruneTask, pruneInterval)
	if err == nil && leads {
		err = m.Prune(ctx)
	}
	leads, historyErr := pg.TakeTurn(ctx, m.config.Pool, historyTask, historyInterval)
	if historyErr == nil && leads {
		historyErr = m.config.DeadLetters.PruneHistory(ctx, deadletter.MaintenanceOptions{
			Lock: m.config.Pool.Schema().LockKey(pg.MaintenanceLock),
		})
	}
	leads, closeErr := pg.TakeTurn(ctx, m.config.Pool, closeTask, historyInterval)
	if closeErr == nil && leads {
		_, closeErr = deadwrite.Close(ctx, m.config.Pool)
	}
	return errors.Join(err, historyErr, closeErr)
}

// Prune deletes, in small batches, all rows of workers, job names and periodic tasks
// that are too old, of waiters without a worker, and of queues that are not paused.
// Names are kept for any grace. Tasks are kept for a month: then they are alarms with
// limits that nobody has any more. What keeps one table from being pruned doesn't
// keep the others.
//
// Errors: those of the database.
func (m *Maintenance) Prune(ctx context.Context) error {
	names := max(namesKept, plus(m.config.UnknownGrace, registryWindow))
	var errs []error
	for _, p := range []struct {
		what  string
		table sweep.Table
	}{
		// Before the workers: a trigger looks for the waiters of each deleted worker, in
		// all there are.
		{"waiters", sweep.Table{Name: "public.soniq_waiters", Where: oldWaiters, Args: []any{liveness.PythonDeadAfter}}},
		{"workers", sweep.Table{Name: "public.soniq_workers", Where: oldWorkers, Args: []any{workersKept, pythonKept}}},
		{"job names", sweep.Table{Name: "public.soniq_task_registry", Where: "r.last_seen_at < now() - $1::interval", Args: []any{names}}},
		{"leader tasks", sweep.Table{Name: "public.soniq_leader_tasks", Where: "r.begun_at < now() - $1::interval", Args: []any{tasksKept}}},
		{"kept outcomes", sweep.Table{Name: "public.soniq_kept_outcomes", Where: oldKept}},
		{"queues", sweep.Table{Name: "public.soniq_queues", Where: "r.paused_at is null"}},
	} {
		p.table.Lock = m.config.Pool.Schema().LockKey(pg.MaintenanceLock)
		_, err := sweep.Delete(ctx, m.config.Pool, p.table)
		switch {
		case errors.Is(err, sweep.ErrLocked):
			// Another worker does this, or more, now.
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
