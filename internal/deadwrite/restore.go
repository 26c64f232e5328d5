package deadwrite

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
	"soniq/internal/recordfile"
)

// MostThere is how many ids [Restored] names.
const MostThere = 10

// A Provenance is what the history records of an import.
type Provenance struct {
	// Operation is the operation's id.
	Operation uuid.UUID
	// Actor and Comment are those of the person who imports, or empty.
	Actor, Comment string
}

// Restored says what became of a batch of records.
type Restored struct {
	// Imported is how many dead letters are new.
	Imported int64
	// Settled is how many of these were being replayed in the file, and are not now.
	Settled int64
	// There are the first ids that existed already, at most MostThere.
	There []uuid.UUID
}

// The beginning of a restore and of its preview: the file's rows, and what became of
// the replays that had not ended. $1 the rows.
const restoredRows = `
with file as (
  select *
  from json_to_recordset($1::json) as r (
    id uuid, job_name text, args jsonb, queue text, priority integer, max_attempts integer, attempts integer,
    last_error text, dead_letter_reason text, original_created_at timestamptz, moved_to_dead_letter_at timestamptz,
    resurrection_count integer, last_resurrection_at timestamptz, tags jsonb,
    state text, replay_job_id uuid, replay_of uuid,
    error_kind text, error_type text, error_code text, decided_by text, fingerprint text,
    args_hash text, unique_job boolean, dedup_key text, producer_id text, worker_id uuid, scheduled_at timestamptz,
    created_at timestamptz, errors jsonb
  )
), replay as (
  select j.id, j.replay_of, j.status
  from public.soniq_jobs j
  where (j.id, j.replay_of) in (select f.replay_job_id, f.id from file f where f.state = 'replaying')
  order by j.id%s
)`

// stateNow is the state of a row f of the file, whose replay is p or null.
const stateNow = `
  case
    when f.state <> 'replaying' then f.state
    when p.status in ('queued', 'processing') then 'replaying'
    when p.status = 'done' then 'resolved'
    else 'dead'
  end`

// The jobs of replays are locked, so that one which ends at this moment finds the dead
// letter that it is a replay of. The rows are in order, so that two imports at once
// don't wait for each other. moved_xid is null, so that programs which catch up by it
// skip these rows: a number of this moment would be news to all of them, and the file's
// may be another server's.
//
// $2 the operation, $3 the actor, $4 the comment, $5 the most ids.
var restoreSQL = fmt.Sprintf(restoredRows, "\n  for share") + `, restored as (
  insert into public.soniq_dead_letter_jobs (
    id, job_name, args, queue, priority, max_attempts, attempts,
    last_error, dead_letter_reason, original_created_at, moved_to_dead_letter_at,
    resurrection_count, last_resurrection_at, tags, state, replay_job_id, replay_of,
    error_kind, error_type, error_code, decided_by, fingerprint,
    args_hash, unique_job, dedup_key, producer_id, worker_id, scheduled_at,
    moved_xid, created_at, errors, whole_job_name, whole_queue
  )
  select
    f.id, ` + pg.IndexedText("f.job_name") + `, coalesce(f.args, 'null'), ` + pg.IndexedText("f.queue") + `, f.priority, f.max_attempts, f.attempts,
    nullif(f.last_error, ''), f.dead_letter_reason, f.original_created_at, f.moved_to_dead_letter_at,
    f.resurrection_count, f.last_resurrection_at, f.tags, ` + stateNow + `, f.replay_job_id, f.replay_of,
    nullif(f.error_kind, ''), nullif(f.error_type, ''), nullif(f.error_code, ''), nullif(f.decided_by, ''), nullif(f.fingerprint, ''),
    f.args_hash, f.unique_job, f.dedup_key, f.producer_id, f.worker_id, f.scheduled_at,
    null, f.created_at, f.errors, ` + pg.WholeText("f.job_name") + `, ` + pg.WholeText("f.queue") + `
  from file f
  left join replay p on p.id = f.replay_job_id and p.replay_of = f.id
  order by f.id
  on conflict (id) do nothing
  returning id, state
), told as (
  insert into public.soniq_dead_letter_audit (dead_letter_id, operation_id, action, actor, comment, because)
  select r.id, $2, 'import', nullif($3, ''), nullif($4, ''), nullif($4, '')
  from restored r
)
select
  (select count(*) from restored),
  (
    select count(distinct r.id)
    from restored r
    join file f on f.id = r.id
    where f.state = 'replaying'
      and r.state <> 'replaying'
  ),
  array(
    select f.id
    from file f
    where not exists (select from restored r where r.id = f.id)
    limit $5
  )`

// $2 the most ids.
var previewSQL = fmt.Sprintf(restoredRows, "") + `, fresh as (
  select f.id, f.state, ` + stateNow + ` as state_now
  from file f
  left join replay p on p.id = f.replay_job_id and p.replay_of = f.id
  where not exists (select from public.soniq_dead_letter_jobs d where d.id = f.id)
)
select
  (select count(*) from fresh),
  (select count(*) from fresh where state = 'replaying' and state_now <> 'replaying'),
  array(
    select f.id
    from file f
    where not exists (select from fresh r where r.id = f.id)
    limit $2
  )`

const silentSQL = "select set_config('soniq.silent', 'on', true)"

// Restore inserts the dead letters of a batch whose ids don't exist yet, without
// announcing them. The transaction must be at read committed.
//
// Errors: those of the database. The error of a value that it refuses names the records
// of the batch.
func Restore(ctx context.Context, tx pgx.Tx, b *recordfile.Batch, by Provenance) (Restored, error) {
	if _, err := tx.Exec(ctx, silentSQL); err != nil {
		return Restored{}, err
	}
	row := tx.QueryRow(ctx, restoreSQL, b.Array(), by.Operation, by.Actor, by.Comment, MostThere)
	return scanRestored(row, b)
}

// PreviewRestore returns what [Restore] would do, and changes nothing.
//
// Errors: as Restore.
func PreviewRestore(ctx context.Context, db pg.Querier, b *recordfile.Batch) (Restored, error) {
	return scanRestored(db.QueryRow(ctx, previewSQL, b.Array(), MostThere), b)
}

func scanRestored(row pgx.Row, b *recordfile.Batch) (r Restored, err error) {
	err = row.Scan(&r.Imported, &r.Settled, &r.There)
	if pg.IsClass(err, pg.ClassData, pg.ClassProgramLimit) {
		err = fmt.Errorf("one of the records %d to %d: %w", b.First, b.First+int64(len(b.IDs))-1, err)
	}
	return r, err
}
