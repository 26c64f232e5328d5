package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
	"soniq/internal/recordfile"
)

const (
	// importBatch and importBytes bound a batch: where a larger one no longer
	// gains, and the memory.
	importBatch = 1000
	importBytes = 4 << 20
	// rowOverhead is what the JSON of a row mostly has beside its arguments, its
	// tags and its history.
	rowOverhead = 2 << 10
	// mostSkippedIDs is how many ids ImportResult names.
	mostSkippedIDs = 10
)

// ImportOptions say how Import goes about it. The zero value imports.
type ImportOptions struct {
	// DryRun counts what would be done, and changes nothing. It remembers the
	// ids: some 50 MB for a million. Default false.
	DryRun bool
	// Source is where the file came from, for the history: its name. Default
	// unknown.
	Source string
	// Told, if set, is called after each batch with what was done so far.
	Told func(ImportResult)
}

// ImportResult is what Import did or, in a dry run, would do.
type ImportResult struct {
	// Imported are the dead letters that are new.
	Imported int64
	// Skipped are those whose id was there already: they were left as they are.
	Skipped int64
	// SkippedIDs are the first ten of these.
	SkippedIDs []uuid.UUID
	// Settled are the new ones that were being replayed when they were exported,
	// and whose replay has ended since, or is not known here. They are resolved
	// where it succeeded, and dead where it did not or nothing tells.
	Settled int64
}

// A FileError is a mistake in a file that is imported.
type FileError struct {
	// Line is the one on which the record begins, from 1.
	Line int64
	// Record is the number of the record, from 1; 0 where the mistake is in none.
	Record int64
	// Err is the mistake.
	Err error
}

func (e *FileError) Error() string { return (*recordfile.Error)(e).Error() }

func (e *FileError) Unwrap() error { return e.Err }

// fileError returns a mistake in a file as a *FileError, and another error as it is.
func fileError(err error) error {
	if mistake := (*recordfile.Error)(nil); errors.As(err, &mistake) {
		return (*FileError)(mistake)
	}
	return err
}

// CheckImport reads a whole file as Import does, without a database, and
// returns how many dead letters it has. The first mistake in it is a
// *FileError.
//
// told, which may be nil, gets the number of rows so far, now and then.
func CheckImport(ctx context.Context, in io.Reader, format Format, told func(rows int64)) (rows int64, err error) {
	f, err := recordfile.NewReader(ctx, in, recordfile.Format(format))
	for err == nil {
		if err = ctx.Err(); err == nil {
			_, err = f.Next()
		}
		if err == nil {
			if rows++; rows%tellEach == 0 && told != nil {
				told(rows)
			}
		}
	}
	if !errors.Is(err, io.EOF) {
		return rows, fmt.Errorf("check dead letters: %w", fileError(err))
	}
	return rows, nil
}

// Import restores the dead letters of a file that Export wrote, compressed by
// gzip or not; one of Python Soniq will do as well. One whose id is there
// already is left as it is, so that an import which broke off can be repeated.
//
// It is silent: they died long ago, so that neither the channel nor a hook
// tells of them. They have no MovedXID, and who catches up by it does not meet
// them. All else is as it was in the file, but for the state of what was being
// replayed; see ImportResult.Settled.
//
// It reads and writes in batches, in the same memory for any number. A mistake
// in the file is a *FileError; the batches before it stay, and are counted.
// CheckImport first makes sure that there is none.
//
// An import that restores something is an operation in the history, and each
// dead letter has a record of it.
func (q *Queue) Import(ctx context.Context, in io.Reader, format Format, o ImportOptions) (ImportResult, error) {
	i := &restoring{q: q, options: o, seen: map[uuid.UUID]struct{}{}}
	i.op = Operation{Action: ActionImport, State: OperationRunning}
	err := i.run(ctx, in, format)
	if i.op.ID != uuid.Nil {
		err = q.endOperation(ctx, &i.op, err)
	}
	if err != nil {
		return i.result, fmt.Errorf("import dead letters: %w", fileError(err))
	}
	return i.result, nil
}

// restoring is an import under way.
type restoring struct {
	q       *Queue
	options ImportOptions
	result  ImportResult
	op      Operation
	// seen are the ids of this batch or, in a dry run, of all so far.
	seen map[uuid.UUID]struct{}
}

func (i *restoring) run(ctx context.Context, in io.Reader, format Format) error {
	f, err := recordfile.NewReader(ctx, in, recordfile.Format(format))
	if err != nil {
		return err
	}
	for {
		batch, more, err := readBatch(ctx, f)
		if err != nil {
			return err
		}
		if len(batch.ids) > 0 {
			if err := i.batch(ctx, batch); err != nil {
				return err
			}
			if i.options.Told != nil {
				i.options.Told(i.result)
			}
		}
		if !more {
			return nil
		}
	}
}

// rowBatch are some dead letters as JSON, as they stand in an export.
type rowBatch struct {
	ids   []uuid.UUID
	rows  [][]byte
	bytes int
	// first is the number of the first one in the file.
	first int64
}

func (b *rowBatch) add(id uuid.UUID, row []byte) {
	b.ids = append(b.ids, id)
	b.rows = append(b.rows, row)
	b.bytes += len(row)
}

// array is the batch as one document. It takes no more memory than its own
// length: one row can be of many megabytes.
func (b *rowBatch) array() string {
	var text strings.Builder
	text.Grow(b.bytes + len(b.rows) + 2)
	text.WriteByte('[')
	for n, row := range b.rows {
		if n > 0 {
			text.WriteByte(',')
		}
		text.Write(row)
	}
	text.WriteByte(']')
	return text.String()
}

// wrong is err with the place in the file, where it is the rows that the
// database doesn't like.
func (b *rowBatch) wrong(err error) error {
	if pg.IsClass(err, pg.ClassData, pg.ClassProgramLimit) {
		return fmt.Errorf("one of the records %d to %d: %w", b.first, b.first+int64(len(b.ids))-1, err)
	}
	return err
}

// readBatch reads the next rows. A mistake in one of them is an error: then
// none of them is imported.
func readBatch(ctx context.Context, f *recordfile.Reader) (b rowBatch, more bool, err error) {
	b.first = f.Count() + 1
	for len(b.ids) < importBatch && b.bytes < importBytes {
		if err := ctx.Err(); err != nil {
			return b, false, err
		}
		r, err := f.Next()
		if errors.Is(err, io.EOF) {
			return b, false, nil
		}
		if err != nil {
			return b, false, err
		}
		row := make([]byte, 0, len(r.Args)+len(r.Tags)+len(r.Errors)+rowOverhead)
		b.add(r.ID, r.AppendJSON(row))
	}
	return b, true, nil
}

// What is the beginning of the import and of its preview: the file's rows, and
// what became of the replays that were under way. $1 the rows.
const importedRows = `
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

// stateNow is the state of a row f of the file whose replay is p, or null.
const stateNow = `
  case
    when f.state <> 'replaying' then f.state
    when p.status in ('queued', 'processing') then 'replaying'
    when p.status = 'done' then 'resolved'
    else 'dead'
  end`

// The jobs of replays are held, so that one which ends at this moment finds the
// dead letter that it is a replay of. The rows are in order, so that two imports
// at once can't wait for each other. Without a moved_xid nobody meets the rows
// who catches up: a number of this moment would be news to all of them, and the
// file's may be another server's.
//
// $2 the operation, $3 who, $4 why, $5 the most ids.
var importSQL = fmt.Sprintf(importedRows, "\n  for share") + `, restored as (
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
var importPreviewSQL = fmt.Sprintf(importedRows, "") + `, fresh as (
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

// errNothingNew rolls a batch back that restored nothing, and the operation that
// would have begun with it.
var errNothingNew = errors.New("nothing is new")

func (i *restoring) batch(ctx context.Context, b rowBatch) error {
	op, result := i.op, i.result
	fresh := i.unseen(b, &result)
	if i.options.DryRun {
		row := i.q.pool.QueryRow(ctx, importPreviewSQL, fresh.array(), mostSkippedIDs)
		if err := result.add(row, len(fresh.ids)); err != nil {
			return b.wrong(err)
		}
		i.result = result
		return nil
	}
	err := pgx.BeginTxFunc(ctx, i.q.pool, readCommitted, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, silentSQL); err != nil {
			return err
		}
		if op.ID == uuid.Nil {
			if err := i.begin(ctx, tx, &op); err != nil {
				return err
			}
		}
		row := tx.QueryRow(ctx, importSQL, fresh.array(), op.ID, i.q.by.actor, i.q.by.comment, mostSkippedIDs)
		if err := result.add(row, len(fresh.ids)); err != nil {
			return b.wrong(err)
		}
		if result.Imported == 0 {
			return errNothingNew
		}
		op.Total, op.Done, op.Skipped = result.Imported+result.Skipped, result.Imported, result.Skipped
		return op.save(ctx, tx)
	})
	switch {
	case errors.Is(err, errNothingNew):
		i.result = result
		return nil
	case err != nil:
		return err
	}
	i.op, i.result = op, result
	return nil
}

// unseen returns the rows of the batch whose id was not met before, and counts
// the others. What an earlier batch has inserted the database knows; a dry run
// has to remember it.
func (i *restoring) unseen(b rowBatch, result *ImportResult) (fresh rowBatch) {
	if !i.options.DryRun {
		clear(i.seen)
	}
	for n, id := range b.ids {
		if _, again := i.seen[id]; again {
			result.skip(id)
			continue
		}
		i.seen[id] = struct{}{}
		fresh.add(id, b.rows[n])
	}
	return fresh
}

// begin makes the import an operation of the history.
func (i *restoring) begin(ctx context.Context, tx pgx.Tx, op *Operation) (err error) {
	if i.options.Source != "" {
		source := map[string]string{"source": pg.Storable(i.options.Source, recordfile.MaxTextBytes)}
		if op.Filter, err = json.Marshal(source); err != nil {
			return err
		}
	}
	return i.q.beginOperation(ctx, tx, op, Filter{}, nil)
}

// add adds what was done with a batch of that many rows.
func (r *ImportResult) add(row pgx.Row, size int) error {
	var imported, settled int64
	var there []uuid.UUID
	if err := row.Scan(&imported, &settled, &there); err != nil {
		return err
	}
	r.Imported += imported
	r.Settled += settled
	r.Skipped += int64(size) - imported
	r.SkippedIDs = append(r.SkippedIDs, there[:min(len(there), mostSkippedIDs-len(r.SkippedIDs))]...)
	return nil
}

// skip counts one that is there already.
func (r *ImportResult) skip(id uuid.UUID) {
	r.Skipped++
	if len(r.SkippedIDs) < mostSkippedIDs {
		r.SkippedIDs = append(r.SkippedIDs, id)
	}
}
