package engine

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"soniq/internal/liveness"
)

// CheckJob does the checks of [Client.Enqueue] that need no database. A program that
// enqueues many jobs can report every mistake before the first insert.
//
// Errors: an [*ArgumentError].
func (c *Client) CheckJob(name string, args any, opts ...EnqueueOption) error {
	_, err := c.prepare(name, args, opts)
	return err
}

// CheckJob is [Client.CheckJob] before there is a pool: a program can report a mistake before it connects.
//
// Errors: an [*ArgumentError]; for mistakes in the configuration those of [NewClient].
func (config ClientConfig) CheckJob(name string, args any, opts ...EnqueueOption) error {
	c, err := config.client()
	if err != nil {
		return err
	}
	return c.CheckJob(name, args, opts...)
}

// Availability says which live workers could run a job now.
type Availability struct {
	// Queue is true if a live worker serves the job's queue.
	Queue bool
	// Handler is true if one of those workers has a handler for the job's name. Which
	// names a Python worker handles is not recorded: it counts as one that has it.
	Handler bool
	// Paused is true if the queue is paused.
	Paused bool
}

var availabilitySQL = `
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
  and ` + liveness.LiveSQL("w", "$3", "$4") + `
  and (coalesce(cardinality(w.queues), 0) = 0 or $1 = any(w.queues))`

// Availability reports whether a live worker could run a job of this queue and
// name, and whether the queue is paused.
//
// Errors: those of the database.
func (c *Client) Availability(ctx context.Context, queue, name string) (Availability, error) {
	var a Availability
	err := c.pool.QueryRow(ctx, availabilitySQL, queue, name, liveness.DeadAfter, liveness.PythonDeadAfter).Scan(&a.Queue, &a.Handler, &a.Paused)
	if err != nil {
		return Availability{}, fmt.Errorf("look for workers: %w", err)
	}
	return a, nil
}

const knownNamesSQL = `
select distinct left(r.task_name, 2000)
from public.soniq_task_registry r
order by 1
limit 1000`

// KnownNames returns names of jobs that workers have a handler for, or had one for lately,
// sorted. At most 1,000.
//
// Errors: those of the database.
func (c *Client) KnownNames(ctx context.Context) ([]string, error) {
	rows, _ := c.pool.Query(ctx, knownNamesSQL)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read names of jobs: %w", err)
	}
	return names, nil
}
