package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"soniq/deadletter"
)

// maintenanceLock is the advisory lock under which Python Soniq cleans up:
// blake2b-64 of 'soniq.leadership.v1/soniq.maintenance' as a signed big-endian
// integer. Theirs is a session's, ours a transaction's; they exclude each
// other.
const maintenanceLock int64 = 4325948971829913621

const (
	expireInterval  = time.Minute
	recoverInterval = 15 * time.Second
	// expireBatch keeps a pass's locks and its transaction short.
	expireBatch = 5000
	// orphanGrace is how long after its timeout a processing job without a
	// worker may still be run by someone who leaves no trace.
	orphanGrace = 10 * time.Minute
	// registryWindow is how long a registered name is remembered at the
	// least: three refreshes.
	registryWindow = 3 * namesEvery * heartbeatInterval
)

// maintain runs the chores of the fleet until ctx ends. Each worker does all
// of them: none needs an election, and each finds little to do where another
// was faster.
func (w *Worker) maintain(ctx context.Context) error {
	chores := []*chore{
		{name: "expire results", every: expireInterval, do: w.expire},
		{name: "recover orphans", every: recoverInterval, do: w.recoverOrphans},
	}
	if w.config.UnknownGrace > 0 {
		chores = append(chores, &chore{
			name: "bury unknown jobs",
			// Often enough that the grace means what it says.
			every: min(max(w.config.UnknownGrace/4, 250*time.Millisecond), 30*time.Second),
			do:    w.buryUnknown,
		})
	}
	for {
		next := time.Now().Add(time.Hour)
		for _, c := range chores {
			if due := c.last.Add(c.every); !time.Now().Before(due) {
				w.doChore(ctx, c)
			}
			if due := c.last.Add(c.every); due.Before(next) {
				next = due
			}
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// chore is something to be done now and then.
type chore struct {
	name    string
	every   time.Duration
	do      func(context.Context) error
	last    time.Time
	failing bool
}

// doChore logs a failure once, not each time: the database being away is
// reported by the fetcher already, and the next turn tries again.
func (w *Worker) doChore(ctx context.Context, c *chore) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err := c.do(ctx)
	c.last = time.Now()
	switch {
	case err != nil && !c.failing && !errors.Is(ctx.Err(), context.Canceled):
		w.logger.Warn("maintenance failed; trying again later", "chore", c.name, "error", err)
		c.failing = true
	case err == nil:
		c.failing = false
	}
}

const expireLockSQL = `select pg_try_advisory_xact_lock($1)`

const expireSQL = `
delete from soniq_jobs
where id in (
  select id
  from soniq_jobs
  where status = 'done'
    and expires_at < now()
  order by expires_at
  limit $1
  for update skip locked
)`

// expire deletes the rows of done jobs whose time has come, in batches.
func (w *Worker) expire(ctx context.Context) error {
	for {
		var deleted int64
		err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
			var locked bool
			if err := tx.QueryRow(ctx, expireLockSQL, maintenanceLock).Scan(&locked); err != nil || !locked {
				return err
			}
			tag, err := tx.Exec(ctx, expireSQL, expireBatch)
			deleted = tag.RowsAffected()
			return err
		})
		if err != nil {
			return fmt.Errorf("expire results: %w", err)
		}
		if deleted < expireBatch {
			return nil
		}
	}
}

// orphanCondition holds for a job j, with its worker's row o if there is one,
// that nobody runs any more. Parameters: $1 this worker, $2 and $3 the silence
// after which a Go and a Python worker is dead, $4 that of a job without a
// worker.
const orphanCondition = `
  j.status = 'processing'
  and j.worker_id is distinct from $1
  and case
    when o.id is null then j.updated_at < now() - $4::interval
    when o.version like 'go/%' then o.last_heartbeat < now() - $2::interval
    else o.last_heartbeat < now() - $3::interval
  end`

const orphansSQL = `
select j.id, j.worker_id, j.job_name, coalesce(j.attempts, 0)
from soniq_jobs j
left join soniq_workers o on o.id = j.worker_id
where` + orphanCondition + `
limit 1000`

// The condition is asked again for the row alone, under its lock: its worker
// may have come back, or someone else may have been faster. $7 is false for a
// job whose unique twin is queued.
const requeueOrphanSQL = `
update soniq_jobs
set status = 'queued',
  unique_job = unique_job and $7,
  dedup_key = case when $7 then dedup_key end,
  worker_id = null,
  claim_token = null,
  updated_at = now()
where id = (
    select j.id
    from soniq_jobs j
    left join soniq_workers o on o.id = j.worker_id
    where j.id = $5
      and coalesce(j.attempts, 0) = $6
      and` + orphanCondition + `
    for update of j skip locked
  )`

// recoverOrphans queues again, one by one, the jobs whose worker is dead. The
// attempt stays charged; where it was the last, the next claim makes the job a
// dead letter.
func (w *Worker) recoverOrphans(ctx context.Context) error {
	withoutWorker := max(w.config.JobTimeout, 0) + orphanGrace
	type orphan struct {
		ID       uuid.UUID
		WorkerID *uuid.UUID
		Name     string
		Attempts int
	}
	rows, _ := w.pool.Query(ctx, orphansSQL, w.id, workerDeadAfter, pythonDeadAfter, withoutWorker)
	orphans, err := pgx.CollectRows(rows, pgx.RowToStructByPos[orphan])
	if err != nil {
		return fmt.Errorf("find orphans: %w", err)
	}
	for _, o := range orphans {
		requeue := func(unique bool) (bool, error) {
			tag, err := w.pool.Exec(ctx, requeueOrphanSQL,
				w.id, workerDeadAfter, pythonDeadAfter, withoutWorker, o.ID, o.Attempts, unique)
			return tag.RowsAffected() > 0, err
		}
		requeued, err := requeue(true)
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && pgErr.Code == "23505" {
			requeued, err = requeue(false)
		}
		if err != nil {
			return fmt.Errorf("requeue job %s: %w", o.ID, err)
		}
		if requeued {
			w.logger.Warn("the worker of a job is dead; the job is queued again",
				"job", o.ID, "name", o.Name, "attempt", o.Attempts, "dead_worker", o.WorkerID)
		}
	}
	return nil
}

// unknownSQL finds due jobs that the fleet has disowned: for the whole grace
// the job was due, a Go worker of today served its queue, and nobody
// registered its name; and no live Python worker serves the queue, whose names
// can't be told. An unserved queue buries nothing.
// Parameters: $1 served queues, $2 job names, $3 grace, $4 memory of names,
// $5 and $6 the silence after which a Go and a Python worker is dead.
const unknownSQL = `
select j.id, j.job_name
from soniq_jobs j
where j.status = 'queued'
  and coalesce(j.queue, 'default') = any ($1::text[])
  and j.job_name <> all ($2::text[])
  and coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity') <= now() - $3::interval
  and exists (
    select from soniq_workers o
    where o.version like 'go/%'
      and o.status <> 'stopped'
      and o.last_heartbeat > now() - $5::interval
      and o.started_at <= now() - $3::interval
      and coalesce(j.queue, 'default') = any (o.queues)
  )
  and not exists (
    select from soniq_workers o
    where (o.version is null or o.version not like 'go/%')
      and o.status <> 'stopped'
      and o.last_heartbeat > now() - $6::interval
      and (o.queues = '{}' or coalesce(j.queue, 'default') = any (o.queues))
  )
  and not exists (
    select from soniq_task_registry r
    where r.task_name = j.job_name
      and r.last_seen_at > now() - $4::interval
  )
limit 1000`

// buryUnknown makes dead letters of the jobs that nobody can run.
func (w *Worker) buryUnknown(ctx context.Context) error {
	rows, _ := w.pool.Query(ctx, unknownSQL, w.queues, w.registry.Names(),
		w.config.UnknownGrace, max(w.config.UnknownGrace, registryWindow), workerDeadAfter, pythonDeadAfter)
	byName := map[string][]uuid.UUID{}
	var id uuid.UUID
	var name string
	if _, err := pgx.ForEachRow(rows, []any{&id, &name}, func() error {
		byName[name] = append(byName[name], id)
		return nil
	}); err != nil {
		return fmt.Errorf("find unknown jobs: %w", err)
	}
	for name, ids := range byName {
		verdict := deadletter.Classify(deadletter.Attempt{
			JobName: name,
			Kind:    deadletter.KindUnregistered,
			Message: fmt.Sprintf("no worker has registered the job %q within %s", name, w.config.UnknownGrace),
		})
		moved, err := deadletter.MoveQueued(ctx, w.pool, ids, verdict)
		if err != nil {
			return fmt.Errorf("bury unknown jobs: %w", err)
		}
		for _, id := range moved {
			w.logger.Warn("job is a dead letter", "job", id, "name", name,
				"reason", string(verdict.Reason), "error", verdict.Message)
		}
	}
	return nil
}
