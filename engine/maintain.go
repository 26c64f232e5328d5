package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/deadletter"
	"soniq/internal/sweep"
)

// maintenanceLock is the advisory lock under which Python Soniq cleans up:
// blake2b-64 of 'soniq.leadership.v1/soniq.maintenance' as a signed big-endian
// integer. Theirs is a session's, ours a transaction's; they exclude each
// other.
const maintenanceLock int64 = 4325948971829913621

const (
	expireInterval = time.Minute
	strayInterval  = 30 * time.Second
	// expireBatch keeps a pass's locks and its transaction short.
	expireBatch = 5000
	// registryWindow is how long a registered name is remembered at the
	// least: three refreshes.
	registryWindow = 3 * namesEvery * heartbeatInterval
)

// maintain runs the chores of the fleet until ctx ends. Each worker does all
// of them, and finds little to do where another was faster; a few are taken in
// turns (see takeTurn).
func (w *Worker) maintain(ctx context.Context) error {
	strays := &chore{name: "recover jobs without a worker", every: strayInterval, do: w.recoverStrays}
	chores := []*chore{
		{name: "expire results", every: expireInterval, do: w.expire},
		strays,
	}
	if w.config.UnknownGrace > 0 {
		chores = append(chores, &chore{
			name: "bury unknown jobs",
			// Often enough that the grace means what it says.
			every: min(max(w.config.UnknownGrace/4, 250*time.Millisecond), 30*time.Second),
			do:    w.buryUnknown,
		})
	}
	if len(w.alarms()) > 0 {
		chores = append(chores, &chore{name: "watch the dead letters", every: alarmInterval, do: w.watchDead})
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
		case <-w.doubt:
			timer.Stop()
			strays.last = time.Time{}
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

// The lock is asked for once, before the rows; without it nothing is done.
const expireSQL = `
with leader as materialized (
  select pg_try_advisory_xact_lock($1) as elected
)
delete from soniq_jobs
where id in (
  select id
  from soniq_jobs
  where (select elected from leader)
    and status in ('done', 'cancelled')
    and expires_at < now()
  order by expires_at
  limit $2
  for update skip locked
)`

// expire deletes the rows of done and cancelled jobs whose time has come, in batches.
func (w *Worker) expire(ctx context.Context) error {
	for {
		tag, err := w.pool.Exec(ctx, expireSQL, maintenanceLock, expireBatch)
		if sweep.IsRefusal(err) {
			// Of the others none should wait for a row that can't be deleted.
			_, err = sweep.Delete(ctx, w.pool, sweep.Table{
				Name: "soniq_jobs", Where: "r.status in ('done', 'cancelled') and r.expires_at < now()", Lock: maintenanceLock,
			})
			if err == nil || errors.Is(err, sweep.ErrLocked) {
				return nil
			}
		}
		if err != nil {
			return fmt.Errorf("expire results: %w", err)
		}
		if tag.RowsAffected() < expireBatch {
			return nil
		}
	}
}

// unknownSQL finds due jobs that the fleet has disowned: for the whole grace
// the job was due, a Go worker of today served its queue, and nobody
// registered its name; and no live Python worker serves the queue, whose names
// can't be told. An unserved or a paused queue buries nothing.
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
    select from soniq_queues p
    where p.name = coalesce(j.queue, 'default')
      and p.paused_at is not null
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
	var errs []error
	for name, ids := range byName {
		verdict := deadletter.Classify(deadletter.Attempt{
			JobName: name,
			Kind:    deadletter.KindUnregistered,
			Message: fmt.Sprintf("no worker has registered the job %q within %s", name, w.config.UnknownGrace),
		})
		moved, err := deadletter.MoveQueued(ctx, w.pool, ids, verdict)
		if err != nil {
			errs = append(errs, fmt.Errorf("bury jobs called %s: %w", describeName(name), err))
			continue
		}
		for _, id := range moved {
			w.logger.Warn("job is a dead letter", "job", id, "name", name,
				"reason", string(verdict.Reason), "error", verdict.Message)
		}
	}
	return errors.Join(errs...)
}
