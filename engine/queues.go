package engine

import (
	"context"
	"fmt"
)

const pauseSQL = `
insert into public.soniq_queues (name, paused_at, paused_by)
values ($1, now(), $2)
on conflict (name) do update
set paused_at = excluded.paused_at, paused_by = excluded.paused_by
where soniq_queues.paused_at is null`

// PauseQueue stops a queue for the whole fleet, and those who join it later: no Go
// worker claims a job of it until [Client.ResumeQueue]. Jobs that are running go on,
// also those that a claim which had begun brings. Jobs can be enqueued, and
// none of them becomes a dead letter for want of a worker meanwhile. Python's
// workers know nothing of it.
//
// The client's ProducerID is noted as who did it. changed is false if the queue
// was paused already: then it stays as it was. The queue need not have jobs or
// workers yet.
func (c *Client) PauseQueue(ctx context.Context, queue string) (changed bool, err error) {
	if err := checkText("queue", queue); err != nil {
		return false, fmt.Errorf("pause queue: %w", err)
	}
	tag, err := c.pool.Exec(ctx, pauseSQL, queue, c.config.ProducerID)
	if err != nil {
		return false, fmt.Errorf("pause queue: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}

const resumeSQL = `
update public.soniq_queues
set paused_at = null, paused_by = null
where name = $1
  and paused_at is not null`

// ResumeQueue lets a paused queue go on, and wakes its workers. changed is false if
// it was not paused.
func (c *Client) ResumeQueue(ctx context.Context, queue string) (changed bool, err error) {
	if err := checkText("queue", queue); err != nil {
		return false, fmt.Errorf("resume queue: %w", err)
	}
	tag, err := c.pool.Exec(ctx, resumeSQL, queue)
	if err != nil {
		return false, fmt.Errorf("resume queue: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}

// Queues counts the jobs of each queue that has some or is paused, by name.
func (c *Client) Queues(ctx context.Context) ([]QueueStatus, error) {
	queues, err := readQueues(ctx, c.pool)
	if err != nil {
		return nil, fmt.Errorf("read queues: %w", err)
	}
	return queues, nil
}

// Workers lists the workers that are not stopped, the longest running first.
func (c *Client) Workers(ctx context.Context) ([]WorkerStatus, error) {
	workers, err := readWorkers(ctx, c.pool)
	if err != nil {
		return nil, fmt.Errorf("read workers: %w", err)
	}
	return workers, nil
}
