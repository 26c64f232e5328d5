package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/deadwrite"
	"soniq/internal/pg"
	"soniq/internal/recordfile"
)

// ImportOptions are the options of [Queue.Import]. The zero value imports.
type ImportOptions struct {
	// DryRun counts what an import would do, and changes nothing. It keeps the ids in
	// memory: about 50 MB for a million. Default false.
	DryRun bool
	// SkipInvalid leaves out a dead letter that can't be taken, and imports the others. A mistake
	// after which the next dead letter can't be found still ends the import. Default false: the
	// first mistake ends it.
	SkipInvalid bool
	// Source is the name of the file, for the history. Default unknown.
	Source string
	// OnProgress is called after each batch with the result so far. Default none.
	OnProgress func(ImportResult)
	// OnInvalid is called with each dead letter that is left out. Default none.
	OnInvalid func(*FileError)
}

// ImportResult is what an import did or, in a dry run, would do.
type ImportResult struct {
	// Imported is how many dead letters are new.
	Imported int64
	// Skipped is how many had an id that existed already. They are left as they are.
	Skipped int64
	// SkippedIDs are the first ten of the skipped ids.
	SkippedIDs []uuid.UUID
	// Settled is how many of the new ones were being replayed when they were exported,
	// and are not now, because the replay has ended or its job is unknown here. Their
	// state is resolved if the replay succeeded, else dead.
	Settled int64
	// Invalid is how many were left out by SkipInvalid.
	Invalid int64
	// IgnoredColumns are the names of columns of the file that no dead letter has, or the
	// beginning of them, at most 100.
	IgnoredColumns []string
}

// A FileError is a mistake in a file that is imported.
type FileError struct {
	// Line is the one on which the record begins, from 1.
	Line int64
	// Record is the number of the record, from 1; 0 where the mistake is in none.
	Record int64
	// ID is the id of the dead letter, or empty.
	ID string
	// Field is the column, or empty.
	Field string
	// Err is the mistake, or the database's error.
	Err error
	// Fatal says that the rest of the file can't be read.
	Fatal bool
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

// CheckImport reads a whole file as [Queue.Import] does, without a database, and
// returns how many dead letters it has. onProgress, which may be nil, is called with the
// number so far, after each 500.
//
// Errors: *FileError for the first mistake in the file, and those of in and ctx.
func CheckImport(ctx context.Context, in io.Reader, format Format, onProgress func(rows int64)) (rows int64, err error) {
	return checkImport(ctx, in, format, false, onProgress)
}

// CheckReadable is [CheckImport] for an import with SkipInvalid: only a mistake after which the rest
// of the file can't be read is an error. It counts all dead letters, the invalid ones too.
//
// Errors: as CheckImport.
func CheckReadable(ctx context.Context, in io.Reader, format Format, onProgress func(rows int64)) (rows int64, err error) {
	return checkImport(ctx, in, format, true, onProgress)
}

func checkImport(ctx context.Context, in io.Reader, format Format, skip bool, onProgress func(int64)) (int64, error) {
	rows, err := recordfile.Count(ctx, in, recordfile.Format(format), skip, progressEach, onProgress)
	if err != nil {
		err = fmt.Errorf("check dead letters: %w", fileError(err))
	}
	return rows, err
}

// Import restores the dead letters of a file that [Queue.Export], Python Soniq or another program
// wrote, compressed by gzip or not. A dead letter whose id exists already is left as it is, so
// an import that was interrupted can be repeated.
//
// Imported dead letters are not announced, neither on the channel nor to hooks: they
// died long ago. They have no MovedXID, so programs that catch up by it skip them. All
// else is as in the file, but for the state of those that were being replayed; see
// ImportResult.Settled.
//
// Import reads and writes in batches, in the same memory for any number. Batches before
// an error stay, and the result counts them. Call [CheckImport] first to be sure that
// the file has no mistake.
//
// An import that restores something is an operation in the history, and each of its
// dead letters has a record.
//
// Errors: *FileError for a mistake in the file, and those of in, of ctx and of the
// database.
func (q *Queue) Import(ctx context.Context, in io.Reader, format Format, o ImportOptions) (ImportResult, error) {
	i := &restoring{q: q, options: o, seen: map[uuid.UUID]struct{}{}, stop: func() {}}
	i.op = Operation{Action: ActionImport, State: OperationRunning}
	err := i.run(ctx, in, format)
	i.stop()
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
	// refused are those of a batch, told once it is done.
	refused []*recordfile.Error
	// stop ends the heartbeats of the operation.
	stop func()
	// seen are the ids of this batch or, in a dry run, of all so far.
	seen map[uuid.UUID]struct{}
}

func (i *restoring) run(ctx context.Context, in io.Reader, format Format) error {
	f, err := recordfile.NewReader(ctx, in, recordfile.Format(format))
	if err != nil {
		return err
	}
	f.Preview = i.options.DryRun
	for {
		batch, more, err := f.NextBatch(ctx, i.skip)
		i.result.IgnoredColumns = f.Ignored()
		if err != nil {
			return err
		}
		if len(batch.IDs) > 0 {
			if err := i.batch(ctx, &batch); err != nil {
				return err
			}
			if i.options.OnProgress != nil {
				i.options.OnProgress(i.result)
			}
		}
		if !more {
			return nil
		}
	}
}

// skip leaves out an invalid dead letter, where that is asked for.
func (i *restoring) skip(mistake *recordfile.Error) error {
	if !i.options.SkipInvalid {
		return mistake
	}
	i.result.Invalid++
	if i.options.OnInvalid != nil {
		i.options.OnInvalid((*FileError)(mistake))
	}
	return nil
}

// mostSkippedIDs is how many ids ImportResult names.
const mostSkippedIDs = 10

// errNothingNew rolls back a batch that restored nothing, and the operation that began
// with it.
var errNothingNew = errors.New("nothing is new")

func (i *restoring) batch(ctx context.Context, b *recordfile.Batch) error {
	result := i.result
	fresh := i.unseen(b, &result)
	i.refused = nil
	skip := func(mistake *recordfile.Error) error {
		if !i.options.SkipInvalid {
			return mistake
		}
		i.refused = append(i.refused, mistake)
		return nil
	}
	do := i.restore
	if i.options.DryRun {
		do = i.preview
	}
	restored, err := do(ctx, &fresh, result, skip)
	if err != nil {
		return err
	}
	result.add(restored, len(fresh.IDs)-len(i.refused))
	i.result = result
	for _, mistake := range i.refused {
		_ = i.skip(mistake) // it is skipped
	}
	return nil
}

func (i *restoring) preview(ctx context.Context, b *recordfile.Batch, _ ImportResult, skip func(*recordfile.Error) error) (deadwrite.Restored, error) {
	return deadwrite.PreviewRestore(ctx, i.q.pool, b, skip)
}

// restore inserts a batch. result is that of the import so far.
func (i *restoring) restore(ctx context.Context, b *recordfile.Batch, result ImportResult, skip func(*recordfile.Error) error) (restored deadwrite.Restored, err error) {
	var op Operation
	before := result
	// A pooler may have refused the first try.
	err = pg.InTxWith(ctx, i.q.pool, readCommitted, func(tx pgx.Tx) (err error) {
		op, result, i.refused = i.op, before, nil
		if op.ID == uuid.Nil {
			if err := i.begin(ctx, tx, &op); err != nil {
				return err
			}
		}
		restored, err = deadwrite.Restore(ctx, tx, b, deadwrite.Provenance{
			Operation: op.ID, Actor: i.q.by.actor, Comment: i.q.by.comment,
		}, skip)
		if err != nil {
			return err
		}
		result.add(restored, len(b.IDs))
		if result.Imported == 0 {
			return errNothingNew
		}
		op.Total, op.Done, op.Skipped = result.Imported+result.Skipped, result.Imported, result.Skipped
		return op.save(ctx, tx)
	})
	switch {
	case errors.Is(err, errNothingNew):
		return restored, nil
	case err != nil:
		return restored, err
	}
	if i.op.ID == uuid.Nil {
		i.stop = i.q.keepAlive(ctx, op.ID)
	}
	i.op = op
	return restored, nil
}

// unseen returns the records of the batch whose id was not met before, and counts the
// others. The database knows what earlier batches inserted; a dry run has to remember
// it.
func (i *restoring) unseen(b *recordfile.Batch, result *ImportResult) recordfile.Batch {
	if !i.options.DryRun {
		clear(i.seen)
	}
	return b.Pick(func(id uuid.UUID) bool {
		_, again := i.seen[id]
		if again {
			result.skip(id)
		}
		i.seen[id] = struct{}{}
		return !again
	})
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

// add adds what became of a batch of that many records.
func (r *ImportResult) add(restored deadwrite.Restored, size int) {
	r.Imported += restored.Imported
	r.Settled += restored.Settled
	r.Skipped += int64(size) - restored.Imported
	r.SkippedIDs = append(r.SkippedIDs, restored.There[:min(len(restored.There), mostSkippedIDs-len(r.SkippedIDs))]...)
}

// skip counts a record whose id was in the file before.
func (r *ImportResult) skip(id uuid.UUID) {
	r.Skipped++
	if len(r.SkippedIDs) < mostSkippedIDs {
		r.SkippedIDs = append(r.SkippedIDs, id)
	}
}
