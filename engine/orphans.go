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

	"soniq/deadletter"
	"soniq/internal/history"
	"soniq/internal/pg"
)

// orphanGrace is how long after its timeout a processing job without a worker
// may still be run by someone who leaves no trace.
const orphanGrace = 10 * time.Minute

// longName is how many bytes of a name, a queue or a key the indexes hold for
// sure: an entry may have 2,704, compressed.
const longName = `2000`

// straysSQL finds processing jobs whose worker nobody can find dead: those
// without one, or with one whose row somebody deleted, and those of this worker under a token that it doesn't hold:
// claimed by a statement whose answer it never got. (A claim counts the attempt:
// a row without any is none of its, whatever it says.) Parameters: $1 this
// worker, $2 the silence after which a job without a worker is an orphan, $3
// the tokens, $4 how many.
const straysSQL = `
select` + orphanColumns + `
from public.soniq_jobs j
where j.status = 'processing'
  and (
    j.updated_at < now() - $2::interval
      and not exists (select from public.soniq_workers o where o.id = j.worker_id)
    or j.worker_id = $1 and j.claim_token <> all ($3::bigint[]) and j.attempts is not null
  )
limit $4`

// orphanColumns are what an orphan is read from. Its claim's time is that of
// its last update: nothing else updates a processing row but for its end. Texts
// are cut: a producer may have written anything.
const orphanColumns = `
  j.id, j.worker_id, left(j.job_name, 500), coalesce(j.attempts, 0), coalesce(j.max_attempts, 3),
  coalesce(j.claim_token, 0), coalesce(left(j.last_error, 500), ''), j.cancel_requested_at is not null,
  case when isfinite(j.updated_at) then j.updated_at end, clock_timestamp(),
  octet_length(j.queue) > ` + longName

// orphan is a processing job that nobody runs.
type orphan struct {
	ID                    uuid.UUID
	WorkerID              *uuid.UUID
	Name                  string
	Attempts, MaxAttempts int
	Token                 int64
	// LastError is the beginning of it.
	LastError       string
	CancelRequested bool
	ClaimedAt       *time.Time
	FoundAt         time.Time
	// LongQueue is of a queue that the index of claims may not hold.
	LongQueue *bool
}

// stillOrphan finds the row alone, under its lock: its worker may have come
// back, or someone else may have been faster. Parameters: $1 to $3 job,
// attempts and token; $4 the dead worker's last heartbeat, NULL for a job
// without a worker; $5 the silence of such a job.
const stillOrphan = `
    select j.id
    from public.soniq_jobs j
    left join public.soniq_workers o on o.id = j.worker_id
    where j.id = $1
      and j.status = 'processing'
      and coalesce(j.attempts, 0) = $2
      and coalesce(j.claim_token, 0) = $3
      and (
        o.last_heartbeat = $4
        or $4::timestamptz is null and o.id is null and j.updated_at < now() - $5::interval
      )
    for update of j skip locked`

// $6 is false for a job whose unique twin is queued; $7 is the history's entry.
// What the unique indexes could not hold is not unique.
var requeueOrphanSQL = `
update public.soniq_jobs
set status = 'queued',
  unique_job = unique_job and $6 and octet_length(job_name) + octet_length(coalesce(args_hash, '')) <= ` + longName + `,
  dedup_key = case when $6 and octet_length(dedup_key) <= ` + longName + ` then dedup_key end,
  errors = ` + history.Add("case when pg_column_size(errors) <= 262144 then errors end", "$7::jsonb") + `,
  worker_id = null,
  claim_token = null,
  updated_at = now()
where id = (` + stillOrphan + `
  )`

// crashed is the verdict on an attempt that ended with its worker.
func (o *orphan) crashed() deadletter.Verdict {
	return deadletter.Classify(deadletter.Attempt{
		JobName: o.Name, Attempt: o.Attempts, MaxAttempts: o.MaxAttempts, Kind: deadletter.KindCrash,
	})
}

// death is the verdict on a job that does not go back to its queue. It keeps the
// error that it had before, which says more. message is what the log tells.
func (o *orphan) death() (v deadletter.Verdict, message string) {
	v = o.crashed()
	if v.Retry {
		v.Retry, v.Reason = false, deadletter.PermanentFailure
		v.Message = "the worker died, and the name of the queue is too long for the job to be queued again"
		return v, v.Message
	}
	if o.LastError != "" {
		// The move keeps it, whole, where the verdict has no message.
		message, v.Message = o.LastError, ""
		return v, message
	}
	return v, v.Message
}

// isLast says that there is no further attempt.
func (o *orphan) isLast() bool {
	return o.Attempts >= o.MaxAttempts && !o.CancelRequested || o.LongQueue != nil && *o.LongQueue
}

func (o *orphan) failure() *deadletter.Failure {
	return deadletter.NewFailure(o.Attempts, o.WorkerID, o.ClaimedAt, o.FoundAt, o.crashed())
}

// recoverJobs queues jobs again, or moves those to the dead letters whose attempts
// are used up, and returns how many. One by one: a job that can't be recovered
// doesn't hold up the others. The attempt stays charged, and the history tells of
// the crash.
func (w *Worker) recoverJobs(ctx context.Context, db session, orphans []orphan, heartbeat *time.Time) (recovered int, err error) {
	var errs []error
	waits := 0
	for i := range orphans {
		o := &orphans[i]
		if w.unrecovered.passes(o.ID) {
			continue
		}
		if _, own := w.claims.limits[o.Name]; !own {
			o.MaxAttempts = min(o.MaxAttempts, w.config.MaxAttemptsLimit)
		}
		var done bool
		var err error
		if o.isLast() {
			done, err = w.buryOrphan(ctx, db, o, heartbeat)
		} else {
			// A job that someone wants cancelled is cancelled by its requeue.
			done, err = w.requeueOrphan(ctx, db, o, heartbeat, &waits)
		}
		if done {
			recovered++
		}
		switch {
		case err == nil:
			w.unrecovered.went(o.ID)
		case !isRefusal(err):
			return recovered, errors.Join(append(errs, fmt.Errorf("recover job %s: %w", o.ID, err))...)
		case w.unrecovered.refuse(o.ID, err):
			w.logger.Error("the database refuses to recover a job; it is passed over",
				"job", o.ID, "name", o.Name, "dead_worker", o.WorkerID, "error", err)
			fallthrough
		default:
			errs = append(errs, fmt.Errorf("recover job %s: %w", o.ID, err))
		}
		if w.unrecovered.stuck() {
			break
		}
	}
	return recovered, errors.Join(errs...)
}

// patienceSQL bounds the transaction that it begins: $1 its waits for a lock, $2
// each of its statements.
const patienceSQL = `select set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true)`

func patienceArgs(lock time.Duration) []any {
	milliseconds := func(d time.Duration) string { return fmt.Sprintf("%dms", d.Milliseconds()) }
	return []any{milliseconds(lock), milliseconds(rowPatience)}
}

// requeueOrphan adds to waits, which are those of the pass, where it has waited for
// a lock in vain.
func (w *Worker) requeueOrphan(ctx context.Context, db session, o *orphan, heartbeat *time.Time, waits *int) (requeued bool, err error) {
	requeue := func(unique bool) (bool, error) {
		patience := keyPatience
		if *waits >= keyWaits {
			patience = hurriedPatience
		}
		var batch pgx.Batch
		batch.Queue(patienceSQL, patienceArgs(patience)...)
		var tag pgconn.CommandTag
		batch.Queue(requeueOrphanSQL, o.ID, o.Attempts, o.Token, heartbeat, w.strayAfter(), unique,
			o.failure().JSON()).Exec(func(ct pgconn.CommandTag) error {
			tag = ct
			return nil
		})
		err := db.SendBatch(ctx, &batch).Close()
		if pg.IsCode(err, pg.LockNotAvailable) {
			*waits++
		}
		return err == nil && tag.RowsAffected() > 0, err
	}
	requeued, err = requeue(true)
	if pg.IsCode(err, pg.UniqueViolation, pg.LockNotAvailable) {
		// Its unique twin is queued, or inserted by somebody who doesn't commit.
		requeued, err = requeue(false)
	}
	if requeued {
		w.logger.Warn("the worker of a job is dead; the job is queued again",
			"job", o.ID, "name", o.Name, "attempt", o.Attempts, "dead_worker", o.WorkerID)
	}
	return requeued, err
}

// buryOrphan makes a dead letter of a job whose last attempt ended with its
// worker: nobody need claim it to find that out.
func (w *Worker) buryOrphan(ctx context.Context, db session, o *orphan, heartbeat *time.Time) (moved bool, err error) {
	verdict, message := o.death()
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, patienceSQL, patienceArgs(keyPatience)...); err != nil {
			return err
		}
		var id uuid.UUID
		err := tx.QueryRow(ctx, stillOrphan, o.ID, o.Attempts, o.Token, heartbeat, w.strayAfter()).Scan(&id)
		if err != nil {
			return ignoreNoRows(err)
		}
		moved, err = deadletter.MoveAbandoned(ctx, tx, deadletter.Death{
			ID: o.ID, Attempts: o.Attempts, Token: o.Token, Verdict: verdict, Failure: o.failure(),
		})
		return err
	})
	if err != nil {
		return false, err
	}
	if moved {
		w.logger.Warn("job is a dead letter", "job", o.ID, "name", o.Name, "attempt", o.Attempts,
			"reason", string(verdict.Reason), "error", message, "dead_worker", o.WorkerID)
	}
	return moved, nil
}

// strayAfter is the silence after which a job without a worker is an orphan.
func (w *Worker) strayAfter() time.Duration { return plus(w.longestTimeout(), orphanGrace) }

// recoverStrays queues again the jobs that have no worker to be missed: all of them,
// as far as its time allows.
func (w *Worker) recoverStrays(ctx context.Context) error {
	for begun := time.Now(); ; {
		most := w.unrecovered.most()
		rows, _ := w.pool.Query(ctx, straysSQL, w.id, w.strayAfter(), w.tokens(), most)
		strays, err := pgx.CollectRows(rows, pgx.RowToStructByPos[orphan])
		if err != nil {
			return fmt.Errorf("find orphans: %w", err)
		}
		var orphans, unanswered []orphan
		for _, o := range strays {
			if o.WorkerID != nil && *o.WorkerID == w.id {
				unanswered = append(unanswered, o)
			} else {
				orphans = append(orphans, o)
			}
		}
		recovered, err := w.recoverJobs(ctx, w.pool, orphans, nil)
		released, releaseErr := w.releaseUnanswered(ctx, unanswered)
		err = errors.Join(err, releaseErr)
		// Where nothing came of it, the same rows would be found again.
		if err != nil || len(strays) < most || recovered+released == 0 || time.Since(begun) > turnPatience {
			return err
		}
	}
}

// releaseUnanswered gives back, uncharged, the jobs of claims that the database
// committed and whose answer was lost with the connection, and returns how many. To
// everyone else they look as if they ran here.
func (w *Worker) releaseUnanswered(ctx context.Context, orphans []orphan) (released int, err error) {
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
	s := &settler{pool: w.pool, worker: w.id, logger: w.logger, batch: maxSettleBatch, settled: func(_ context.Context, o Outcome) {
		if o.Kind == OutcomeReleased {
			released++
			w.logger.Warn("the answer to a claim was lost; the job is queued again", "job", o.Job.ID, "name", o.Job.Name)
		}
	}}
	if err := s.write(ctx, releases); err != nil {
		return released, fmt.Errorf("release jobs of unanswered claims: %w", err)
	}
	return released, nil
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
