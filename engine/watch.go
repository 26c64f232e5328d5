package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/notify"
)

// lookSQL sees, in one snapshot of the locks, each worker's and the observer's
// own. A stopped worker that still holds jobs counts too. An advisory lock's
// 64 bits are in two columns.
// Parameters: $1 this worker, $2 and $3 the lock and the process of its
// session, or NULL.
const lookSQL = `
with held as materialized (
  select (l.classid::bigint << 32) | l.objid::bigint as key, l.pid
  from pg_locks l
  where l.locktype = 'advisory'
    and l.objsubid = 1
    and l.granted
    and l.database = (select d.oid from pg_database d where d.datname = current_database())
)
select
  o.id,
  coalesce(o.version like 'go/%', false),
  o.lock_key,
  o.last_heartbeat,
  extract(epoch from clock_timestamp() - o.last_heartbeat)::float8,
  exists (select from held h where h.key = o.lock_key),
  o.id <> $1 and exists (select from public.soniq_jobs j where j.worker_id = o.id and j.status = 'processing'),
  exists (select from held h where h.key = $2 and h.pid = $3)
from public.soniq_workers o
where isfinite(o.last_heartbeat)
  and (
    o.status <> 'stopped'
    or exists (select from public.soniq_jobs j where j.worker_id = o.id and j.status = 'processing')
  )`

// look sees who is there and queues the jobs of the dead again. It returns
// when to look next.
func (w *Worker) look(ctx context.Context, o *observer) (next time.Duration, err error) {
	saw := false
	err = w.borrow(ctx, poolPatience, func(ctx context.Context, db session) error {
		next, err = w.lookOn(ctx, db, o, &saw)
		return err
	})
	if !saw {
		w.presence.answered(false)
	}
	return next, err
}

// lookOn says in saw whether the database answered, whatever came of it then.
func (w *Worker) lookOn(ctx context.Context, db session, o *observer, saw *bool) (next time.Duration, err error) {
	session := w.presence.current()
	var key *int64
	var pid *int32
	if session != nil {
		key, pid = &session.key, new(int32(session.pid))
	}
	var peers []peer
	visible, registered := false, false
	rows, _ := db.Query(ctx, lookSQL, w.id, key, pid)
	var p peer
	_, err = pgx.ForEachRow(rows, []any{
		&p.ID, &p.Ours, &p.LockKey, &p.Heartbeat, &p.Silence, &p.Held, &p.Busy, &visible,
	}, func() error {
		if p.ID == w.id {
			registered = true
		} else {
			peers = append(peers, p)
		}
		return nil
	})
	if err != nil {
		return unlockedLookInterval, fmt.Errorf("look at the other workers: %w", err)
	}
	*saw = true
	w.presence.answered(true)
	if !registered {
		// Forgotten, or not there yet: the next heartbeat sees to that.
		return unlockedLookInterval, nil
	}
	w.presence.sawItself(session, visible)
	if session != nil && !visible {
		w.logger.Info("the lock of the listener's connection is not to be seen through the pool; "+
			"until it reconnects, a crash of this worker is noticed by its heartbeat only", "after", workerDeadAfter.String())
		session = nil
	}
	contact := w.presence.contact()
	dead := o.judge(peers, session, contact, time.Now())
	var errs []error
	for _, p := range dead {
		errs = append(errs, w.bury(ctx, db, p))
	}
	if err := errors.Join(errs...); err != nil {
		return unlockedLookInterval, err
	}
	return w.pace(o, peers, contact), nil
}

// pace is the time to the next look. A worker that runs jobs looks for itself
// too: that others still see it. One that was busy just now may be busy again,
// and nobody is told of jobs that a worker finds by itself.
func (w *Worker) pace(o *observer, peers []peer, contact time.Duration) time.Duration {
	next := restInterval
	if time.Since(o.busyAt) < restAfter {
		next = lookInterval
	}
	if len(peers) > 0 && w.presence.current() != nil && w.freeSlots() < w.config.Concurrency {
		next = lookInterval
	}
	for _, p := range peers {
		switch {
		case p.Busy && p.LockKey != nil:
			next = min(next, lookInterval)
			o.busyAt = time.Now()
		case p.Busy && (p.Ours || contact < w.timing.trust):
			next = min(next, unlockedLookInterval)
		}
	}
	return next
}

// watch looks at the other workers until ctx ends: often while they hold
// jobs, else rarely, or shortly after there was a job to claim.
func (w *Worker) watch(ctx context.Context) error {
	o := &observer{timing: w.timing}
	c := &chore{name: "watch the other workers"}
	for ctx.Err() == nil {
		next := restInterval
		c.do = func(ctx context.Context) (err error) {
			next, err = w.look(ctx, o)
			return err
		}
		w.doChore(ctx, c)
		// Whoever claims the job that stirred us has claimed it by then.
		sleep(ctx, lookInterval, nil, nil)
		if next > lookInterval {
			sleep(ctx, next-lookInterval, w.presence.stirred, nil)
			sleep(ctx, lookInterval, nil, nil)
		}
	}
	return nil
}

// newJobs wakes the fetch and stirs the watch.
type newJobs struct {
	*notify.Wakeups
	presence *presence
	hunger   *hunger
}

// Connected comes after LISTEN was committed. The doubt is there before the
// fetcher is woken by it.
func (n newJobs) Connected(ctx context.Context) {
	n.hunger.doubt()
	n.Wakeups.Connected(ctx)
}

func (n newJobs) Notify(ctx context.Context, payload string) {
	n.Wakeups.Notify(ctx, payload)
	n.presence.stir()
}

const deadJobsSQL = `
select` + orphanColumns + `
from public.soniq_jobs j
where j.worker_id = $1
  and j.status = 'processing'
limit $2`

// Nobody who has beaten since, and nobody with jobs left.
const markDeadSQL = `
update public.soniq_workers o
set status = 'stopped', lock_key = null, backend_pid = null
where o.id = $1
  and o.last_heartbeat = $2
  and not exists (select from public.soniq_jobs j where j.worker_id = o.id and j.status = 'processing')`

// bury recovers the jobs of a dead worker and marks it stopped.
func (w *Worker) bury(ctx context.Context, db session, dead peer) error {
	if dead.Busy {
		rows, _ := db.Query(ctx, deadJobsSQL, dead.ID, w.unrecovered.most())
		jobs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[orphan])
		if err != nil {
			return fmt.Errorf("find the jobs of a dead worker: %w", err)
		}
		if _, err := w.recoverJobs(ctx, db, jobs, &dead.Heartbeat); err != nil {
			return err
		}
	}
	if _, err := db.Exec(ctx, markDeadSQL, dead.ID, dead.Heartbeat); err != nil {
		return fmt.Errorf("mark worker %s dead: %w", dead.ID, err)
	}
	return nil
}
