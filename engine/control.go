package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
	"soniq/internal/settle"
)

// RefusedError is returned for a job whose status doesn't allow the change.
// Nothing was changed.
type RefusedError struct {
	ID     uuid.UUID
	Status JobStatus
	// Problem completes the sentence that begins with "job is <status>".
	Problem string
}

func (e *RefusedError) Error() string { return "job is " + string(e.Status) + e.Problem }

// DuplicateError is returned for a job that can't be queued, because it is unique
// or has a dedup key and an equal one is queued. Nothing was changed.
type DuplicateError struct {
	// ID is the queued job, or [uuid.Nil] if it has left the queue meanwhile.
	ID uuid.UUID
}

func (e *DuplicateError) Error() string {
	if e.ID == uuid.Nil {
		return "a duplicate was queued a moment ago; try again"
	}
	return "job " + e.ID.String() + " is queued, and is a duplicate of it"
}

// The UPDATE waits for a claim of the row, and sees what that made of it. The
// trigger soniq_job_cancelled notifies the worker of a running job.
const cancelSQL = `
update public.soniq_jobs
set status = case status when 'queued' then 'cancelled' else status end,
  cancel_requested_at = clock_timestamp(),
  expires_at = case status when 'queued' then now() + $2::interval else expires_at end,
  updated_at = case status when 'queued' then now() else updated_at end
where id = $1
  and status in ('queued', 'processing')
returning status`

// CancelJob cancels a job.
//
// A queued job never runs; the status returned is [StatusCancelled], as for a job
// that was cancelled before. For a running job it is [StatusProcessing]: the job's
// worker cancels the context of the handler, with [ErrCancelled] as the cause, and
// the job ends as cancelled unless the attempt succeeds, or makes it a dead letter,
// before that. A worker that missed the notification finds the request within
// 10 s. Python's workers don't know of requests: the attempt runs to its end, and
// no retry follows.
//
// The row of a cancelled job is kept for a day.
//
// Errors: [ErrJobNotFound]; a [*RefusedError] for a job that is done or a dead
// letter; else those of the database.
func (c *Client) CancelJob(ctx context.Context, id uuid.UUID) (JobStatus, error) {
	return cancelJob(ctx, c.pool, id)
}

// CancelJobTx is [Client.CancelJob] in the caller's transaction. The row stays
// locked until it ends, so a worker can't claim the job meanwhile, nor write the
// outcome of a running one.
//
// Errors: as for [Client.CancelJob]. After an error of the database tx can only be
// rolled back.
func (c *Client) CancelJobTx(ctx context.Context, tx pgx.Tx, id uuid.UUID) (JobStatus, error) {
	return cancelJob(ctx, c.in(tx), id)
}

func cancelJob(ctx context.Context, db pg.Session, id uuid.UUID) (status JobStatus, err error) {
	err = change(ctx, db, "cancel", id, func() (done bool, err error) {
		err = db.QueryRow(ctx, cancelSQL, id, settle.CancelledTTL).Scan(&status)
		return err == nil, ignoreNoRows(err)
	}, func(now jobState) error {
		switch now.status {
		case StatusQueued, StatusProcessing:
			return nil
		case StatusCancelled:
			status = StatusCancelled
			return errUnchanged
		case StatusDeadLetter:
			return &RefusedError{id, now.status, "; it won't run again unless it is replayed"}
		default:
			return &RefusedError{id, now.status, "; only a queued or a running job can be cancelled"}
		}
	})
	return status, err
}

// A job that is due already keeps its due time, and so its position.
const retrySQL = `
update public.soniq_jobs
set status = 'queued',
  attempts = case status when 'cancelled' then 0 else attempts end,
  last_error = case status when 'cancelled' then null else last_error end,
  errors = case status when 'cancelled' then null else errors end,
  scheduled_at = case
    when status = 'cancelled' or coalesce(scheduled_at, created_at) > now() then now()
    else scheduled_at
  end,
  cancel_requested_at = null,
  expires_at = null,
  worker_id = null,
  claim_token = null,
  updated_at = now()
where id = $1
  and (status = 'queued' or status = 'cancelled' and replay_of is null)`

// RetryJob makes a job due now. A job that is queued for later (scheduled, retried
// or snoozed) keeps its attempts. A cancelled job is queued again as a new one,
// with no attempts. A job that is due already is left as it is.
//
// Errors: [ErrJobNotFound]; a [*DuplicateError]; a [*RefusedError] for a job that is
// running, done or a dead letter, and for a cancelled replay, whose dead letter can
// be replayed again; else those of the database.
func (c *Client) RetryJob(ctx context.Context, id uuid.UUID) error {
	return retryJob(ctx, c.pool, id)
}

// RetryJobTx is [Client.RetryJob] in the caller's transaction, in a savepoint: tx
// can go on after a [*DuplicateError].
//
// Errors: as for [Client.RetryJob].
func (c *Client) RetryJobTx(ctx context.Context, tx pgx.Tx, id uuid.UUID) error {
	return retryJob(ctx, c.in(tx), id)
}

func retryJob(ctx context.Context, db pg.Session, id uuid.UUID) error {
	err := change(ctx, db, "retry", id, func() (done bool, err error) {
		err = pg.InTx(ctx, db, func(tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, retrySQL, id)
			done = tag.RowsAffected() > 0
			return err
		})
		return done, err
	}, func(now jobState) error {
		switch {
		case now.status == StatusQueued, now.status == StatusCancelled && now.replayOf == nil:
			return nil
		case now.status == StatusCancelled:
			return &RefusedError{id, now.status, "; it was a replay of dead letter " + now.replayOf.String() + ": replay that again"}
		case now.status == StatusDeadLetter:
			return &RefusedError{id, now.status, "; replay it"}
		default:
			return &RefusedError{id, now.status, "; only a queued or a cancelled job can be made due"}
		}
	})
	if pg.IsCode(err, pg.UniqueViolation) {
		return duplicateOf(ctx, db, id)
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

func duplicateOf(ctx context.Context, db pg.Querier, id uuid.UUID) error {
	duplicate := &DuplicateError{}
	err := ignoreNoRows(db.QueryRow(ctx, duplicateOfSQL, id).Scan(&duplicate.ID))
	if err != nil {
		return fmt.Errorf("retry job: look up duplicate: %w", err)
	}
	return duplicate
}

const deleteSQL = `
delete from public.soniq_jobs
where id = $1
  and status <> 'processing'`

// DeleteJob deletes a job that is queued, done or cancelled, and its result.
//
// Errors: [ErrJobNotFound]; a [*RefusedError] for a job that is running, which must
// be cancelled first, or a dead letter; else those of the database.
func (c *Client) DeleteJob(ctx context.Context, id uuid.UUID) error {
	return deleteJob(ctx, c.pool, id)
}

// DeleteJobTx is [Client.DeleteJob] in the caller's transaction.
//
// Errors: as for [Client.DeleteJob]. After an error of the database tx can only be
// rolled back.
func (c *Client) DeleteJobTx(ctx context.Context, tx pgx.Tx, id uuid.UUID) error {
	return deleteJob(ctx, c.in(tx), id)
}

func deleteJob(ctx context.Context, db pg.Querier, id uuid.UUID) error {
	return change(ctx, db, "delete", id, func() (bool, error) {
		tag, err := db.Exec(ctx, deleteSQL, id)
		return tag.RowsAffected() > 0, err
	}, func(now jobState) error {
		switch now.status {
		case StatusProcessing:
			return &RefusedError{id, now.status, "; cancel it first"}
		case StatusDeadLetter:
			return &RefusedError{id, now.status, "; delete it from the dead-letter queue"}
		default:
			return nil
		}
	})
}

// errUnchanged ends a change that is not needed.
var errUnchanged = errors.New("unchanged")

// jobState is what decides whether a job can be changed.
type jobState struct {
	status   JobStatus
	replayOf *uuid.UUID
}

const jobStateSQL = `
select status, replay_of
from public.soniq_jobs
where id = $1
union all
select 'dead_letter', replay_of
from public.soniq_dead_letter_jobs
where id = $1
limit 1`

// change calls try, which changes a job if its status allows that. If try has
// changed nothing, judge gets the job's state and returns why. Nil means that the
// job could have been changed: its status is another one by now, and change tries
// again.
func change(ctx context.Context, db pg.Querier, verb string, id uuid.UUID, try func() (done bool, err error), judge func(jobState) error) error {
	const turns = 10
	for range turns {
		done, err := try()
		if err != nil {
			return fmt.Errorf("%s job: %w", verb, err)
		}
		if done {
			return nil
		}
		var now jobState
		err = db.QueryRow(ctx, jobStateSQL, id).Scan(&now.status, &now.replayOf)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrJobNotFound
		}
		if err != nil {
			return fmt.Errorf("%s job: %w", verb, err)
		}
		err = judge(now)
		if errors.Is(err, errUnchanged) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("%s job: its status changed during each of %d tries; try again", verb, turns)
}

func ignoreNoRows(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}
