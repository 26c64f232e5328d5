package liveness

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// together are the heartbeats of the workers whose rows name the same lock: those of one process.
// The one that is due first renews the rows of all others in one statement, so that a hundred workers
// cost no more than one. Those that are due while it does so wait for it, for othersPatience.
//
// It renews only what is as its worker has left it: a row that is gone, was marked as stopped, was
// silent for long, names another lock or is locked by somebody is its own worker's to write, as if
// there were no others. So is the first heartbeat on each connection.
type together struct {
	mu    sync.Mutex
	beats map[*Heartbeat]struct{}
}

func (t *together) join(h *Heartbeat) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.beats == nil {
		t.beats = map[*Heartbeat]struct{}{}
	}
	t.beats[h] = struct{}{}
}

func (t *together) leave(h *Heartbeat) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.beats, h)
}

// due are those that have not beaten for half an interval. Nobody else gets them until they have.
func (t *together) due(except *Heartbeat) (due []*Heartbeat) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for h := range t.beats {
		if h != except && h.claim() {
			due = append(due, h)
		}
	}
	return due
}

// beaten is when a worker's row was last written, and by whom next.
type beaten struct {
	mu sync.Mutex
	at time.Time
	// given: another worker writes it just now.
	given bool
	// names: the next heartbeat refreshes the job names too.
	names bool
	// others is readable when another worker has written it.
	others chan struct{}
	group  *together
}

// claim reports whether the worker is due soon, and gives its heartbeat to the caller.
func (h *Heartbeat) claim() bool {
	b := &h.beaten
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.given || time.Since(b.at) < h.timing.Beat/2 {
		return false
	}
	b.given = true
	return true
}

// wrote notes a heartbeat, or with ok false that it could not be written.
func (b *beaten) wrote(ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.given = false
	if ok {
		b.at = time.Now()
	}
}

// withNames says whether the next heartbeat refreshes the job names.
func (b *beaten) withNames(names bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.names = names
}

// join makes h one of those that share its present lock, if its row names that.
func (h *Heartbeat) join() {
	group := h.session.group()
	b := &h.beaten
	b.mu.Lock()
	before := b.group
	b.group = group
	b.mu.Unlock()
	if before == group {
		return
	}
	if before != nil {
		before.leave(h)
	}
	if group != nil {
		group.join(h)
	}
}

// quit ends what join began.
func (h *Heartbeat) quit() {
	h.beaten.mu.Lock()
	group := h.beaten.group
	h.beaten.group = nil
	h.beaten.mu.Unlock()
	if group != nil {
		group.leave(h)
	}
}

// BeatSQL renews the rows of other workers of a process, and returns those that it has renewed.
// Parameters: $1 the workers, $2 the lock that their rows name, $3 and $4 the job names that are
// refreshed, each with its worker.
const BeatSQL = `
with row as materialized (
  select o.id
  from public.soniq_workers o
  where o.id = any ($1::uuid[])
    and o.status <> 'stopped'
    and o.lock_key = $2
    and o.last_heartbeat > now() - interval '4 minutes'
  for no key update skip locked
), named as (
  update public.soniq_task_registry r
  set last_seen_at = now()
  from unnest($3::text[], $4::text[]) as n (task_name, worker_id)
  join row on row.id::text = n.worker_id
  where r.task_name = n.task_name
    and r.worker_id = n.worker_id
)
update public.soniq_workers o
set last_heartbeat = now()
from row
where o.id = row.id
returning o.id, coalesce(o.incarnation, 0)`

// othersPatience is how long a worker that is due waits for another one that renews its row.
const othersPatience = 1500 * time.Millisecond

// othersDue are the workers of this process whose rows are to be renewed with this one's.
func (h *Heartbeat) othersDue() []*Heartbeat {
	if group := h.session.group(); group != nil {
		return group.due(h)
	}
	return nil
}

// beatFor renews the rows of other workers of this process. What it can't renew, its own worker does.
//
// Errors: those of the database.
func (h *Heartbeat) beatFor(ctx context.Context, due []*Heartbeat) (err error) {
	renewed := map[uuid.UUID]int64{}
	defer func() {
		for _, o := range due {
			incarnation, ok := renewed[o.config.Worker]
			ok = ok && err == nil
			if o.beaten.wrote(ok); ok {
				o.wasBeaten(incarnation)
			}
		}
	}()
	key, _ := h.session.advertised()
	if key == nil {
		return nil
	}
	ids := make([]uuid.UUID, len(due))
	names, workers := []string{}, []string{}
	for i, o := range due {
		ids[i] = o.config.Worker
		if o.namesDue() {
			for _, name := range o.config.Names {
				names, workers = append(names, name), append(workers, o.config.Worker.String())
			}
		}
	}
	rows, _ := h.config.Pool.Query(ctx, BeatSQL, ids, *key, names, workers)
	var id uuid.UUID
	var incarnation int64
	_, err = pgx.ForEachRow(rows, []any{&id, &incarnation}, func() error {
		renewed[id] = incarnation
		return nil
	})
	if err != nil {
		return fmt.Errorf("renew the other workers of this process: %w", err)
	}
	return nil
}

// isGiven reports whether another worker is about to renew this one's row.
func (h *Heartbeat) isGiven() bool {
	h.beaten.mu.Lock()
	defer h.beaten.mu.Unlock()
	return h.beaten.given
}

func (h *Heartbeat) namesDue() bool {
	h.beaten.mu.Lock()
	defer h.beaten.mu.Unlock()
	return h.beaten.names
}

// wasBeaten follows a heartbeat that another worker of the process has written.
func (h *Heartbeat) wasBeaten(incarnation int64) {
	h.contact.answered(true)
	h.config.Registered(incarnation)
	if h.config.Tried != nil {
		h.config.Tried()
	}
	signal(h.beaten.others)
}
