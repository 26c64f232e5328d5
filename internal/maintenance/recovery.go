package maintenance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"soniq/deadletter/classify"
	"soniq/internal/deadwrite"
	"soniq/internal/history"
	"soniq/internal/pg"
	"soniq/internal/settle"
	"soniq/internal/tracecontext"
)

// orphanGrace is how long after its timeout a processing job without a worker may
// still be run by a worker that leaves no trace.
const orphanGrace = 10 * time.Minute

// longName is how many bytes of a name, a queue or a key an index holds for sure: an
// entry may have 2,704, compressed.
const longName = `2000`

// Recovery frees processing jobs that nobody runs.
type Recovery struct {
	config  Config
	refused refusals
}

// orphanColumns are what an orphan is read from. The time of its claim is that of its
// last update: only its end updates a processing row again. Texts are cut: a producer
// may have written anything.
var orphanColumns = `
  j.id, j.worker_id, case when length(left(j.job_name, 501)) > 500 then regexp_replace(left(j.job_name, 500), ` + pg.LastWord + `, '') else j.job_name end, coalesce(j.attempts, 0), greatest(coalesce(j.max_attempts, 4), 1),
  coalesce(j.claim_token, 0), coalesce(left(j.last_error, 500), ''), j.cancel_requested_at is not null,
  case when isfinite(j.updated_at) then j.updated_at end, clock_timestamp(),
  octet_length(j.queue) > ` + longName + `, left(` + pg.JobQueue + `, 500), ` + tracecontext.Column("j.trace_context")

// orphan is a processing job that nobody runs.
type orphan struct {
	ID                    uuid.UUID
	WorkerID              *uuid.UUID
	Name                  string
	Attempts, MaxAttempts int
	Token                 int64
	// LastError is its beginning.
	LastError       string
	CancelRequested bool
	ClaimedAt       *time.Time
	FoundAt         time.Time
	// LongQueue: the index of claims may not hold the queue's name.
	LongQueue    *bool
	Queue        string
	TraceContext tracecontext.Context
}

// attrs are those of a log record about it.
func (o *orphan) attrs(more ...any) []any {
	attrs := append([]any{"job", o.ID, "job_name", o.Name}, more...)
	return tracecontext.Attrs(o.TraceContext.TraceID(), append(attrs, "dead_worker", o.WorkerID)...)
}

// crashed is the verdict on an attempt that ended with its worker.
func (o *orphan) crashed() classify.Verdict {
	return classify.Decide(classify.Attempt{
		JobName: o.Name, Attempt: o.Attempts, MaxAttempts: o.MaxAttempts, Kind: classify.KindCrash,
	})
}

// death is the verdict on a job that does not go back to its queue, and the message
// for the log. The dead letter keeps the error that the job had before, which says
// more.
func (o *orphan) death() (v classify.Verdict, message string) {
	v = o.crashed()
	if v.Retry {
		v.Retry, v.Reason = false, classify.PermanentFailure
		v.Message = "the worker died, and the name of the queue is too long for the job to be queued again"
		return v, v.Message
	}
	if o.LastError != "" {
		// Without a message in the verdict, the move keeps the whole error.
		message, v.Message = o.LastError, ""
		return v, message
	}
	return v, v.Message
}

// isLast reports whether there is no further attempt.
func (o *orphan) isLast() bool {
	return o.Attempts >= o.MaxAttempts && !o.CancelRequested || o.LongQueue != nil && *o.LongQueue
}

func (o *orphan) failure() *classify.Failure {
	return history.Entry(o.Attempts, o.WorkerID, o.ClaimedAt, o.FoundAt, o.crashed())
}

// WorkersJobsSQL finds the processing jobs of a worker. Parameters: $1 the worker, $2
// how many.
var WorkersJobsSQL = `
select` + orphanColumns + `
from public.soniq_jobs j
where j.worker_id = $1
  and j.status = 'processing'
limit $2`

// OfWorker recovers the jobs of a dead worker whose last heartbeat was this one.
//
// Errors: those of the database.
func (r *Recovery) OfWorker(ctx context.Context, db pg.Session, worker uuid.UUID, heartbeat time.Time) error {
	rows, _ := db.Query(ctx, WorkersJobsSQL, worker, r.refused.begin())
	jobs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[orphan])
	if err != nil {
		return fmt.Errorf("find the jobs of a dead worker: %w", err)
	}
	_, err = r.recoverAll(ctx, db, jobs, &heartbeat)
	return err
}

// OrphansSQL finds processing jobs whose worker nobody can find dead. They have no
// worker, or its row was deleted. Or they are this worker's under a token that isn't
// live: the answer to their claim was lost. (A claim counts the attempt: a row without
// attempts is of none, whatever it says.) Parameters: $1 this worker, $2 the silence
// after which a job without a worker is an orphan, $3 the live tokens, $4 how many.
var OrphansSQL = `
select` + orphanColumns + `
from public.soniq_jobs j
where j.status = 'processing'
  and (
    j.updated_at < now() - $2::interval
      and not exists (select from public.soniq_workers o where o.id = j.worker_id)
    or j.worker_id = $1 and j.claim_token <> all ($3::bigint[]) and j.attempts is not null
  )
limit $4`

// Orphans queues the jobs again that no worker can be found dead for: all of them, as
// far as its time allows.
//
// Errors: those of the database.
func (r *Recovery) Orphans(ctx context.Context) error {
	c := r.config
	for begun := time.Now(); ; {
		most := r.refused.begin()
		rows, _ := c.Pool.Query(ctx, OrphansSQL, c.Worker, r.orphanAfter(), c.Tokens(), most)
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[orphan])
		if err != nil {
			return fmt.Errorf("find orphans: %w", err)
		}
		var orphans, unanswered []orphan
		for _, o := range found {
			if o.WorkerID != nil && *o.WorkerID == c.Worker {
				unanswered = append(unanswered, o)
			} else {
				orphans = append(orphans, o)
			}
		}
		recovered, err := r.recoverAll(ctx, c.Pool, orphans, nil)
		released, releaseErr := r.release(ctx, unanswered)
		err = errors.Join(err, releaseErr)
		// If nothing came of it, the same rows would be found again.
		if err != nil || len(found) < most || recovered+released == 0 || time.Since(begun) > passPatience {
			return err
		}
	}
}

// release gives back, without charging the attempt, the jobs of claims that the
// database committed and whose answer was lost with the connection. To everybody else
// they look as if they ran here. It returns how many there were.
func (r *Recovery) release(ctx context.Context, orphans []orphan) (released int, err error) {
	var claims []Claim
	live := r.config.Tokens()
	for _, o := range orphans {
		// This one was claimed since the tokens were read. (One that was settled since is
		// no longer under its token in the database.)
		if slices.Contains(live, o.Token) {
			continue
		}
		claims = append(claims, Claim{ID: o.ID, Name: o.Name, Queue: o.Queue, Attempts: o.Attempts, Token: o.Token, TraceContext: o.TraceContext})
	}
	if released, err = r.config.Release(ctx, claims); err != nil {
		return released, fmt.Errorf("release jobs of unanswered claims: %w", err)
	}
	return released, nil
}

// recoverAll queues jobs again, or moves them to the dead letters if their attempts are
// used up, and returns how many. It works one by one: a job that can't be recovered
// doesn't stop the others. The attempt stays charged, and the history has the crash.
func (r *Recovery) recoverAll(ctx context.Context, db pg.Session, orphans []orphan, heartbeat *time.Time) (recovered int, err error) {
	var errs []error
	waits, kept := 0, r.kept(ctx, db, orphans)
	for i := range orphans {
		o := &orphans[i]
		if r.refused.skips(o.ID) {
			continue
		}
		if _, own := r.config.AttemptLimits[o.Name]; !own {
			o.MaxAttempts = min(o.MaxAttempts, r.config.AttemptLimit)
		}
		var done bool
		var err error
		var kind settle.Kind
		if outcome, ok := settle.Keeps(kept[o.ID], o.Token); ok && o.WorkerID != nil {
			done, err = r.writeKept(ctx, o, outcome)
		} else if o.isLast() {
			kind = settle.DeadLetter
			done, err = r.moveOrphan(ctx, db, o, heartbeat)
		} else {
			// Its requeue cancels a job whose cancellation was requested.
			kind = settle.Retry
			done, err = r.requeueOrphan(ctx, db, o, heartbeat, &waits)
		}
		if done {
			recovered++
			if r.config.Recovered != nil {
				r.config.Recovered(ctx, Recovered{ID: o.ID, Name: o.Name, Queue: o.Queue, Kind: kind, TraceContext: o.TraceContext})
			}
		}
		switch {
		case err == nil:
			r.refused.succeeded(o.ID)
			continue
		case !isRefusal(err):
			return recovered, errors.Join(append(errs, fmt.Errorf("recover job %s: %w", o.ID, err))...)
		case r.refused.add(o.ID, err):
			r.config.Logger.Error("the database refuses to recover a job; it is skipped",
				o.attrs("error", err, "remedy", pg.Remedy(err))...)
		}
		errs = append(errs, fmt.Errorf("recover job %s: %w", o.ID, err))
		if r.refused.stuck() {
			break
		}
	}
	return recovered, errors.Join(errs...)
}

// kept returns the outcomes, by job, that the workers of orphans have left. Without the
// right to read them there are none: the jobs are recovered like any other.
func (r *Recovery) kept(ctx context.Context, db pg.Session, orphans []orphan) map[uuid.UUID]json.RawMessage {
	if len(orphans) == 0 {
		return nil
	}
	ids, tokens := make([]uuid.UUID, len(orphans)), make([]int64, len(orphans))
	for i, o := range orphans {
		ids[i], tokens[i] = o.ID, o.Token
	}
	kept := map[uuid.UUID]json.RawMessage{}
	rows, _ := db.Query(ctx, settle.KeptSQL, ids, tokens)
	var id uuid.UUID
	var outcome json.RawMessage
	if _, err := pgx.ForEachRow(rows, []any{&id, &outcome}, func() error {
		kept[id] = slices.Clone(outcome)
		return nil
	}); err != nil && !pg.IsCode(err, pg.InsufficientPrivilege) {
		r.config.Logger.Warn("can't read the outcomes that dead workers have left", "error", err)
	}
	return kept
}

// writeKept writes the outcome that the worker of a job has left, instead of running the
// job again.
func (r *Recovery) writeKept(ctx context.Context, o *orphan, kept settle.Kept) (written bool, err error) {
	outcome := settle.Outcome{ID: o.ID, Attempts: o.Attempts, Name: o.Name}
	if o.ClaimedAt != nil {
		outcome.ClaimedAt = *o.ClaimedAt
	}
	written, err = settle.WriteKept(ctx, r.config.Pool, r.config.Logger, r.config.ResultTTL, *o.WorkerID, outcome, kept)
	if written {
		r.config.Logger.Warn("the outcome of a job is written, which the database had refused to its worker",
			o.attrs("attempt", o.Attempts, "outcome", string(kept.Kind))...)
	}
	return written, err
}

// stillOrphan finds and locks the row of an orphan: its worker may have come back, or
// another may have been faster. Parameters: $1 to $3 job, attempts and token; $4 the
// dead worker's last heartbeat, NULL for a job without a worker; $5 the silence of
// such a job.
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

// RequeueOrphanSQL queues an orphan again. What the unique indexes can't hold is not
// unique. Parameters: those of stillOrphan; $6 is false for a job whose unique twin is
// queued; $7 is the history's entry.
func RequeueOrphanSQL() string { return requeueOrphanSQL }

var requeueOrphanSQL = `
update public.soniq_jobs
set status = 'queued',
  unique_job = unique_job and $6 and octet_length(job_name) + octet_length(coalesce(args_hash, '')) <= ` + longName + `,
  dedup_key = case when $6 and octet_length(dedup_key) <= ` + longName + ` then dedup_key end,
  errors = ` + history.Add("case when pg_column_size(errors) <= 262144 then errors end", "$7::jsonb") + `,
  scheduled_at = ` + pg.JobDueAgain("soniq_jobs") + `,
  worker_id = null,
  claim_token = null,
  updated_at = now()
where id = (` + stillOrphan + `
  )`

// patienceSQL limits the transaction that it begins. Parameters: $1 each wait for a
// lock, $2 each statement.
const patienceSQL = `select set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true)`

func patienceArgs(lock time.Duration) []any {
	milliseconds := func(d time.Duration) string { return fmt.Sprintf("%dms", d.Milliseconds()) }
	return []any{milliseconds(lock), milliseconds(rowPatience)}
}

// requeueOrphan counts in waits the locks that this pass has waited for in vain.
func (r *Recovery) requeueOrphan(ctx context.Context, db pg.Session, o *orphan, heartbeat *time.Time, waits *int) (requeued bool, err error) {
	requeue := func(unique bool) (bool, error) {
		patience := keyPatience
		if unique && *waits >= keyWaits {
			patience = hurriedPatience
		}
		var batch pgx.Batch
		batch.Queue(patienceSQL, patienceArgs(patience)...)
		var tag pgconn.CommandTag
		batch.Queue(requeueOrphanSQL, o.ID, o.Attempts, o.Token, heartbeat, r.orphanAfter(), unique,
			history.JSON(o.failure())).Exec(func(ct pgconn.CommandTag) error {
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
		// Its unique twin is queued, or inserted by a transaction that doesn't commit.
		requeued, err = requeue(false)
	}
	if requeued {
		r.config.Logger.Warn("the worker of a job is dead; the job is queued again",
			o.attrs("attempt", o.Attempts)...)
	}
	return requeued, err
}

// moveOrphan makes a dead letter of a job whose last attempt ended with its worker: it
// need not be claimed once more for that.
func (r *Recovery) moveOrphan(ctx context.Context, db pg.Session, o *orphan, heartbeat *time.Time) (moved bool, err error) {
	verdict, message := o.death()
	err = pg.InTx(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, patienceSQL, patienceArgs(keyPatience)...); err != nil {
			return err
		}
		var id uuid.UUID
		err := tx.QueryRow(ctx, stillOrphan, o.ID, o.Attempts, o.Token, heartbeat, r.orphanAfter()).Scan(&id)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		moved, err = deadwrite.MoveAbandoned(ctx, tx, deadwrite.Death{
			ID: o.ID, Attempts: o.Attempts, Token: o.Token, Verdict: verdict, Failure: o.failure(),
		})
		return err
	})
	if err != nil {
		return false, err
	}
	if moved {
		deadwrite.Dead{
			ID: o.ID, JobName: o.Name, Queue: o.Queue, Attempts: o.Attempts, MaxAttempts: o.MaxAttempts, Verdict: verdict, Message: message,
		}.Log(r.config.Logger, tracecontext.Attrs(o.TraceContext.TraceID(), "dead_worker", o.WorkerID)...)
	}
	return moved, nil
}

// orphanAfter is the silence after which a job without a worker is an orphan.
func (r *Recovery) orphanAfter() time.Duration { return plus(r.config.LongestTimeout, orphanGrace) }
