package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/deadletter"
	"soniq/internal/pg"
	"soniq/internal/sweep"
)

const (
	expireInterval = time.Minute
	strayInterval  = 30 * time.Second
	// turnPatience bounds a turn of many batches; the next one goes on.
	turnPatience = 20 * time.Second
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
const expireSQL = pg.Leader + `, gone as (
  delete from public.soniq_jobs
  where id in (
    select id
    from public.soniq_jobs
    where ` + pg.IsLeader + `
      and status in ('done', 'cancelled')
      and expires_at < now()
      and id <> all ((select $3::uuid[])::uuid[])
    order by expires_at
    limit $2
    for update skip locked
  )
  returning 1
)
select ` + pg.IsLeader + `, (select count(*) from gone)`

// expire deletes the rows of done and cancelled jobs whose time has come, in batches.
// Where the database refuses a batch, half of it is tried, and so on until it is known
// which row it is: one that another table refers to, say. That one is passed over.
//
// The lock is that of pruning too, which goes on beside it: without a wait for it a
// turn would come to nothing.
func (w *Worker) expire(ctx context.Context) error {
	w.unexpired.progress()
	for n := int64(expireBatch); ; {
		var deleted int64
		err := sweep.Elected(ctx, func() (elected bool, err error) {
			err = w.pool.QueryRow(ctx, expireSQL, pg.MaintenanceLock, n, pg.IDs(w.unexpired.ids())).Scan(&elected, &deleted)
			return elected, err
		})
		switch {
		case errors.Is(err, sweep.ErrLocked):
			return nil // somebody else is at it
		case isRefusal(err) && n > 1:
			n /= 2
		case isRefusal(err):
			if more, err := w.expireFirst(ctx); err != nil || !more {
				return err
			}
		case err != nil:
			return fmt.Errorf("expire results: %w", err)
		case deleted < n:
			return nil
		default:
			w.unexpired.progress()
			n = min(2*n, expireBatch)
		}
	}
}

// $1 those that are passed over.
const firstExpiredSQL = `
select j.id
from public.soniq_jobs j
where j.status in ('done', 'cancelled')
  and j.expires_at < now()
  and j.id <> all ((select $1::uuid[])::uuid[])
order by j.expires_at
limit 1`

const expireOneSQL = `
delete from public.soniq_jobs j
where j.id = $1
  and j.status in ('done', 'cancelled')
  and j.expires_at < now()`

// expireFirst deletes the first expired row, or notes that the database refuses it.
// more is false if there is none.
func (w *Worker) expireFirst(ctx context.Context) (more bool, err error) {
	var id uuid.UUID
	err = w.pool.QueryRow(ctx, firstExpiredSQL, pg.IDs(w.unexpired.ids())).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("expire results: %w", err)
	}
	_, err = w.pool.Exec(ctx, expireOneSQL, id)
	switch {
	case err == nil:
		w.unexpired.went(id)
		return true, nil
	case !isRefusal(err):
		return false, fmt.Errorf("expire result %s: %w", id, err)
	case w.unexpired.refuse(id, err):
		w.logger.Error("the database refuses to delete the row of a job that has expired; it is passed over", "job", id, "error", err)
	}
	if w.unexpired.stuck() {
		return false, fmt.Errorf("expire result %s: %w", id, err)
	}
	return true, nil
}

// unknownSQL finds due jobs that the fleet has disowned: for the whole grace
// the job was due, a Go worker of today served its queue, and nobody
// registered its name; and no live Python worker serves the queue, whose names
// can't be told. An unserved or a paused queue buries nothing.
// Parameters: $1 served queues, $2 job names, $3 grace, $4 memory of names,
// $5 and $6 the silence after which a Go and a Python worker is dead, $7 how many.
const unknownSQL = `
select j.id, left(j.job_name, 500), coalesce(pg_column_size(j.args), 0) + coalesce(pg_column_size(j.errors), 0)
from public.soniq_jobs j
where j.status = 'queued'
  and coalesce(j.queue, 'default') = any ($1::text[])
  and j.job_name <> all ($2::text[])
  and coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity') <= now() - $3::interval
  and exists (
    select from public.soniq_workers o
    where o.version like 'go/%'
      and o.status <> 'stopped'
      and o.last_heartbeat > now() - $5::interval
      and o.started_at <= now() - $3::interval
      and coalesce(j.queue, 'default') = any (o.queues)
  )
  and not exists (
    select from public.soniq_workers o
    where (o.version is null or o.version not like 'go/%')
      and o.status <> 'stopped'
      and o.last_heartbeat > now() - $6::interval
      and (o.queues = '{}' or coalesce(j.queue, 'default') = any (o.queues))
  )
  and not exists (
    select from public.soniq_queues p
    where p.name = coalesce(j.queue, 'default')
      and p.paused_at is not null
  )
  and not exists (
    select from public.soniq_task_registry r
    where r.task_name = j.job_name
      and r.last_seen_at > now() - $4::interval
  )
limit $7`

// unknown is a job that nobody can run: its name, cut, and how much its move
// would move.
type unknown struct {
	ID    uuid.UUID
	Name  string
	Bytes int64
}

// buryUnknown makes dead letters of the jobs that nobody can run: all of them, as
// far as its time allows.
func (w *Worker) buryUnknown(ctx context.Context) error {
	var errs []error
	for begun := time.Now(); time.Since(begun) < turnPatience; {
		most := w.unburied.most()
		rows, _ := w.pool.Query(ctx, unknownSQL, w.queues, w.registry.Names(),
			w.config.UnknownGrace, max(w.config.UnknownGrace, registryWindow), workerDeadAfter, pythonDeadAfter, most)
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[unknown])
		if err != nil {
			return fmt.Errorf("find unknown jobs: %w", err)
		}
		buried, err := w.buryPage(ctx, found)
		if err != nil {
			errs = append(errs, err)
		}
		// Nothing was buried: the rest is held by someone, or passed over.
		if len(found) < most || buried == 0 || w.unburied.stuck() {
			break
		}
	}
	return errors.Join(errs...)
}

// buryPage buries those of the jobs that are not passed over, those of one name
// together.
func (w *Worker) buryPage(ctx context.Context, found []unknown) (buried int, err error) {
	byName := map[string][]unknown{}
	for _, u := range found {
		if !w.unburied.passes(u.ID) {
			byName[u.Name] = append(byName[u.Name], u)
		}
	}
	var errs []error
	for name, jobs := range byName {
		for len(jobs) > 0 && !w.unburied.stuck() {
			var batch []unknown
			batch, jobs = cutBatch(jobs)
			n, err := w.buryNamed(ctx, name, batch)
			buried += n
			if err == nil {
				continue
			}
			errs = append(errs, fmt.Errorf("bury jobs called %s: %w", describeName(name), err))
			if !isRefusal(err) {
				return buried, errors.Join(errs...)
			}
		}
	}
	return buried, errors.Join(errs...)
}

// cutBatch cuts off as many jobs as one statement should move; at least one.
func cutBatch(jobs []unknown) (batch, rest []unknown) {
	bytes := int64(0)
	for n, u := range jobs {
		if bytes += u.Bytes; n > 0 && bytes > maintainedBytes {
			return jobs[:n], jobs[n:]
		}
	}
	return jobs, nil
}

// buryNamed buries jobs of one name; one by one where the database refuses them.
func (w *Worker) buryNamed(ctx context.Context, name string, jobs []unknown) (buried int, err error) {
	verdict := deadletter.Classify(deadletter.Attempt{
		JobName: name,
		Kind:    deadletter.KindUnregistered,
		Message: fmt.Sprintf("no worker has registered the job %s within %s", describeName(name), w.config.UnknownGrace),
	})
	ids := make([]uuid.UUID, len(jobs))
	for i, u := range jobs {
		ids[i] = u.ID
	}
	moved, err := deadletter.MoveQueued(ctx, w.pool, ids, verdict)
	if err != nil && isRefusal(err) && len(jobs) > 1 {
		var errs []error
		for i := range jobs {
			n, err := w.buryNamed(ctx, name, jobs[i:i+1])
			buried += n
			if err != nil {
				errs = append(errs, err)
			}
			if err != nil && !isRefusal(err) || w.unburied.stuck() {
				break
			}
		}
		return buried, errors.Join(errs...)
	}
	if err != nil && isRefusal(err) && w.unburied.refuse(jobs[0].ID, err) {
		w.logger.Error("the database refuses to make a dead letter of a job that nobody can run; it is passed over",
			"job", jobs[0].ID, "name", name, "error", err)
	}
	if err != nil {
		return 0, err
	}
	for _, id := range moved {
		w.unburied.went(id)
		w.logger.Warn("job is a dead letter", "job", id, "name", name,
			"reason", string(verdict.Reason), "error", verdict.Message)
	}
	return len(moved), nil
}
