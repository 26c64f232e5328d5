package deadletter

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"soniq/internal/pg"
	"soniq/internal/sweep"
)

var (
	errNotOlder      = errors.New("the age must be above zero")
	errKeepsReplayed = errors.New("what is being replayed is never cleaned up")
)

// Ages are by the database's clock, which stamped the rows. $1 the age in seconds.
const cutoffSQL = "select clock_timestamp() - make_interval(secs => $1)"

// old returns the conditions of a cleanup and its preview, and the filter for the
// record.
func (q *Queue) old(ctx context.Context, olderThan time.Duration, f Filter) (*where, Filter, error) {
	if err := f.Validate(); err != nil {
		return nil, f, err
	}
	if olderThan <= 0 {
		return nil, f, fmt.Errorf("%s: %w", olderThan, errNotOlder)
	}
	if f.State == StateReplaying {
		return nil, f, errKeepsReplayed
	}
	var cutoff time.Time
	if err := q.pool.QueryRow(ctx, cutoffSQL, olderThan.Seconds()).Scan(&cutoff); err != nil {
		return nil, f, err
	}
	w := whereOf(f)
	w.old(cutoff)
	if f.To.IsZero() || cutoff.Before(f.To) {
		f.To = cutoff
	}
	return w, f, nil
}

// old adds the conditions of what a cleanup deletes.
func (w *where) old(cutoff time.Time) {
	w.And("d.moved_to_dead_letter_at < " + w.Param(cutoff))
	w.And("d.state <> 'replaying'")
}

// CleanupCount returns how many dead letters [Queue.Cleanup] would delete.
//
// Errors: those of Cleanup.
func (q *Queue) CleanupCount(ctx context.Context, olderThan time.Duration, f Filter) (int64, error) {
	w, _, err := q.old(ctx, olderThan, f)
	if err != nil {
		return 0, fmt.Errorf("count old dead letters: %w", err)
	}
	n, err := q.count(ctx, w, f.Limit)
	if err != nil {
		return 0, fmt.Errorf("count old dead letters: %w", err)
	}
	return n, nil
}

// Cleanup deletes for good the dead letters that the filter picks and that died
// longer ago than olderThan, which must be above zero, and returns how many. With a
// Limit it deletes the oldest. The zero Filter picks all. Dead letters that are
// being replayed are not deleted.
//
// It deletes in batches, each a transaction of its own, and leaves rows that are
// locked for the next call. After an error what was deleted stays deleted, and the
// number says how many. A row that the database refuses to delete, because of a
// foreign key for example, doesn't keep others from being deleted; the error at the
// end names it.
//
// It is an [Operation], unless it deletes nothing.
//
// Errors: a wrong age or filter; the context's; those of the database.
func (q *Queue) Cleanup(ctx context.Context, olderThan time.Duration, f Filter) (int64, error) {
	w, picked, err := q.old(ctx, olderThan, f)
	if err != nil {
		return 0, fmt.Errorf("clean up dead letters: %w", err)
	}
	n, err := q.deleteOldest(ctx, picked, &sweep.Oldest{Where: w.Where, Limit: f.Limit, Batch: deleteBatch})
	if err != nil {
		return n, fmt.Errorf("clean up dead letters: %w", err)
	}
	return n, nil
}

// deadLetters is the table of the dead letters.
const deadLetters = "public.soniq_dead_letter_jobs"

// deleteOldest deletes what o picks, and records it as an operation with the filter
// f.
func (q *Queue) deleteOldest(ctx context.Context, f Filter, o *sweep.Oldest) (int64, error) {
	op := Operation{Action: ActionCleanup, State: OperationRunning}
	step := q.counted(&op, func(op *Operation, ctx context.Context, db pg.Querier) error {
		if op.Total = op.Done; op.ID != uuid.Nil {
			return op.save(ctx, db)
		}
		return q.beginOperation(ctx, db, op, f, nil)
	})
	var stop func()
	o.Table, o.Time = deadLetters, "moved_to_dead_letter_at"
	o.Step = func(ctx context.Context, do func(db pg.Querier) (int64, error)) (int64, error) {
		n, err := step(ctx, do)
		if stop == nil && op.ID != uuid.Nil {
			stop = q.keepAlive(ctx, op.ID)
		}
		return n, err
	}
	n, err := o.Delete(ctx, q.pool)
	if stop == nil {
		return n, err
	}
	stop()
	return n, q.endOperation(ctx, &op, err)
}

// An Archive receives the dead letters that a cleanup is about to delete. If it has a method
// SetCount(int64), that is told how many they are before Commit.
type Archive interface {
	io.Writer
	// Commit returns once everything written is durable, as after an fsync. It is
	// called once, and not after a failed Write.
	Commit() error
}

// CleanupTo is [Queue.Cleanup] that first writes the dead letters to an archive, as
// [Queue.Export] does. It deletes nothing before Commit has returned nil, and
// nothing after an error of the archive. Then it deletes exactly these dead letters, as they
// are in the archive: one that was tagged, replayed or changed in any other way since stays,
// and so does one that is locked. The operation's Skipped counts those, and the archive's SetCount is
// told how many are in it. If there is nothing to delete it doesn't use the archive.
//
// It keeps their ids in memory: 40 MB for a million.
//
// Errors: those of Cleanup and of the archive.
func (q *Queue) CleanupTo(ctx context.Context, olderThan time.Duration, f Filter, to Archive, format Format) (int64, error) {
	w, picked, err := q.old(ctx, olderThan, f)
	if err != nil {
		return 0, fmt.Errorf("clean up dead letters: %w", err)
	}
	rows, err := q.archive(ctx, w, f.Limit, to, format)
	if err != nil {
		return 0, fmt.Errorf("archive dead letters; none was deleted: %w", err)
	}
	if len(rows) == 0 {
		return 0, nil
	}
	n, err := q.deleteArchived(ctx, w, picked, rows)
	if err != nil {
		return n, fmt.Errorf("clean up dead letters: %w", err)
	}
	return n, nil
}

// archive writes the rows of w and returns which they are. If there are none, nothing
// leaves the buffer.
func (q *Queue) archive(ctx context.Context, w *where, limit int, to Archive, format Format) (archived []sweep.Version, err error) {
	buffer := bufio.NewWriterSize(to, exportBuffer)
	err = q.encode(ctx, buffer, to, format, w, limit, func(v sweep.Version) { archived = append(archived, v) })
	if err != nil || archived == nil {
		return nil, err
	}
	if err := buffer.Flush(); err != nil {
		return nil, err
	}
	if counted, ok := to.(interface{ SetCount(dead int64) }); ok {
		counted.SetCount(int64(len(archived)))
	}
	return archived, to.Commit()
}

// deleteArchived deletes those of the rows that are still as they were, in batches.
func (q *Queue) deleteArchived(ctx context.Context, w *where, f Filter, rows []sweep.Version) (int64, error) {
	op := Operation{Action: ActionCleanup, State: OperationRunning, Total: int64(len(rows))}
	if err := q.beginOperation(ctx, q.pool, &op, f, nil); err != nil {
		return 0, err
	}
	defer q.keepAlive(ctx, op.ID)()
	_, err := sweep.DeleteVersions(ctx, q.counted(&op, (*Operation).save), deadLetters, w.Where, rows, deleteBatch)
	if err == nil || sweep.IsRefusal(err) {
		op.Skipped = op.Total - op.Done
	}
	return op.Done, q.endOperation(ctx, &op, err)
}
