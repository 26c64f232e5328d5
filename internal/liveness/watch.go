package liveness

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/internal/periodic"
	"soniq/internal/pg"
)

// Watch looks at the other workers and has the jobs of dead ones recovered.
type Watch struct {
	config  Config
	session *Session
	contact *contact
	timing  *Timing
	// woken is readable when somebody may have claimed a job.
	woken chan struct{}
}

// Wake makes the watch look soon: there is a job that somebody may claim.
func (w *Watch) Wake() { signal(w.woken) }

// LookSQL sees, in one snapshot of the locks, each worker's lock and the observing
// worker's own. A stopped worker that still holds jobs is included. The 64 bits of an
// advisory lock are in two columns. Parameters: $1 this worker, $2 and $3 the key and
// the process of its own lock, or NULL.
const LookSQL = `
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
  coalesce(o.metadata ->> 'crew', ''),
  o.last_heartbeat,
  exists (select from held h where h.key = o.lock_key),
  o.id <> $1 and exists (select from public.soniq_jobs j where j.worker_id = o.id and j.status = 'processing'),
  exists (select from held h where h.key = $2 and h.pid = $3)
from public.soniq_workers o
where isfinite(o.last_heartbeat)
  and (
    o.status <> 'stopped'
    or exists (select from public.soniq_jobs j where j.worker_id = o.id and j.status = 'processing')
  )`

// Run looks at the other workers until ctx ends: often while they hold jobs, else
// rarely, or shortly after there was a job to claim.
func (w *Watch) Run(ctx context.Context) error {
	detector := NewDetector(*w.timing)
	next := restInterval
	task := &periodic.Task{Name: "watch the other workers", Timeout: 30 * time.Second}
	task.Do = func(ctx context.Context) (err error) {
		next, err = w.Look(ctx, detector)
		return err
	}
	for ctx.Err() == nil {
		next = restInterval
		task.Once(ctx, w.config.Logger)
		// Whoever claims the job that woke the watch has claimed it by then.
		wait(ctx, lookInterval, nil)
		if next > lookInterval {
			wait(ctx, next-lookInterval, w.woken)
			wait(ctx, lookInterval, nil)
		}
	}
	return nil
}

func wait(ctx context.Context, d time.Duration, woken <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-woken:
	}
}

// Look sees who is there, and has the jobs of the dead queued again. It returns the
// delay until the next look.
//
// Errors: those of the database.
func (w *Watch) Look(ctx context.Context, d *Detector) (next time.Duration, err error) {
	saw := false
	err = w.config.Pool.Beside(ctx, PoolPatience, func(ctx context.Context, db pg.Session) error {
		next, err = w.lookOn(ctx, db, d, &saw)
		return err
	})
	if !saw {
		w.contact.answered(false)
	}
	return next, err
}

// lookOn sets saw if the database answered, whatever came after that.
func (w *Watch) lookOn(ctx context.Context, db pg.Session, d *Detector, saw *bool) (next time.Duration, err error) {
	own := w.session.current()
	at := moment{began: time.Now()}
	s, err := w.see(ctx, db, own)
	at.ended = time.Now()
	if err != nil {
		return unlockedLookInterval, err
	}
	*saw = true
	w.contact.answered(true)
	if !s.registered {
		// The worker's row is gone, or not there yet: the next heartbeat writes it.
		return unlockedLookInterval, nil
	}
	w.session.saw(own, s.ownLock)
	if own != nil && !s.ownLock {
		w.config.Logger.Info("the lock of the listener's connection can't be seen through the pool: "+
			"until it reconnects, only its heartbeat shows a crash of this worker", "after", DeadAfter.String())
		own = nil
	}
	contact := w.contact.duration()
	var errs []error
	for _, p := range d.judge(s.peers, own, contact, at) {
		stuck, err := w.MarkDead(ctx, db, p)
		errs = append(errs, err)
		if stuck {
			d.excuse(p.ID, time.Now())
		}
	}
	if w.config.Saw != nil {
		for i := range s.peers {
			s.peers[i].Silent = d.silence(s.peers[i].ID, at.began)
		}
		w.config.Saw(s.peers)
	}
	if err := errors.Join(errs...); err != nil {
		return unlockedLookInterval, err
	}
	next = d.pace(s.peers, contact, w.session.current() != nil && w.config.Busy())
	if w.config.Leads != nil && !w.config.Leads() {
		// Another worker of this process looks, and dies with it. Once the row names the lock, there is
		// nothing to see.
		if next = restInterval; w.session.Advertises() {
			next = followInterval
		}
	}
	return next, nil
}

// sight is what one look saw.
type sight struct {
	peers []Peer
	// registered: the worker's own row is there. ownLock: its lock was seen held.
	registered, ownLock bool
}

func (w *Watch) see(ctx context.Context, db pg.Session, own *lock) (s sight, err error) {
	var key *int64
	var pid *int32
	if own != nil {
		key, pid = &own.key, new(int32(own.pid))
	}
	rows, _ := db.Query(ctx, LookSQL, w.config.Worker, key, pid)
	var p Peer
	_, err = pgx.ForEachRow(rows, []any{
		&p.ID, &p.Ours, &p.LockKey, &p.Crew, &p.Heartbeat, &p.Held, &p.Busy, &s.ownLock,
	}, func() error {
		if p.ID == w.config.Worker {
			s.registered = true
		} else {
			s.peers = append(s.peers, p)
		}
		return nil
	})
	if err != nil {
		return sight{}, fmt.Errorf("look at the other workers: %w", err)
	}
	return s, nil
}

// SilentSQL finds the row of a worker that has not beaten since, unless another
// transaction has it locked: then the worker can't beat. Parameters: $1 the worker, $2
// its last heartbeat.
const SilentSQL = `
select
from public.soniq_workers o
where o.id = $1
  and o.last_heartbeat = $2
for no key update skip locked`

// MarkDeadSQL marks a worker as stopped, unless it has beaten since or jobs of it are
// left. Parameters: $1 the worker, $2 its last heartbeat.
const MarkDeadSQL = `
update public.soniq_workers o
set status = 'stopped', lock_key = null, backend_pid = null
where o.id = $1
  and o.last_heartbeat = $2
  and not exists (select from public.soniq_jobs j where j.worker_id = o.id and j.status = 'processing')`

// MarkDead recovers the jobs of a dead worker and marks it as stopped. It does nothing,
// and returns true, if the worker has beaten, or can't because its row is locked.
//
// Errors: those of the database.
func (w *Watch) MarkDead(ctx context.Context, db pg.Session, dead Peer) (stuck bool, err error) {
	tag, err := db.Exec(ctx, SilentSQL, dead.ID, dead.Heartbeat)
	if err != nil {
		return false, fmt.Errorf("look for a heartbeat of worker %s: %w", dead.ID, err)
	}
	if tag.RowsAffected() == 0 {
		return true, nil
	}
	if dead.Busy {
		if err := w.config.Recover(ctx, db, dead.ID, dead.Heartbeat); err != nil {
			return false, err
		}
	}
	if _, err := db.Exec(ctx, MarkDeadSQL, dead.ID, dead.Heartbeat); err != nil {
		return false, fmt.Errorf("mark worker %s dead: %w", dead.ID, err)
	}
	return false, nil
}
