package engine

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq"
)

// How a crash is noticed. Each worker's listener connection holds a session
// advisory lock, which ends with the process, and the worker's row advertises
// it beside the heartbeat. The parts:
//
//	listener  takes the lock on each new connection    (sessionUp, sessionDown)
//	watch     sees that it can be seen, and sees others' (watch.go, observer.go)
//	beat      writes the row, and what it advertises    (beat)
//
// Only beat writes the row, so that what was taken back stays back.
type presence struct {
	// changed is readable when the row must be written at once.
	changed chan struct{}
	// stirred is readable when somebody may have claimed a job.
	stirred chan struct{}

	mu       sync.Mutex
	sessions int
	session  *lockSession
	// contactSince is since when the database answers without a gap; zero
	// while it doesn't. Wall clock: a machine that sleeps is out of contact.
	contactSince, lastContact time.Time
}

// lockSession is a listener connection that holds a lock.
type lockSession struct {
	key   int64
	pid   uint32
	since time.Time
	// visible: through the pool the lock was seen, held by this session. With
	// a pooler between, or in another database, it never is.
	visible bool
}

func newPresence() *presence {
	return &presence{changed: make(chan struct{}, 1), stirred: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// stir has the watch look soon: there is a job that somebody may claim.
func (p *presence) stir() { signal(p.stirred) }

// current returns the session, nil if there is none.
func (p *presence) current() *lockSession {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.session
}

// advertised returns what the worker's row says: NULLs unless others can see
// the lock.
func (p *presence) advertised() (key *int64, pid *int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.session == nil || !p.session.visible {
		return nil, nil
	}
	return &p.session.key, new(int32(p.session.pid))
}

// sawItself notes whether the lock of session s was seen, held by s. One that
// was not tells others nothing, whatever this end of the connection believes.
func (p *presence) sawItself(s *lockSession, held bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case s == nil || s != p.session || held && s.visible:
		return
	case held:
		s.visible = true
	default:
		p.session = nil
	}
	signal(p.changed)
}

// answered notes whether the database answered.
func (p *presence) answered(ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now().Round(0)
	switch {
	case !ok:
		p.contactSince = time.Time{}
	case p.contactSince.IsZero() || now.Sub(p.lastContact) > workerDeadAfter:
		p.contactSince = now
	}
	p.lastContact = now
}

// contact is how long the database has answered without a gap.
func (p *presence) contact() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.contactSince.IsZero() {
		return -1
	}
	return time.Now().Round(0).Sub(p.contactSince)
}

const (
	backendSQL  = `select pg_backend_pid()`
	takeLockSQL = `select pg_try_advisory_lock($1)`
)

// sessionUp takes the lock on a new listener connection, by trying. Without it
// the worker has its heartbeat: no reason not to listen.
func (w *Worker) sessionUp(ctx context.Context, conn *pgx.Conn) error {
	p := w.presence
	p.mu.Lock()
	p.sessions++
	s := &lockSession{key: lockKey(w.id.String(), p.sessions), pid: conn.PgConn().PID()}
	p.mu.Unlock()
	var pid uint32
	var taken bool
	// Simple protocol: a pooler may not know prepared statements.
	err := conn.QueryRow(ctx, backendSQL, pgx.QueryExecModeSimpleProtocol).Scan(&pid)
	if err == nil && pid == s.pid {
		err = conn.QueryRow(ctx, takeLockSQL, pgx.QueryExecModeSimpleProtocol, s.key).Scan(&taken)
	}
	switch {
	case err != nil && conn.IsClosed():
		return err
	case pid != s.pid && err == nil:
		// A pooler's sessions are not ours: they end when it likes.
		w.logger.Info("a pooler is between listener and server; a crash of this worker is noticed by its heartbeat only",
			"after", workerDeadAfter.String())
		return nil
	case !taken:
		w.logger.Info("can't take the worker's lock; a crash of this worker is noticed by its heartbeat only",
			"after", workerDeadAfter.String(), "error", err)
		return nil
	}
	s.since = time.Now()
	p.mu.Lock()
	p.session = s
	p.mu.Unlock()
	p.stir()
	return nil
}

// sessionDown has the lock taken back from the row at once: others see it
// gone, and would take the worker for dead.
func (w *Worker) sessionDown() {
	w.presence.mu.Lock()
	w.presence.session = nil
	w.presence.mu.Unlock()
	signal(w.presence.changed)
}

// lockKey is for one session of a worker: the server may hold the lock of a
// session that was cut off for long after we know.
func lockKey(worker string, session int) int64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "soniq.worker.v1/%s/%d", worker, session))
	return int64(binary.BigEndian.Uint64(sum[:]))
}

// The hostname column carries the worker's id too: (hostname, pid) is unique,
// and containers share both. The tenure is a new one where the row, as it is
// when it is written, was not there, stopped, or silent for so long that its
// hunger may not have counted (soniq_hungry gives it five minutes). Returns
// whether someone had declared the worker stopped, and the tenure. Parameters:
// $9 and $10 the job names and their arguments' types, or none; $11 a new
// tenure.
const registerSQL = `
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
  id, hostname, pid, queues, concurrency, status, version, last_heartbeat, started_at, lock_key, backend_pid, tenure
)
values ($1, $2, $3, $4, $5, 'active', $6, now(), now(), $7, $8, $11)
on conflict (id) do update
set status = 'active',
  last_heartbeat = now(),
  lock_key = excluded.lock_key,
  backend_pid = excluded.backend_pid,
  tenure = case
    when soniq_workers.status <> 'stopped' and soniq_workers.last_heartbeat > now() - interval '4 minutes'
      then soniq_workers.tenure
    else excluded.tenure
  end
returning coalesce((select status from before) = 'stopped', false), coalesce(tenure, 0)`

// The names stay: a fleet between two releases has not forgotten its jobs.
const unregisterSQL = `
update public.soniq_workers
set status = 'stopped', last_heartbeat = now(), lock_key = null, backend_pid = null
where id = $1`

// register writes, or renews, the worker's row, and with names those that it
// handles. A worker that someone declared stopped is active again after its
// next beat.
func (w *Worker) register(ctx context.Context, db querier, names bool) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	key, pid := w.presence.advertised()
	var handled, types []string
	if names {
		handled = w.registry.Names()
		for _, name := range handled {
			types = append(types, w.registry.handlers[name].argsType)
		}
	}
	var stopped bool
	var tenure int64
	err = db.QueryRow(ctx, registerSQL, w.id, host+"/"+w.id.String(), os.Getpid(),
		w.queues, w.config.Concurrency, soniq.WorkerVersion, key, pid, handled, types, rand.Int64()).Scan(&stopped, &tenure)
	if err != nil {
		return fmt.Errorf("register worker: %w", err)
	}
	if w.hunger.registered(tenure) {
		w.hunger.doubt()
		w.wakeups.Set()
	}
	if stopped {
		w.logger.Warn("this worker was taken for dead; it goes on, and outcomes of jobs it lost are refused")
	}
	return nil
}

// beat renews the worker's row until ctx ends, which is after its last job: in
// turn, and at once when what the row advertises has changed.
func (w *Worker) beat(ctx context.Context) error {
	ticker := time.NewTicker(w.timing.beat)
	defer ticker.Stop()
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	failing := false
	ticks := 0
	seen := false // others were told to look
	for {
		names, patience := false, urgentPatience
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			ticks++
			names, patience = ticks%namesEvery == 0, poolPatience
		case <-w.presence.changed:
		case <-retry.C:
		}
		// A beat that has begun is waited for. Cut off here, it could still be
		// written over there, after unregister: the worker would look alive.
		beatCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), heartbeatInterval)
		last := context.AfterFunc(ctx, func() { time.AfterFunc(lastBeat, cancel) })
		err := w.renew(beatCtx, names, patience)
		last()
		cancel()
		w.presence.answered(err == nil)
		if err != nil {
			retry.Reset(beatRetry)
		}
		if key, _ := w.presence.advertised(); key != nil && err == nil && !seen {
			seen = w.tellOthers(ctx)
		}
		switch {
		case err != nil && !failing && ctx.Err() == nil:
			w.logger.Warn("heartbeat failed; trying again", "error", err)
			failing = true
		case err == nil && failing:
			w.logger.Info("heartbeat is back")
			failing = false
		}
	}
}

const joinedSQL = `select pg_notify('soniq_control', jsonb_build_object('v', 1, 'joined', $1::uuid)::text)`

// tellOthers has the other workers look at this one, once its lock can be seen:
// they look rarely while nobody works, and would not know a lock that was lost
// before they ever saw it.
func (w *Worker) tellOthers(ctx context.Context) (told bool) {
	ctx, cancel := context.WithTimeout(ctx, poolPatience)
	defer cancel()
	_, err := w.pool.Exec(ctx, joinedSQL, w.id)
	return err == nil
}

const (
	// poolPatience is how long a heartbeat, or a look, waits for the pool;
	// urgentPatience, one that keeps the worker from being taken for dead. That
	// one may have to wait for the other, so both are within lockMissing.
	poolPatience   = time.Second
	urgentPatience = 200 * time.Millisecond
	// beatRetry follows a heartbeat that failed. When the server is back,
	// others wait for ours no longer than trustAfter.
	beatRetry = time.Second
	// lastBeat is how long a worker that ends waits for a beat of its own.
	lastBeat = 2 * time.Second
)

// renew is one heartbeat.
func (w *Worker) renew(ctx context.Context, names bool, patience time.Duration) error {
	return w.borrow(ctx, patience, func(ctx context.Context, db session) error {
		return w.register(ctx, db, names)
	})
}

// session is a connection, or a pool of them.
type session interface {
	querier
	Begin(ctx context.Context) (pgx.Tx, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// borrow is for what must not wait for handlers, which may hold all connections
// of the pool for as long as they like: their worker must not be taken for
// dead, must hear of cancellations, and must see who else is dead. Where the
// pool has not done it within patience, it is done on a connection of its own.
// do may be called twice.
func (w *Worker) borrow(ctx context.Context, patience time.Duration, do func(context.Context, session) error) error {
	poolCtx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := do(poolCtx, w.pool)
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	conn, err := w.connect(ctx)
	if err != nil {
		return fmt.Errorf("connect beside the pool: %w", err)
	}
	defer conn.Close(ctx)
	return do(ctx, conn)
}

// connect makes a connection as the pool makes its own.
func (w *Worker) connect(ctx context.Context) (*pgx.Conn, error) {
	config := w.pool.Config()
	if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
			return nil, err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return nil, err
	}
	if config.AfterConnect != nil {
		if err := config.AfterConnect(ctx, conn); err != nil {
			return nil, errors.Join(err, conn.Close(ctx))
		}
	}
	return conn, nil
}

// unregister marks the worker stopped. The database may be away: that is no
// failure of a worker that has written all its outcomes.
func (w *Worker) unregister(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := w.pool.Exec(ctx, unregisterSQL, w.id); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = errors.New("no answer within 5 s")
		}
		w.logger.Warn("could not mark the worker as stopped; others will notice", "error", err)
	}
	return nil
}
