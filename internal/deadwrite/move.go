// Package deadwrite moves jobs from soniq_jobs to soniq_dead_letter_jobs: the half
// of the dead letters that package engine writes. Each move is one statement, which
// deletes there and inserts here. A trigger on the insert announces the dead letter.
//
//	Move           jobs that a worker has claimed and that failed
//	MoveQueued     jobs that wait in the queue
//	MoveByHand     the same for a person, with a record of who and why
//	MoveAbandoned  a job whose worker is gone
package deadwrite

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter/classify"
	"soniq/internal/byindex"
	"soniq/internal/history"
	"soniq/internal/pg"
	"soniq/internal/tracecontext"
)

// A Death is a claimed job that won't run again.
type Death struct {
	// ID is the job's.
	ID uuid.UUID
	// Attempts and Token are those of the claim whose attempt failed. The job is
	// moved only while it is still under that claim.
	Attempts int
	Token    int64
	// Verdict is what classify.Decide made of the failure. It must have a Reason.
	Verdict classify.Verdict
	// Failure is the attempt's entry in the job's history. It is nil for a job whose
	// attempts were used up when it was claimed.
	Failure *classify.Failure
}

// keptErrors is NULL for a history that is larger than any that Soniq writes: jsonb
// can't hold one of nearly 256 MB and an entry more.
const keptErrors = "case when pg_column_size(g.errors) <= 262144 then g.errors end"

// The insert that all moves end with. It reads a relation 'gone': the columns of
// soniq_jobs, the verdict's, and 'failure', the last entry of the history.
//
// It reads a NULL as the worker reads it. moved_to_dead_letter_at is the clock's
// time and not the transaction's, so that a job which dies twice in one transaction
// is announced twice.
//
// replay_of is set only if that dead letter also names this job as its replay:
// whoever may enqueue can make a job that claims to be a replay.
//
// The id can exist already, because somebody put a dead job back by hand, or chose
// the id of another dead letter for a job in order to overwrite it: ids are
// announced on the channel. The dead letter that exists stays as it is, and this
// one gets an id of its own. (It isn't looked up by 'exists', for which the planner
// might read the whole table.)
var insertGone = `, letter as materialized (
  select g.*, case
    when (select true from public.soniq_dead_letter_jobs p where p.id = g.id) then gen_random_uuid() else g.id
  end as letter_id
  from gone g
), moved as (
insert into public.soniq_dead_letter_jobs (
  id, job_name, whole_job_name, whole_queue, args, queue, priority, max_attempts, attempts,
  last_error, dead_letter_reason, original_created_at, moved_to_dead_letter_at,
  replay_of, error_kind, error_type, error_code, decided_by, fingerprint,
  args_hash, unique_job, dedup_key, producer_id, worker_id, scheduled_at, errors, trace_context
)
select
  g.letter_id, ` + pg.IndexedText("g.job_name") + `, ` + pg.WholeText("g.job_name") + `, ` + pg.WholeText("g.queue") + `, g.args,
  ` + pg.IndexedText("coalesce(g.queue, 'default')") + `, coalesce(g.priority, 100),
  greatest(coalesce(g.max_attempts, 4), 1), coalesce(g.attempts, 0),
  coalesce(nullif(g.message, ''), g.last_error), g.reason,
  coalesce(g.created_at, now()), clock_timestamp(),
  (
    select p.id
    from public.soniq_dead_letter_jobs p
    where p.id = g.replay_of
      and p.state = 'replaying'
      and p.replay_job_id = g.id
  ),
  nullif(g.error_kind, ''), nullif(g.error_type, ''),
  nullif(g.error_code, ''), nullif(g.decided_by, ''), nullif(g.fingerprint, ''),
  g.args_hash, g.unique_job, g.dedup_key, g.producer_id, g.worker_id, g.scheduled_at,
  ` + history.Add(keptErrors, "g.failure::jsonb") + `, ` + tracecontext.Column("g.trace_context") + `
from letter g
returning id
)`

// The ids of the jobs that were moved.
const selectMoved = `
select l.id
from letter l`

// $1 the worker, $2 to $4 the claims, $5 to $11 their verdicts, $12 their
// failures.
var moveSQL = `
with death as (
  select *
  from unnest(
    (select $2::uuid[]), (select $3::integer[]), (select $4::bigint[]),
    (select $5::text[]), (select $6::text[]), (select $7::text[]), (select $8::text[]), (select $9::text[]),
    (select $10::text[]), (select $11::text[]),
    (select $12::text[])
  ) as u (
    id, attempts, token,
    reason, message, error_kind, error_type, error_code, decided_by, fingerprint,
    failure
  )
), gone as (
  delete from public.soniq_jobs j
  using death u
  where j.id = u.id
    and (j.status = 'processing' and j.worker_id = $1) is true
    and j.attempts = u.attempts
    and j.claim_token = u.token
  returning
    j.*,
    u.reason, u.message, u.error_kind, u.error_type, u.error_code, u.decided_by, u.fingerprint,
    u.failure
)` + insertGone + selectMoved

// Move moves jobs that the worker has claimed to the dead letters.
//
// It returns the ids that it moved, in the order of deaths. A job that is missing
// among them is no longer under the claim: another worker has it, or it is gone.
//
// Errors: those of the database, and of a verdict without a reason. Nothing is moved
// then.
func Move(ctx context.Context, db pg.Querier, worker uuid.UUID, deaths []Death) (moved []uuid.UUID, err error) {
	if len(deaths) == 0 {
		return nil, nil
	}
	ids := make([]uuid.UUID, len(deaths))
	attempts := make([]int, len(deaths))
	tokens := make([]int64, len(deaths))
	verdicts := newVerdictColumns(len(deaths))
	failures := make([]*string, len(deaths))
	for i, d := range deaths {
		ids[i], attempts[i], tokens[i], failures[i] = d.ID, d.Attempts, d.Token, history.JSON(d.Failure)
		if err := verdicts.set(i, d.Verdict); err != nil {
			return nil, fmt.Errorf("move job %s to dead letters: %w", d.ID, err)
		}
	}
	args := []any{worker, pg.IDs(ids), attempts, tokens}
	for _, column := range verdicts {
		args = append(args, column)
	}
	args = append(args, failures)
	err = pg.Again(ctx, db, func(db pg.Querier) (err error) {
		// The settings of byindex would stay with a transaction of the caller's.
		query := db.Query
		switch pool := db.(type) {
		case *pgxpool.Pool, *pg.Pool:
			query = func(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
				return byindex.QueryPatient(ctx, pool.(byindex.Batcher), byindex.LockPatience, sql, args...)
			}
		}
		rows, err := query(ctx, moveSQL, args...)
		if err != nil {
			return err
		}
		moved, err = pg.CollectIDs(rows)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("move to dead letters: %w", err)
	}
	return inOrder(ids, moved), nil
}

var moveQueuedSQL = goneQueued + insertGone + selectMoved

// $9 the action, $10 the actor, $11 the comment. The record is one with the move, so
// that a move without one can't be.
var moveByHandSQL = goneQueued + insertGone + `, recorded as (
  insert into public.soniq_dead_letter_audit (dead_letter_id, action, actor, comment, because)
  select l.letter_id, $9, nullif($10, ''), nullif($11, ''), nullif($11, '')
  from letter l
)` + selectMoved

// A relation 'gone' of queued jobs. $1 the ids, $2 to $8 the verdict of all of them. A row
// that is locked is about to run or to change: it is left alone.
const goneQueued = `
with picked as (
  select j.id
  from public.soniq_jobs j
  where j.id = any($1)
    and j.status = 'queued'
  order by j.id
  for update skip locked
), gone as (
  delete from public.soniq_jobs j
  using picked p
  where j.id = p.id
    and j.status = 'queued'
  returning
    j.*,
    $2::text as reason, $3::text as message,
    $4::text as error_kind, $5::text as error_type, $6::text as error_code,
    $7::text as decided_by, $8::text as fingerprint,
    null as failure
)`

// MoveQueued moves jobs that wait in the queue to the dead letters, for verdicts that
// no attempt has led to: JobNotFound and ManualMove. Where the verdict has no
// Message, the job keeps its last error.
//
// It returns the ids that it moved, in the order of ids. A job that is missing among
// them is gone, no longer queued, or locked at this moment.
//
// Errors: those of the database, and of a verdict without a reason. Nothing is moved
// then.
func MoveQueued(ctx context.Context, db pg.Querier, ids []uuid.UUID, v classify.Verdict) (moved []uuid.UUID, err error) {
	return moveQueued(ctx, db, moveQueuedSQL, ids, v)
}

// ActionBury is the action of the record of [MoveByHand].
const ActionBury = "bury"

// MoveByHand is [MoveQueued] for a person, whose name and reason, or empty, are in the
// record that each dead letter gets.
//
// Errors: those of MoveQueued.
func MoveByHand(ctx context.Context, db pg.Querier, ids []uuid.UUID, v classify.Verdict, actor, comment string) (moved []uuid.UUID, err error) {
	return moveQueued(ctx, db, moveByHandSQL, ids, v, ActionBury, actor, comment)
}

func moveQueued(ctx context.Context, db pg.Querier, sql string, ids []uuid.UUID, v classify.Verdict, more ...any) (moved []uuid.UUID, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	verdict := newVerdictColumns(1)
	if err := verdict.set(0, v); err != nil {
		return nil, fmt.Errorf("move queued jobs to dead letters: %w", err)
	}
	args := []any{ids}
	for _, column := range verdict {
		args = append(args, column[0])
	}
	args = append(args, more...)
	err = pg.Again(ctx, db, func(db pg.Querier) (err error) {
		rows, err := db.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		moved, err = pg.CollectIDs(rows)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("move queued jobs to dead letters: %w", err)
	}
	return inOrder(ids, moved), nil
}

// $1 to $3 the job and its claim, $4 to $10 the verdict, $11 the failure.
var moveAbandonedSQL = `
with gone as (
  delete from public.soniq_jobs j
  where j.id = $1
    and j.status = 'processing'
    and coalesce(j.attempts, 0) = $2
    and coalesce(j.claim_token, 0) = $3
  returning
    j.*,
    $4::text as reason, $5::text as message,
    $6::text as error_kind, $7::text as error_type, $8::text as error_code,
    $9::text as decided_by, $10::text as fingerprint,
    $11::text as failure
)` + insertGone + selectMoved

// MoveAbandoned moves a job whose worker is gone, and whose attempts are used up, to
// the dead letters. The caller has made sure that no worker runs the job, and holds
// a lock on its row. It moves the job only if its attempts and its token are those of
// the death; a job that Python claimed has the token 0.
//
// Errors: those of the database, and of a verdict without a reason.
func MoveAbandoned(ctx context.Context, tx pgx.Tx, d Death) (moved bool, err error) {
	verdict := newVerdictColumns(1)
	if err := verdict.set(0, d.Verdict); err != nil {
		return false, fmt.Errorf("move job %s to dead letters: %w", d.ID, err)
	}
	args := []any{d.ID, d.Attempts, d.Token}
	for _, column := range verdict {
		args = append(args, column[0])
	}
	tag, err := tx.Exec(ctx, moveAbandonedSQL, append(args, history.JSON(d.Failure))...)
	if err != nil {
		return false, fmt.Errorf("move to dead letters: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}

var errNoReason = errors.New("the verdict has no reason")

// verdictColumns holds verdicts as the arrays that unnest takes: reason,
// message, kind, type, code, decided by, fingerprint.
type verdictColumns [7][]string

func newVerdictColumns(n int) *verdictColumns {
	var c verdictColumns
	for i := range c {
		c[i] = make([]string, n)
	}
	return &c
}

// set makes the texts storable: the verdict may not be one of classify.Decide's, and
// one bad byte would fail the whole batch.
func (c *verdictColumns) set(i int, v classify.Verdict) error {
	if v.Reason == "" {
		return errNoReason
	}
	c[0][i] = pg.Storable(string(v.Reason), classify.MaxNameBytes)
	c[1][i] = pg.Storable(v.Message, classify.MaxErrorBytes)
	c[2][i] = pg.Storable(string(v.Kind), classify.MaxNameBytes)
	c[3][i] = pg.Storable(v.Type, classify.MaxNameBytes)
	c[4][i] = pg.Storable(v.Code, classify.MaxNameBytes)
	c[5][i] = pg.Storable(v.DecidedBy, classify.MaxNameBytes)
	c[6][i] = pg.Storable(v.Fingerprint, classify.MaxNameBytes)
	return nil
}

// inOrder returns the ids of asked that are in moved, each once.
func inOrder(asked, moved []uuid.UUID) []uuid.UUID {
	left := make(map[uuid.UUID]struct{}, len(moved))
	for _, id := range moved {
		left[id] = struct{}{}
	}
	ordered := make([]uuid.UUID, 0, len(moved))
	for _, id := range asked {
		if _, ok := left[id]; ok {
			ordered = append(ordered, id)
			delete(left, id)
		}
	}
	return ordered
}
