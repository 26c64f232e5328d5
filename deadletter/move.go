package deadletter

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/byindex"
	"soniq/internal/history"
	"soniq/internal/pg"
)

// DBTX runs a statement. A pgxpool.Pool, a pgx.Conn and a pgx.Tx are one.
type DBTX interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// A Death is a claimed job that won't run again.
type Death struct {
	// ID is the job's.
	ID uuid.UUID
	// Attempts and Token are those of the claim whose attempt failed. The job
	// moves only while it is still under that claim.
	Attempts int
	Token    int64
	// Verdict is what Classify made of the failure. It must have a Reason.
	Verdict Verdict
	// Failure is the attempt's entry in the job's history. Nil for a job that
	// died without one: its attempts were used up when it was claimed.
	Failure *Failure
}

// longName is how many bytes of a job's name, or of its queue, the indexes hold for
// sure: an entry may have 2,704 bytes, compressed, with a time and an id.
const longName = "2000"

// shortened is a text of the row g as indexes can hold it: of a longer one its
// beginning and a digest, so that two of them stay two. wholeOf is then the whole,
// else NULL, in a column without an index.
func shortened(text string) string {
	return "case when octet_length(" + text + ") <= " + longName + " then " + text +
		" else left(" + text + ", 200) || '...' || lpad(to_hex(hashtextextended(" + text + ", 0)), 16, '0') end"
}

func wholeOf(text string) string {
	return "case when octet_length(" + text + ") > " + longName + " then " + text + " end"
}

// keptErrors leaves out a history that is larger than any of ours: jsonb can't
// hold one that is nearly 256 MB and an entry more.
const keptErrors = "case when pg_column_size(g.errors) <= 262144 then g.errors end"

// The insert that all moves end with. It reads a relation 'gone': the columns
// of soniq_jobs, the verdict's, and 'failure', the last entry of the history.
//
// A NULL is read as the worker reads it. moved_to_dead_letter_at is the clock's
// time and not the transaction's, so that a job which dies twice in one
// transaction is announced twice.
//
// The row says of which dead letter it is a replay where that one says so too:
// whoever may enqueue can make a job that claims to be a replay.
//
// An id can be there already: somebody put a dead job back by hand, or, since
// whoever may enqueue can choose an id and hears those of dead letters on the
// channel, meant to write over somebody else's. So the dead letter that is there
// stays as it is, and this death has a row with an id of its own. (It is not asked
// for by 'exists', for which the planner might read all of the table.)
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
  args_hash, unique_job, dedup_key, producer_id, worker_id, scheduled_at, errors
)
select
  g.letter_id, ` + shortened("g.job_name") + `, ` + wholeOf("g.job_name") + `, ` + wholeOf("g.queue") + `, g.args,
  ` + shortened("coalesce(g.queue, 'default')") + `, coalesce(g.priority, 100),
  coalesce(g.max_attempts, 3), coalesce(g.attempts, 0),
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
  ` + history.Add(keptErrors, "g.failure::jsonb") + `
from letter g
returning id
)
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
)` + insertGone

// Move moves jobs that the worker has claimed to the dead letters, in one
// statement: delete there, insert here. The insert announces them.
//
// It returns the ids that it moved. A job that is missing among them is no
// longer under the claim: somebody else has it, or it is gone. That is no
// error. It keeps their order.
func Move(ctx context.Context, db DBTX, worker uuid.UUID, deaths []Death) (moved []uuid.UUID, err error) {
	if len(deaths) == 0 {
		return nil, nil
	}
	ids := make([]uuid.UUID, len(deaths))
	attempts := make([]int, len(deaths))
	tokens := make([]int64, len(deaths))
	verdicts := newVerdictColumns(len(deaths))
	failures := make([]*string, len(deaths))
	for i, d := range deaths {
		ids[i], attempts[i], tokens[i], failures[i] = d.ID, d.Attempts, d.Token, d.Failure.JSON()
		if err := verdicts.set(i, d.Verdict); err != nil {
			return nil, fmt.Errorf("move job %s to dead letters: %w", d.ID, err)
		}
	}
	args := []any{worker, pg.IDs(ids), attempts, tokens}
	for _, column := range verdicts {
		args = append(args, column)
	}
	args = append(args, failures)
	// The settings of byindex would stay with a transaction of the caller's.
	query := db.Query
	switch pool := db.(type) {
	case *pgxpool.Pool, *pg.Pool:
		query = func(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
			return byindex.Query(ctx, pool.(byindex.Batcher), sql, args...)
		}
	}
	rows, err := query(ctx, moveSQL, args...)
	if err != nil {
		return nil, fmt.Errorf("move to dead letters: %w", err)
	}
	moved, err = pg.CollectIDs(rows)
	if err != nil {
		return nil, fmt.Errorf("move to dead letters: %w", err)
	}
	return inOrder(ids, moved), nil
}

// $1 the ids, $2 to $8 the verdict, which all of them share. A row that
// somebody holds is about to run or to change: it is left alone.
var moveQueuedSQL = `
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
)` + insertGone

// MoveQueued moves jobs that wait in the queue to the dead letters, for
// verdicts that no attempt has led to: JobNotFound and ManualMove. Where the
// verdict has no Message, the job keeps the last error it had.
//
// It returns the ids that it moved, in the order of ids. One that is missing
// among them is gone, no longer queued, or held by someone at this moment.
func MoveQueued(ctx context.Context, db DBTX, ids []uuid.UUID, v Verdict) (moved []uuid.UUID, err error) {
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
	rows, err := db.Query(ctx, moveQueuedSQL, args...)
	if err != nil {
		return nil, fmt.Errorf("move queued jobs to dead letters: %w", err)
	}
	moved, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
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
)` + insertGone

// MoveAbandoned moves a job whose worker is gone, and whose attempts are used
// up, to the dead letters. The caller has seen to it that nobody runs the job,
// and holds its row. Of the claim, attempts and token must still be those; a
// job that Python claimed has the token 0.
func MoveAbandoned(ctx context.Context, tx pgx.Tx, d Death) (moved bool, err error) {
	verdict := newVerdictColumns(1)
	if err := verdict.set(0, d.Verdict); err != nil {
		return false, fmt.Errorf("move job %s to dead letters: %w", d.ID, err)
	}
	args := []any{d.ID, d.Attempts, d.Token}
	for _, column := range verdict {
		args = append(args, column[0])
	}
	tag, err := tx.Exec(ctx, moveAbandonedSQL, append(args, d.Failure.JSON())...)
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

// set makes the texts storable once more: a verdict may come from elsewhere
// than Classify, and one bad byte would fail the whole batch.
func (c *verdictColumns) set(i int, v Verdict) error {
	if v.Reason == "" {
		return errNoReason
	}
	c[0][i] = Storable(string(v.Reason), maxNameBytes)
	c[1][i] = Storable(v.Message, MaxErrorBytes)
	c[2][i] = Storable(string(v.Kind), maxNameBytes)
	c[3][i] = Storable(v.Type, maxNameBytes)
	c[4][i] = Storable(v.Code, maxNameBytes)
	c[5][i] = Storable(v.DecidedBy, maxNameBytes)
	c[6][i] = Storable(v.Fingerprint, maxNameBytes)
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
