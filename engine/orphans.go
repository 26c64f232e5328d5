package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// orphanGrace is how long after its timeout a processing job without a worker
// may still be run by someone who leaves no trace.
const orphanGrace = 10 * time.Minute

// straysSQL finds processing jobs whose worker nobody can find dead: those
// without one, and those of this worker under a token that it doesn't hold:
// claimed by a statement whose answer it never got. Parameters: $1 this
// worker, $2 the silence after which a job without a worker is an orphan, $3
// the tokens.
const straysSQL = `
select j.id, j.worker_id, j.job_name, coalesce(j.attempts, 0), coalesce(j.claim_token, 0)
from soniq_jobs j
where j.status = 'processing'
  and (
    j.worker_id is null and j.updated_at < now() - $2::interval
    or j.worker_id = $1 and j.claim_token <> all ($3::bigint[])
  )
limit 1000`

// All is asked again for the row alone, under its lock: its worker may have
// come back, or someone else may have been faster. Parameters: $1 to $3 job,
// attempts and token; $4 the dead worker's last heartbeat, NULL for a job
// without a worker; $5 the silence of such a job; $6 is false for a job whose
// unique twin is queued.
const requeueOrphanSQL = `
update soniq_jobs
set status = 'queued',
  unique_job = unique_job and $6,
  dedup_key = case when $6 then dedup_key end,
  worker_id = null,
  claim_token = null,
  updated_at = now()
where id = (
    select j.id
    from soniq_jobs j
    left join soniq_workers o on o.id = j.worker_id
    where j.id = $1
      and j.status = 'processing'
      and coalesce(j.attempts, 0) = $2
      and coalesce(j.claim_token, 0) = $3
      and (
        o.last_heartbeat = $4
        or $4::timestamptz is null and j.worker_id is null and j.updated_at < now() - $5::interval
      )
    for update of j skip locked
  )`

// orphan is a processing job that nobody runs.
type orphan struct {
	ID       uuid.UUID
	WorkerID *uuid.UUID
	Name     string
	Attempts int
	Token    int64
}

// requeue queues jobs again, one by one: a job that can't be recovered doesn't
// hold up the others. The attempt stays charged; where it was the last, the
// next claim makes the job a dead letter.
func (w *Worker) requeue(ctx context.Context, orphans []orphan, heartbeat *time.Time) error {
	var errs []error
	for _, o := range orphans {
		requeue := func(unique bool) (bool, error) {
			tag, err := w.pool.Exec(ctx, requeueOrphanSQL, o.ID, o.Attempts, o.Token, heartbeat, w.strayAfter(), unique)
			return tag.RowsAffected() > 0, err
		}
		requeued, err := requeue(true)
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && pgErr.Code == "23505" {
			requeued, err = requeue(false)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("requeue job %s: %w", o.ID, err))
			if !isDataError(err) {
				break
			}
		}
		if requeued {
			w.logger.Warn("the worker of a job is dead; the job is queued again",
				"job", o.ID, "name", o.Name, "attempt", o.Attempts, "dead_worker", o.WorkerID)
		}
	}
	return errors.Join(errs...)
}

// strayAfter is the silence after which a job without a worker is an orphan.
func (w *Worker) strayAfter() time.Duration { return plus(w.longestTimeout(), orphanGrace) }

// recoverStrays queues again the jobs that have no worker to be missed.
func (w *Worker) recoverStrays(ctx context.Context) error {
	rows, _ := w.pool.Query(ctx, straysSQL, w.id, w.strayAfter(), w.tokens())
	strays, err := pgx.CollectRows(rows, pgx.RowToStructByPos[orphan])
	if err != nil {
		return fmt.Errorf("find orphans: %w", err)
	}
	var orphans, unanswered []orphan
	for _, o := range strays {
		if o.WorkerID == nil {
			orphans = append(orphans, o)
		} else {
			unanswered = append(unanswered, o)
		}
	}
	return errors.Join(w.requeue(ctx, orphans, nil), w.releaseUnanswered(ctx, unanswered))
}

// releaseUnanswered gives back, uncharged, the jobs of claims that the database
// committed and whose answer was lost with the connection. To everyone else
// they look as if they ran here.
func (w *Worker) releaseUnanswered(ctx context.Context, orphans []orphan) error {
	var releases []Outcome
	held := w.tokens()
	for _, o := range orphans {
		// Claimed since we asked for the tokens. (One that was settled since
		// is no longer under its token in the database.)
		if slices.Contains(held, o.Token) {
			continue
		}
		job := &Job{ID: o.ID, Name: o.Name, Attempts: o.Attempts, token: o.Token}
		releases = append(releases, Outcome{Job: job, Kind: OutcomeReleased})
	}
	s := &settler{pool: w.pool, worker: w.id, logger: w.logger, settled: func(_ context.Context, o Outcome) {
		if o.Kind == OutcomeReleased {
			w.logger.Warn("the answer to a claim was lost; the job is queued again", "job", o.Job.ID, "name", o.Job.Name)
		}
	}}
	if err := s.write(ctx, releases); err != nil {
		return fmt.Errorf("release jobs of unanswered claims: %w", err)
	}
	return nil
}

// hold adds n, which may be negative, to what is held under a token.
func (w *Worker) hold(token int64, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held[token] += n
	if w.held[token] == 0 {
		delete(w.held, token)
	}
}

// tokens returns those that are held.
func (w *Worker) tokens() []int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	// Never nil: that would be NULL, and 'all' of it is unknown.
	return slices.AppendSeq(make([]int64, 0, len(w.held)), maps.Keys(w.held))
}

// longestTimeout is that of any job here; 0 if none is bounded.
func (w *Worker) longestTimeout() time.Duration {
	longest := max(w.config.JobTimeout, 0)
	for _, h := range w.registry.handlers {
		longest = max(longest, h.timeout)
	}
	return longest
}
