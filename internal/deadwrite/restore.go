package deadwrite

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
	"soniq/internal/recordfile"
	"soniq/internal/sweep"
)

// mostThere is how many ids a statement names.
const mostThere = 10

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
	// There are the first ids that existed already.
	There []uuid.UUID
}

// recordColumns are the columns of a record that a statement reads, with their types.
var recordColumns = [][2]string{
	{"id", "uuid"},
	{"job_name", "text"},
	{"args", "jsonb"},
	{"queue", "text"},
	{"priority", "integer"},
	{"max_attempts", "integer"},
	{"attempts", "integer"},
	{"last_error", "text"},
	{"dead_letter_reason", "text"},
	{"original_created_at", "timestamptz"},
	{"moved_to_dead_letter_at", "timestamptz"},
	{"resurrection_count", "integer"},
	{"last_resurrection_at", "timestamptz"},
	{"tags", "jsonb"},
	{"state", "text"},
	{"replay_job_id", "uuid"},
	{"replay_of", "uuid"},
	{"error_kind", "text"},
	{"error_type", "text"},
	{"error_code", "text"},
	{"decided_by", "text"},
	{"fingerprint", "text"},
	{"args_hash", "text"},
	{"unique_job", "boolean"},
	{"dedup_key", "text"},
	{"producer_id", "text"},
	{"worker_id", "uuid"},
	{"scheduled_at", "timestamptz"},
	{"created_at", "timestamptz"},
	{"errors", "jsonb"},
	{"trace_context", "text"},
	{"exact", "jsonb"},
}

// fromArray is the rows of the file, as JSON in the parameter after the first n.
func fromArray(n int) string {
	var of []string
	for _, c := range recordColumns {
		of = append(of, c[0]+" "+c[1])
	}
	return fmt.Sprintf("select *\n  from json_to_recordset($%d::json) as r (%s)", n+1, strings.Join(of, ", "))
}

// fromRecord is one row, each column of which is one of the parameters after the first n. As a
// parameter JSON may be as long, and as deep, as the column can be.
func fromRecord(n int) string {
	var of []string
	for i, c := range recordColumns {
		of = append(of, fmt.Sprintf("$%d::%s as %s", n+1+i, c[1], c[0]))
	}
	return "select " + strings.Join(of, ", ")
}

// The beginning of a restore: the file's rows, and what became of the replays that had not
// ended.
const restoredRows = `
with file as (
  %s
), replay as (
  select j.id, j.replay_of, j.status
  from public.soniq_jobs j
  where (j.id, j.replay_of) in (select f.replay_job_id, f.id from file f where f.state = 'replaying')
  order by j.id
  for share
)`

// stateNow is the state of a row f of the file, whose replay is p or null.
const stateNow = `
  case
    when f.state <> 'replaying' then f.state
    when p.status in ('queued', 'processing') then 'replaying'
    when p.status = 'done' then 'resolved'
    else 'dead'
  end`

// The parameters of a restore before the rows: $1 the operation, $2 the actor, $3 the comment, $4 the
// most ids.
const restoreParams = 4

func restoreSQL(file string) string {
	return fmt.Sprintf(restoredRows, file) + restoreRowsSQL
}

// The jobs of replays are locked, so that one which ends at this moment finds the dead
// letter that it is a replay of. The rows are in order, so that two imports at once
// don't wait for each other. moved_xid is null, so that programs which catch up by it
// skip these rows: a number of this moment would be news to all of them, and the file's
// may be another server's.
// What a record has under exact goes before its other columns.
var restoreRowsSQL = `, restored as (
  insert into public.soniq_dead_letter_jobs (
    id, job_name, args, queue, priority, max_attempts, attempts,
    last_error, dead_letter_reason, original_created_at, moved_to_dead_letter_at,
    resurrection_count, last_resurrection_at, tags, state, replay_job_id, replay_of,
    error_kind, error_type, error_code, decided_by, fingerprint,
    args_hash, unique_job, dedup_key, producer_id, worker_id, scheduled_at,
    moved_xid, created_at, errors, whole_job_name, whole_queue, closed, trace_context
  )
  select
    f.id, ` + shortText("job_name") + `, coalesce(f.args, 'null'), ` + shortText("queue") + `, f.priority, f.max_attempts, f.attempts,
    ` + exactText("last_error") + `, coalesce(f.exact ->> 'dead_letter_reason', f.dead_letter_reason), ` + exactTime("original_created_at") + `, ` + exactTime("moved_to_dead_letter_at") + `,
    f.resurrection_count, ` + exactTime("last_resurrection_at") + `, coalesce((f.exact ->> 'tags')::jsonb, f.tags), ` + stateNow + `, f.replay_job_id, f.replay_of,
    ` + exactText("error_kind") + `, ` + exactText("error_type") + `, ` + exactText("error_code") + `, ` + exactText("decided_by") + `, ` + exactText("fingerprint") + `,
    f.args_hash, f.unique_job, f.dedup_key, f.producer_id, f.worker_id, ` + exactTime("scheduled_at") + `,
    null, ` + exactTime("created_at") + `, coalesce((f.exact ->> 'errors')::jsonb, f.errors), ` + wholeText("job_name") + `, ` + wholeText("queue") + `,
    case ` + stateNow + ` when 'resolved' then 'resolved' end, nullif(f.trace_context, '')
  from file f
  left join replay p on p.id = f.replay_job_id and p.replay_of = f.id
  order by f.id
  on conflict (id) do nothing
  returning id, state
), told as (
  insert into public.soniq_dead_letter_audit (dead_letter_id, operation_id, action, actor, comment, because)
  select r.id, $1, 'import', nullif($2, ''), nullif($3, ''), nullif($3, '')
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
    limit $4
  )`

// exactText is a text of the file, in which an empty one is null unless the record says otherwise.
func exactText(column string) string {
	return "coalesce(f.exact ->> '" + column + "', nullif(f." + column + ", ''))"
}

func exactTime(column string) string {
	return "coalesce((f.exact ->> '" + column + "')::timestamptz, f." + column + ")"
}

// shortText is a name of the file as the indexes hold it.
func shortText(column string) string {
	return "coalesce(f.exact ->> '" + column + "', " + pg.IndexedText("f."+column) + ")"
}

// wholeText is a name of the file that the column itself does not hold.
func wholeText(column string) string {
	short := "f.exact ->> '" + column + "'"
	return "case when " + short + " is null then " + pg.WholeText("f."+column) +
		" else coalesce(f.exact ->> 'whole_" + column + "', case when " + short + " <> f." + column + " then f." + column + " end) end"
}

// The parameters of a preview before the rows: $1 the most ids.
const previewParams = 1

// A subquery for one value is a look into an index, whatever the statistics say.
func previewSQL(file string) string { return fmt.Sprintf(previewRowsSQL, file) }

const previewRowsSQL = `
with file as (
  %s
), looked as materialized (
  select
    f.id,
    (select d.id from public.soniq_dead_letter_jobs d where d.id = f.id) is not null as there,
    f.state = 'replaying' and coalesce(
      (select j.status from public.soniq_jobs j where j.id = f.replay_job_id and j.replay_of = f.id)
    , '') not in ('queued', 'processing') as settled
  from file f
)
select
  count(*) filter (where not there),
  count(*) filter (where not there and settled),
  array(
    select l.id
    from looked l
    where l.there
    limit $1
  )
from looked`

// briefSQL are rows of the file of which the database needs no more: $2 the ids, $3 the jobs that
// replay them, or null.
const briefSQL = `select u.id, case when u.replay_job_id is not null then 'replaying' end as state, u.replay_job_id
  from unnest($2::uuid[], $3::uuid[]) as u (id, replay_job_id)`

const silentSQL = "select set_config('soniq.silent', 'on', true)"

// Restore inserts the dead letters of a batch whose ids don't exist yet, without
// announcing them. The transaction must be at read committed.
//
// skip is called with each record that the database refuses. If it returns nil, the record is left
// out, and the others are inserted.
//
// Errors: those of the database and of skip.
func Restore(ctx context.Context, tx pgx.Tx, b *recordfile.Batch, by Provenance, skip func(*recordfile.Error) error) (Restored, error) {
	if _, err := tx.Exec(ctx, silentSQL); err != nil {
		return Restored{}, err
	}
	restore := func(b *recordfile.Batch) (r Restored, err error) {
		err = pg.InTx(ctx, tx, func(tx pgx.Tx) (err error) {
			r, err = insert(ctx, tx, b, by)
			return err
		})
		return r, err
	}
	return divide(b, restore, skip)
}

func insert(ctx context.Context, db pg.Querier, b *recordfile.Batch, by Provenance) (Restored, error) {
	from, params := fromArray(restoreParams), []any{by.Operation, by.Actor, by.Comment, mostThere, nil}
	if b.Alone == nil {
		params[restoreParams] = b.Array()
	} else {
		from, params = fromRecord(restoreParams), append(params[:restoreParams], recordParams(b.Alone)...)
	}
	return scanRestored(db.QueryRow(ctx, restoreSQL(from), params...))
}

// PreviewRestore returns what [Restore] would do, and changes nothing. What only an insert finds
// out, such as a constraint of the application's, it doesn't know.
//
// Errors: as Restore.
func PreviewRestore(ctx context.Context, db pg.Querier, b *recordfile.Batch, skip func(*recordfile.Error) error) (Restored, error) {
	brief, exact := map[uuid.UUID]bool{}, false
	if b.Alone == nil {
		for n, id := range b.IDs {
			brief[id] = !b.Briefs()[n].Exact
			exact = exact || !brief[id]
		}
		if !exact {
			return previewBrief(ctx, db, b)
		}
	}
	plain := b.Pick(func(id uuid.UUID) bool { return brief[id] })
	whole := Restored{}
	if len(plain.IDs) > 0 {
		var err error
		if whole, err = previewBrief(ctx, db, &plain); err != nil {
			return whole, err
		}
	}
	rest := b.Pick(func(id uuid.UUID) bool { return !brief[id] })
	more, err := divide(&rest, func(b *recordfile.Batch) (Restored, error) {
		from, params := fromArray(previewParams), []any{mostThere, nil}
		if b.Alone == nil {
			params[previewParams] = b.Array()
		} else {
			from, params = fromRecord(previewParams), append(params[:previewParams], recordParams(b.Alone)...)
		}
		return scanRestored(db.QueryRow(ctx, previewSQL(from), params...))
	}, skip)
	whole.add(more)
	return whole, err
}

// previewBrief is the preview of records that the reader knows the database to take.
func previewBrief(ctx context.Context, db pg.Querier, b *recordfile.Batch) (Restored, error) {
	replays := make([]*uuid.UUID, len(b.IDs))
	for n, brief := range b.Briefs() {
		replays[n] = brief.Replay
	}
	return scanRestored(db.QueryRow(ctx, previewSQL(briefSQL), mostThere, b.IDs, replays))
}

// add adds what became of other records.
func (r *Restored) add(more Restored) {
	r.Imported += more.Imported
	r.Settled += more.Settled
	r.There = append(r.There, more.There...)
}

// divide does a batch as a whole or, if the database refuses one of its records, in halves, down to
// that record.
func divide(b *recordfile.Batch, do func(*recordfile.Batch) (Restored, error), skip func(*recordfile.Error) error) (Restored, error) {
	if len(b.IDs) == 0 {
		return Restored{}, nil
	}
	whole, err := do(b)
	switch {
	case err == nil || !sweep.IsRefusal(err):
		return whole, err
	case len(b.IDs) == 1:
		return Restored{}, skip(b.Refused(err))
	}
	first, second := b.Halves()
	whole, err = divide(&first, do, skip)
	if err != nil {
		return whole, err
	}
	rest, err := divide(&second, do, skip)
	whole.add(rest)
	return whole, err
}

// recordParams are the parameters of fromRecord, as texts.
func recordParams(r *recordfile.Record) []any {
	params := make([]any, 0, len(recordColumns))
	for _, c := range recordColumns {
		params = append(params, r.Text(c[0]))
	}
	return params
}

func scanRestored(row pgx.Row) (r Restored, err error) {
	err = row.Scan(&r.Imported, &r.Settled, &r.There)
	return r, err
}
