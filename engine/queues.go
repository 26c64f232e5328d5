package engine

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
)

const pauseSQL = `
insert into public.soniq_queues (name, paused_at, paused_by)
values ($1, now(), $2)
on conflict (name) do update
set paused_at = excluded.paused_at, paused_by = excluded.paused_by
where soniq_queues.paused_at is null`

// PauseQueue pauses a queue: until [Client.ResumeQueue] no Go worker claims jobs from
// it, not even one that starts later. Running jobs go on, and so do those of a claim
// that has begun. Jobs can still be enqueued, and none becomes a dead letter because
// no worker knows its name. Python's workers ignore it.
//
// The client's ProducerID is recorded as who paused it. changed is false if the
// queue was paused already; nothing is written then. The queue need not have jobs
// or workers yet.
//
// Errors: an [*ArgumentError] for a name that can't be a queue's; else those of the
// database.
func (c *Client) PauseQueue(ctx context.Context, queue string) (changed bool, err error) {
	return c.pauseQueue(ctx, c.pool, queue)
}

// PauseQueueTx is [Client.PauseQueue] in the caller's transaction.
//
// Errors: as for [Client.PauseQueue]. After an error of the database tx can only be
// rolled back.
func (c *Client) PauseQueueTx(ctx context.Context, tx pgx.Tx, queue string) (changed bool, err error) {
	return c.pauseQueue(ctx, c.in(tx), queue)
}

func (c *Client) pauseQueue(ctx context.Context, db pg.Querier, queue string) (changed bool, err error) {
	if err := checkText("queue", queue); err != nil {
		return false, fmt.Errorf("pause queue: %w", err)
	}
	tag, err := db.Exec(ctx, pauseSQL, queue, c.config.ProducerID)
	if err != nil {
		return false, fmt.Errorf("pause queue: %w", describeStoreError("queue", err))
	}
	return tag.RowsAffected() > 0, nil
}

const resumeSQL = `
update public.soniq_queues
set paused_at = null, paused_by = null
where name = $1
  and paused_at is not null`

// ResumeQueue resumes a paused queue and wakes its workers. changed is false if it
// was not paused.
//
// Errors: an [*ArgumentError] for a name that can't be a queue's; else those of the
// database.
func (c *Client) ResumeQueue(ctx context.Context, queue string) (changed bool, err error) {
	return resumeQueue(ctx, c.pool, queue)
}

// ResumeQueueTx is [Client.ResumeQueue] in the caller's transaction.
//
// Errors: as for [Client.ResumeQueue]. After an error of the database tx can only be
// rolled back.
func (c *Client) ResumeQueueTx(ctx context.Context, tx pgx.Tx, queue string) (changed bool, err error) {
	return resumeQueue(ctx, c.in(tx), queue)
}

func resumeQueue(ctx context.Context, db pg.Querier, queue string) (changed bool, err error) {
	if err := checkText("queue", queue); err != nil {
		return false, fmt.Errorf("resume queue: %w", err)
	}
	tag, err := db.Exec(ctx, resumeSQL, queue)
	if err != nil {
		return false, fmt.Errorf("resume queue: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}

// Queues counts the jobs of each queue that has jobs or is paused, in the order of
// [Status.Queues].
//
// Errors: those of the database.
func (c *Client) Queues(ctx context.Context) ([]QueueStatus, error) {
	queues, err := readQueues(ctx, c.pool)
	if err != nil {
		return nil, fmt.Errorf("read queues: %w", err)
	}
	return queues, nil
}

// Workers lists the workers that are not stopped, the one that runs longest first.
//
// Errors: those of the database.
func (c *Client) Workers(ctx context.Context) ([]WorkerStatus, error) {
	workers, err := readWorkers(ctx, c.pool)
	if err != nil {
		return nil, fmt.Errorf("read workers: %w", err)
	}
	return workers, nil
}
