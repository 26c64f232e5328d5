package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
)

// cancelledTTL is how long a cancelled job's row is kept: a day, so that
// whoever cancelled the wrong one can still see it and run it after all. The
// schema has the same number, for jobs that are cancelled by their requeue.
const cancelledTTL = 24 * time.Hour

// RefusedError says that a job's status does not allow what was asked for.
// Nothing was changed.
type RefusedError struct {
	ID     uuid.UUID
	Status JobStatus
	// Problem completes the sentence that begins with 'job is <status>'.
	Problem string
}

func (e *RefusedError) Error() string { return "job is " + string(e.Status) + e.Problem }

// DuplicateError says that a job can't be queued: it is unique, or has a dedup
// key, and another one stands in its place. Nothing was changed.
type DuplicateError struct {
	// ID is the job that is queued, or [uuid.Nil] if it has left the queue
	// meanwhile.
	ID uuid.UUID
}

func (e *DuplicateError) Error() string {
	if e.ID == uuid.Nil {
		return "a duplicate was queued a moment ago; try again"
	}
	return "job " + e.ID.String() + " is queued, and is a duplicate of it"
}

// A row that is being claimed is waited for, and seen as it is then. The
// trigger soniq_job_cancelled announces a request.
const cancelSQL = `
update public.soniq_jobs
set status = case status when 'queued' then 'cancelled' else status end,
  cancel_requested_at = clock_timestamp(),
  expires_at = case status when 'queued' then now() + $2::interval else expires_at end,
  updated_at = case status when 'queued' then now() else updated_at end
where id = $1
  and status in ('queued', 'processing')
returning status`

// CancelJob cancels a job. A queued one never runs: the status returned is
// [StatusCancelled], which it is for a job that was cancelled before, too. For
// a running one it is [StatusProcessing]: its worker has been asked to cancel
// the context of the handler, with [ErrCancelled] as the cause, and the job
// will be cancelled unless its attempt succeeds or is dead for good before. A
// worker that has not heard of it finds the request within 10 s; one that
// doesn't know of cancelling, Python's, runs the job to the end of its attempt,
// and no retry follows.
//
// A cancelled job's row is kept for a day. The error is [ErrJobNotFound], or a
// [*RefusedError] for a job that is done or dead.
func (c *Client) CancelJob(ctx context.Context, id uuid.UUID) (JobStatus, error) {
	var status JobStatus
	err := c.change(ctx, "cancel", func() (done bool, err error) {
		err = c.pool.QueryRow(ctx, cancelSQL, id, cancelledTTL).Scan(&status)
		return err == nil, ignoreNoRows(err)
	}, id, func(job *Job) error {
		switch job.Status {
		case StatusQueued, StatusProcessing:
			return nil
		case StatusCancelled:
			status = StatusCancelled
			return errUnchanged
		case StatusDeadLetter:
			return &RefusedError{id, job.Status, "; it won't run again unless it is replayed"}
		default:
			return &RefusedError{id, job.Status, "; only a queued or a running job can be cancelled"}
		}
	})
	return status, err
}

// A job that is due already keeps its place.
const retrySQL = `
update public.soniq_jobs
set status = 'queued',
  attempts = case status when 'cancelled' then 0 else attempts end,
  last_error = case status when 'cancelled' then null else last_error end,
  errors = case status when 'cancelled' then null else errors end,
  scheduled_at = case
    when status = 'cancelled' or scheduled_at > now() then now()
    else scheduled_at
  end,
  cancel_requested_at = null,
  expires_at = null,
  worker_id = null,
  claim_token = null,
  updated_at = now()
where id = $1
  and (status = 'queued' or status = 'cancelled' and replay_of is null)`

// RetryJob makes a job due now: one that is queued for later, be it scheduled,
// retried or snoozed, keeps its attempts; a cancelled one is queued again as
// if it were new, with all its attempts before it. For a job that is due
// already it changes nothing.
//
// The error is [ErrJobNotFound]; a [*DuplicateError]; or a [*RefusedError] for
// a job that is running, done or dead, and for a cancelled replay, whose dead
// letter can be replayed again.
func (c *Client) RetryJob(ctx context.Context, id uuid.UUID) error {
	err := c.change(ctx, "retry", func() (bool, error) {
		tag, err := c.pool.Exec(ctx, retrySQL, id)
		return tag.RowsAffected() > 0, err
	}, id, func(job *Job) error {
		switch {
		case job.Status == StatusQueued, job.Status == StatusCancelled && job.ReplayOf == nil:
			return nil
		case job.Status == StatusCancelled:
			return &RefusedError{id, job.Status, "; it was a replay of dead letter " + job.ReplayOf.String() + ": replay that again"}
		case job.Status == StatusDeadLetter:
			return &RefusedError{id, job.Status, "; replay it"}
		default:
			return &RefusedError{id, job.Status, "; only a queued or a cancelled job can be made due"}
		}
	})
	if pg.IsCode(err, pg.UniqueViolation) {
		return c.duplicateOf(ctx, id)
	}
	return err
}

const duplicateOfSQL = `
select coalesce(u.id, k.id)
from public.soniq_jobs j
left join public.soniq_jobs u
  on u.job_name = j.job_name and u.args_hash = j.args_hash and j.unique_job
  and u.status = 'queued' and u.unique_job = true
left join public.soniq_jobs k
  on k.dedup_key = j.dedup_key
  and k.status = 'queued' and k.dedup_key is not null
where j.id = $1
  and coalesce(u.id, k.id) is not null`

func (c *Client) duplicateOf(ctx context.Context, id uuid.UUID) error {
	duplicate := &DuplicateError{}
	err := ignoreNoRows(c.pool.QueryRow(ctx, duplicateOfSQL, id).Scan(&duplicate.ID))
	if err != nil {
		return fmt.Errorf("retry job: look up duplicate: %w", err)
	}
	return duplicate
}

const deleteSQL = `
delete from public.soniq_jobs
where id = $1
  and status <> 'processing'`

// DeleteJob deletes a job that is queued, done or cancelled, and its result. The
// error is [ErrJobNotFound], or a [*RefusedError] for a job that is running,
// which must be cancelled first, or dead.
func (c *Client) DeleteJob(ctx context.Context, id uuid.UUID) error {
	return c.change(ctx, "delete", func() (bool, error) {
		tag, err := c.pool.Exec(ctx, deleteSQL, id)
		return tag.RowsAffected() > 0, err
	}, id, func(job *Job) error {
		switch job.Status {
		case StatusProcessing:
			return &RefusedError{id, job.Status, "; cancel it first"}
		case StatusDeadLetter:
			return &RefusedError{id, job.Status, "; delete it from the dead-letter queue"}
		default:
			return nil
		}
	})
}

// errUnchanged ends a change that there is no need for.
var errUnchanged = errors.New("unchanged")

// change makes a change that a job's status must allow. Where it has found
// nothing to change, the job is read, and judge says why; nil is that it could
// have been changed after all: its status is another one since.
func (c *Client) change(ctx context.Context, verb string, try func() (done bool, err error), id uuid.UUID, judge func(*Job) error) error {
	const turns = 10
	for range turns {
		done, err := try()
		if err != nil {
			return fmt.Errorf("%s job: %w", verb, err)
		}
		if done {
			return nil
		}
		job, err := c.Job(ctx, id)
		if err != nil {
			return err
		}
		err = judge(job)
		if errors.Is(err, errUnchanged) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("%s job: its status changed %d times meanwhile; try again", verb, turns)
}

func ignoreNoRows(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}
