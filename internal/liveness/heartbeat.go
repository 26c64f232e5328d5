package liveness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"soniq/internal/pg"
)

// Heartbeat writes the worker's row.
type Heartbeat struct {
	config  Config
	session *Session
	contact *contact
	timing  *Timing
	beaten  beaten
}

// RegisterSQL writes or renews the worker's row.
//
// The hostname column carries the worker's id too: (hostname, pid) is unique, and
// containers share both. The incarnation is a new one if the row was not there, was
// marked as stopped, or was silent for so long that the worker may not have counted
// as waiting (soniq_waiting gives it five minutes). The statement returns whether
// somebody had marked the worker as stopped, the incarnation, and the time. Parameters: $9 and
// $10 the job names and their arguments' types, or none; $11 a new incarnation; $12 what
// makes workers interchangeable, see Config.Crew.
const RegisterSQL = `
with before as (
  select status
  from public.soniq_workers
  where id = $1
), named as (
  insert into public.soniq_task_registry (task_name, worker_id, last_seen_at, args_model_repr)
  select n.task_name, $1::uuid::text, now(), n.args_model_repr
  from unnest($9::text[], $10::text[]) as n (task_name, args_model_repr)
  on conflict (task_name, worker_id) do update
  set last_seen_at = now()
)
insert into public.soniq_workers (
  id, hostname, pid, queues, concurrency, status, version, last_heartbeat, started_at, lock_key, backend_pid, incarnation,
  metadata
)
values ($1, $2, $3, $4, $5, 'active', $6, now(), now(), $7, $8, $11, jsonb_build_object('crew', $12::text))
on conflict (id) do update
set status = 'active',
  last_heartbeat = now(),
  lock_key = excluded.lock_key,
  backend_pid = excluded.backend_pid,
  incarnation = case
    when soniq_workers.status <> 'stopped' and soniq_workers.last_heartbeat > now() - interval '4 minutes'
      then soniq_workers.incarnation
    else excluded.incarnation
  end
returning coalesce((select status from before) = 'stopped', false), coalesce(incarnation, 0), clock_timestamp()`

// Register writes or renews the worker's row, and with names its job names too. A
// worker that was declared dead is active again after its next heartbeat.
//
// Errors: those of the database.
func (h *Heartbeat) Register(ctx context.Context, db pg.Querier, names bool) error {
	c := h.config
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	key, pid := h.session.advertised()
	var handled, types []string
	if names {
		handled, types = c.Names, c.ArgsTypes
	}
	var stopped bool
	var incarnation int64
	var at time.Time
	sent := time.Now()
	err = db.QueryRow(ctx, RegisterSQL, c.Worker, host+"/"+c.Worker.String(), os.Getpid(),
		c.Queues, c.Concurrency, c.Version, key, pid, handled, types, rand.Int64(), c.Crew).Scan(&stopped, &incarnation, &at)
	if err != nil {
		return fmt.Errorf("register worker: %w", err)
	}
	c.Registered(incarnation)
	if step := c.Clock.Note(at, sent, time.Now()); step != 0 {
		c.Stepped(step)
	}
	if stopped {
		c.Logger.Warn("others had declared this worker dead; it goes on, and can't write the outcomes of jobs that it lost")
	}
	return nil
}

// Renew is one heartbeat. It uses a connection beside the pool after patience.
//
// Errors: those of the database.
func (h *Heartbeat) Renew(ctx context.Context, names bool, patience time.Duration) error {
	return h.config.Pool.Beside(ctx, patience, func(ctx context.Context, db pg.Session) error {
		return h.Register(ctx, db, names)
	})
}

const (
	// beatRetry follows a heartbeat that failed. When the server is back, others wait
	// for ours no longer than Timing.Trust.
	beatRetry = time.Second
	// lastBeat is how long a worker that ends waits for a heartbeat under way.
	lastBeat = 2 * time.Second
)

// Run renews the worker's row until ctx ends, which is after its last job: once in
// each interval, and at once when the lock that the row advertises has changed. In between, another
// worker of the process may do it.
func (h *Heartbeat) Run(ctx context.Context) error {
	defer h.quit()
	timer := time.NewTimer(h.timing.Beat)
	defer timer.Stop()
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	ticks, waited := 0, false
	state := beatState{}
	// next is the time to the next heartbeat after one that began so long ago.
	next := func(took time.Duration) {
		ticks, waited = ticks+1, false
		h.beaten.withNames((ticks+1)%NamesEvery == 0)
		timer.Reset(max(h.timing.Beat-took, 0))
	}
	for {
		regular, names, patience := false, false, urgentPatience
		select {
		case <-ctx.Done():
			return nil
		case <-h.beaten.others:
			next(0)
			continue
		case <-timer.C:
			if !waited && h.isGiven() {
				waited = true
				timer.Reset(othersPatience)
				continue
			}
			regular, names, patience = true, (ticks+1)%NamesEvery == 0, PoolPatience
		case <-h.session.changed:
		case <-retry.C:
		}
		began := time.Now()
		var others []*Heartbeat
		if regular {
			others = h.othersDue()
		}
		err := h.beat(ctx, names, patience)
		if h.config.Tried != nil {
			h.config.Tried()
		}
		if err != nil {
			retry.Reset(beatRetry)
		}
		h.after(ctx, &state, err)
		h.renew(ctx, others, err)
		if regular {
			next(time.Since(began))
		}
	}
}

// beat is one heartbeat, which is waited for even if ctx ends: cut off here, the
// server could still write it after Unregister, and the worker would look alive.
func (h *Heartbeat) beat(ctx context.Context, names bool, patience time.Duration) error {
	beatCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), BeatInterval)
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastBeat, cancel) })()
	err := h.Renew(beatCtx, names, patience)
	h.contact.answered(err == nil)
	h.beaten.wrote(err == nil)
	if err == nil {
		h.join()
	}
	return err
}

// renew renews the rows of others, after the worker's own if that worked. Otherwise each does it
// when it is due.
func (h *Heartbeat) renew(ctx context.Context, others []*Heartbeat, err error) {
	if len(others) == 0 {
		return
	}
	if err != nil {
		for _, o := range others {
			o.beaten.wrote(false)
		}
		return
	}
	ctx, cancel := context.WithTimeout(ctx, PoolPatience)
	defer cancel()
	if err := h.beatFor(ctx, others); err != nil {
		h.config.Logger.Debug("heartbeats are written one by one", "error", err)
	}
}

// beatState is what the loop remembers of earlier heartbeats.
type beatState struct {
	failing bool
	// announced: the other workers were asked to look at this one.
	announced bool
}

// after follows a heartbeat: it announces the worker's lock once, and logs when
// heartbeats begin to fail and when they are back.
func (h *Heartbeat) after(ctx context.Context, s *beatState, err error) {
	if err == nil && !s.announced && h.session.Advertises() {
		s.announced = h.announce(ctx)
	}
	switch {
	case err != nil && !s.failing && ctx.Err() == nil:
		h.config.Logger.Warn("heartbeat failed; trying again", "error", err)
		s.failing = true
	case err == nil && s.failing:
		h.config.Logger.Info("heartbeat is back")
		s.failing = false
	}
}

const joinedSQL = `select pg_notify('soniq_control', jsonb_build_object('v', 1, 'joined', $1::uuid)::text)`

// announce makes the other workers look at this one once its lock is visible. They
// look rarely while nobody works, and can't miss a lock that they never saw.
func (h *Heartbeat) announce(ctx context.Context) (announced bool) {
	ctx, cancel := context.WithTimeout(ctx, PoolPatience)
	defer cancel()
	_, err := h.config.Pool.Exec(ctx, joinedSQL, h.config.Worker)
	return err == nil
}

// The job names stay: between two releases the workers of both must know them.
const unregisterSQL = `
update public.soniq_workers
set status = 'stopped', last_heartbeat = now(), lock_key = null, backend_pid = null
where id = $1`

// unregisterTimeout is short: nothing depends on it, and a worker that stops has little
// time.
const unregisterTimeout = time.Second

// Unregister marks the worker as stopped. If the database is away, it logs that:
// the worker has written all its outcomes, and others notice its silence.
func (h *Heartbeat) Unregister(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, unregisterTimeout)
	defer cancel()
	if _, err := h.config.Pool.Exec(ctx, unregisterSQL, h.config.Worker); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no answer within %s", unregisterTimeout)
		}
		h.config.Logger.Warn("could not mark the worker as stopped; others will notice", "error", err)
	}
}
