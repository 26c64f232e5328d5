package engine

import (
	"context"
	"fmt"
)

// Check reports what [Client.Enqueue] would find wrong without asking the
// database, as an [*ArgumentError]: whoever enqueues many jobs at once can name
// every mistake before the first insert.
func (c *Client) Check(name string, args any, opts ...EnqueueOption) error {
	_, err := c.prepare(name, args, opts)
	return err
}

// Service tells who could run a job just now; see [Client.Service].
type Service struct {
	// Queue is whether a live worker serves the job's queue.
	Queue bool
	// Handler is whether one of those has a handler for the job's name. Which
	// names a Python worker handles is not known: it counts as one that does.
	Handler bool
	// Paused is whether the queue is paused.
	Paused bool
}

const serviceSQL = `
select
  count(*) > 0,
  coalesce(bool_or(
    w.version is null
    or w.version not like 'go/%'
    or exists (
      select from public.soniq_task_registry r
      where r.task_name = $2
        and r.worker_id = w.id::text
    )
  ), false),
  exists (select from public.soniq_queues p where p.name = $1 and p.paused_at is not null)
from public.soniq_workers w
where w.status = 'active'
  and w.last_heartbeat > now() - case when w.version like 'go/%' then $3::interval else $4::interval end
  and (coalesce(cardinality(w.queues), 0) = 0 or $1 = any(w.queues))`

// Service looks for live workers that could run a job of this queue and name,
// and whether the queue is paused.
func (c *Client) Service(ctx context.Context, queue, name string) (Service, error) {
	var s Service
	err := c.pool.QueryRow(ctx, serviceSQL, queue, name, workerDeadAfter, pythonDeadAfter).Scan(&s.Queue, &s.Handler, &s.Paused)
	if err != nil {
		return Service{}, fmt.Errorf("look for workers: %w", err)
	}
	return s, nil
}
