package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/history"
	"soniq/internal/jsondoc"
	"soniq/internal/pg"
	"soniq/internal/tracecontext"
)

// jobColumns are the columns of a [Job]. A text stands in the place of arguments and
// results over most bytes. Infinite times are read as NULL, except for the due time: a job
// that is due at infinity waits, and one without a due time does not.
func jobColumns(most int) string {
	return `
  id, ` + pg.BoundedText("job_name", 2000) + `, ` + pg.BoundedJSON("args", "arguments", most) + `, ` + pg.BoundedText("coalesce(queue, 'default')", 2000) + `, coalesce(priority, 100), status,
  coalesce(attempts, 0), greatest(coalesce(max_attempts, 4), 1),
  ` + pg.BoundedTime("scheduled_at") + `,
  coalesce(` + pg.FiniteTime("created_at") + `, now()),
  coalesce(` + pg.FiniteTime("updated_at") + `, ` + pg.FiniteTime("created_at") + `, now()),
  coalesce(` + pg.BoundedText("last_error", 65536) + `, ''), ` + pg.BoundedJSON("result", "a result", most) + `, ` + pg.FiniteTime("expires_at") + `,
  coalesce(` + pg.BoundedText("producer_id", 1000) + `, ''), coalesce(` + pg.BoundedText("dedup_key", 3000) + `, ''), worker_id, replay_of, '',
  ` + pg.FiniteTime("cancel_requested_at") + `, ` + pg.BoundedHistory("errors") + `, ` + tracecontext.Column("trace_context")
}

// jobSQL reads the job with the id $1, or its dead letter.
func jobSQL(most int) string {
	return `
select` + jobColumns(most) + `
from public.soniq_jobs
where id = $1
union all
select
  id, ` + pg.BoundedText("job_name", 2000) + `, ` + pg.BoundedJSON("args", "arguments", most) + `, ` + pg.BoundedText("queue", 2000) + `, priority, 'dead_letter',
  attempts, max_attempts,
  ` + pg.BoundedTime("scheduled_at") + `,
  coalesce(` + pg.FiniteTime("original_created_at") + `, now()), coalesce(` + pg.FiniteTime("moved_to_dead_letter_at") + `, now()),
  coalesce(` + pg.BoundedText("last_error", 65536) + `, ''), null, null,
  coalesce(` + pg.BoundedText("producer_id", 1000) + `, ''), coalesce(` + pg.BoundedText("dedup_key", 3000) + `, ''), worker_id, replay_of, dead_letter_reason, null, ` + pg.BoundedHistory("errors") + `, ` + tracecontext.Column("trace_context") + `
from public.soniq_dead_letter_jobs
where id = $1
limit 1`
}

// Job returns the job with this id. A dead letter is returned too, with the Status
// [StatusDeadLetter].
//
// Errors: [ErrJobNotFound]; else those of the database.
func (c *Client) Job(ctx context.Context, id uuid.UUID) (*Job, error) {
	return readJob(ctx, c.pool, id)
}

func readJob(ctx context.Context, db pg.Querier, id uuid.UUID) (*Job, error) {
	job, err := scanJob(db.QueryRow(ctx, jobSQL(pg.SingleBytes), id))
	if pg.IsTooLarge(err) {
		job, err = scanJob(db.QueryRow(ctx, jobSQL(pg.PlainBytes), id))
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrJobNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read job: %w", err)
	}
	return job, nil
}

const openJobsSQL = `
select id, status
from public.soniq_jobs
where id = any ($1)
  and status in ('queued', 'processing')`

// OpenJobs returns those of the jobs that have not ended, with their status:
// [StatusQueued] or [StatusProcessing]. One statement reads them all, and nothing
// else of them: it is for programs that wait for the end of many jobs.
//
// Errors: those of the database.
func (c *Client) OpenJobs(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]JobStatus, error) {
	open := make(map[uuid.UUID]JobStatus, len(ids))
	rows, _ := c.pool.Query(ctx, openJobsSQL, pg.IDs(ids))
	var id uuid.UUID
	var status JobStatus
	if _, err := pgx.ForEachRow(rows, []any{pg.ScanID(&id), &status}, func() error {
		open[id] = status
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read open jobs: %w", err)
	}
	return open, nil
}

// scanJob reads a row of jobColumns.
func scanJob(row pgx.Row) (*Job, error) {
	var j Job
	var failures []byte
	err := row.Scan(
		&j.ID, &j.Name, (*[]byte)(&j.Args), &j.Queue, &j.Priority, &j.Status,
		&j.Attempts, &j.MaxAttempts, &j.ScheduledAt,
		&j.CreatedAt, &j.UpdatedAt,
		&j.LastError, (*[]byte)(&j.Result), &j.ExpiresAt,
		&j.ProducerID, &j.DedupKey, &j.WorkerID, &j.ReplayOf, &j.DeadLetterReason,
		&j.CancelRequestedAt, &failures, &j.TraceContext,
	)
	j.Args, j.Result = jsondoc.Shown(j.Args, "arguments"), jsondoc.Shown(j.Result, "a result")
	j.Errors = history.Decode(failures)
	j.inUTC()
	return &j, err
}
