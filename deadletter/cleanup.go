package deadletter

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

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
	w.and("d.moved_to_dead_letter_at < " + w.param(cutoff))
	w.and("d.state <> 'replaying'")
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
	c := cleanup{q: q, where: w, filter: picked, limit: f.Limit, size: deleteBatch}
	if err := c.run(ctx); err != nil {
		return c.op.Done, fmt.Errorf("clean up dead letters: %w", err)
	}
	return c.op.Done, nil
}

// A cleanup deletes the rows of where, the oldest first.
type cleanup struct {
	q      *Queue
	where  *where
	filter Filter
	// limit is how many rows it deletes at the most, where 0 is no limit. size is
	// that of a batch.
	limit, size int
	// lock is the key of an advisory lock that each batch waits for and holds. 0 is
	// no lock.
	lock int64
	// pause, if set, is called after each batch with the time that it took.
	pause func(context.Context, time.Duration) error

	op   Operation
	from pgtype.Timestamptz
	// refused are rows that the database doesn't delete.
	refused refusals
}

// maxRefusals is how many rows of one cleanup the database may refuse to delete.
// Each is a statement, and a line in the server's log.
const maxRefusals = 1000

// refusals are rows that the database refused to delete.
type refusals struct {
	ids []uuid.UUID
	// first is the error of the first one.
	first error
}

// add keeps the row if err is about it. It returns any other err, and an error at
// maxRefusals.
func (r *refusals) add(id uuid.UUID, err error) error {
	if !sweep.IsRefusal(err) {
		return err
	}
	r.ids = append(r.ids, id)
	if r.first == nil {
		r.first = err
	}
	if len(r.ids) >= maxRefusals {
		return r.err()
	}
	return nil
}

func (r *refusals) err() error {
	if len(r.ids) == 0 {
		return nil
	}
	return fmt.Errorf("%d of them can't be deleted, such as %s: %w", len(r.ids), r.ids[0], r.first)
}

func (c *cleanup) run(ctx context.Context) error {
	c.op = Operation{Action: ActionCleanup, State: OperationRunning}
	for more := true; more; {
		began := time.Now()
		n, size, err := c.lockedBatch(ctx)
		taken := n
		if sweep.IsRefusal(err) {
			n, taken, err = c.each(ctx)
		}
		c.op.Done += n
		c.op.Total = c.op.Done
		if err == nil && c.op.ID == uuid.Nil && n > 0 {
			err = c.q.beginOperation(ctx, c.q.pool, &c.op, c.filter, nil)
		}
		more = taken == int64(size) && (c.limit == 0 || c.op.Done < int64(c.limit))
		if err == nil && more && c.pause != nil {
			err = c.pause(ctx, time.Since(began))
		}
		if err != nil && c.op.ID != uuid.Nil {
			err = c.q.endOperation(ctx, &c.op, err)
		}
		if err != nil {
			return err
		}
	}
	if c.op.ID == uuid.Nil {
		return c.refused.err()
	}
	return c.q.endOperation(ctx, &c.op, c.refused.err())
}

// each deletes a batch row by row. taken is how many rows the batch has.
func (c *cleanup) each(ctx context.Context) (deleted, taken int64, err error) {
	w, size := c.next()
	rows, _ := c.q.pool.Query(ctx, "select d.id, d.moved_to_dead_letter_at\nfrom public.soniq_dead_letter_jobs d"+w.sql()+oldestFirst+w.limit(size), w.params...)
	type row struct {
		ID uuid.UUID
		At pgtype.Timestamptz
	}
	batch, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return 0, 0, err
	}
	before := len(c.refused.ids)
	for _, r := range batch {
		n, err := c.q.deleteOne(ctx, c.where, r.ID)
		deleted += n
		if err = c.refused.add(r.ID, err); err != nil {
			return deleted, int64(len(batch)), err
		}
		c.from = r.At
	}
	if deleted == 0 && len(c.refused.ids) == before {
		// All of them are locked: they are left for the next call.
		return 0, 0, nil
	}
	return deleted, int64(len(batch)), nil
}

// deleteOne deletes a row of w, unless it is locked.
func (q *Queue) deleteOne(ctx context.Context, w *where, id uuid.UUID) (int64, error) {
	w = w.clone()
	w.and("d.id = " + w.param(id))
	tag, err := q.pool.Exec(ctx, deleteFree(selectIDs+w.sql()), w.params...)
	return tag.RowsAffected(), err
}

// cleanupSQL deletes a batch. Materialized: a plan that ran the query again would
// pick other rows. A batch begins at the time where the last one ended: the index
// keeps the entries of deleted rows until vacuum, and skipping all of them in each
// batch would take longer and longer. That time is included, for rows that died at
// the same moment.
//
// The places are those of the lock, which is tried once, of the conditions and of
// the limit.
const cleanupSQL = `
with lock as materialized (
  select %s as taken
), picked as materialized (
  select d.id, d.moved_to_dead_letter_at as at
  from public.soniq_dead_letter_jobs d%s
  order by d.moved_to_dead_letter_at%s
  for update skip locked
), gone as (
  delete from public.soniq_dead_letter_jobs d
  using picked
  where d.id = picked.id
  returning d.id
)
select (select count(*) from gone), (select max(at) from picked), (select taken from lock)`

// next returns the conditions and the size of the next batch.
func (c *cleanup) next() (w *where, size int) {
	size = c.size
	if c.limit > 0 {
		size = min(size, c.limit-int(c.op.Done))
	}
	w = c.where.clone()
	if c.from.Valid {
		w.and("d.moved_to_dead_letter_at >= " + w.param(c.from))
	}
	if len(c.refused.ids) > 0 {
		w.and("d.id <> all (" + w.param(c.refused.ids) + ")")
	}
	return w, size
}

func (c *cleanup) batchSQL() (sql string, params []any, size int) {
	w, size := c.next()
	lock := "true"
	if c.lock != 0 {
		lock = "pg_try_advisory_xact_lock(" + w.param(c.lock) + ")"
		w.and("(select taken from lock)")
	}
	conditions := w.sql()
	return fmt.Sprintf(cleanupSQL, lock, conditions, w.limit(size)), w.params, size
}

var errLockTaken = errors.New("somebody else has the lock")

// lockedBatch waits for the lock and deletes a batch.
func (c *cleanup) lockedBatch(ctx context.Context) (deleted int64, size int, err error) {
	attempt := func() (int64, error) {
		deleted, size, err = c.batch(ctx)
		if err != nil && !errors.Is(err, errLockTaken) {
			err = backoff.Permanent(err)
		}
		return deleted, err
	}
	deleted, err = backoff.Retry(ctx, attempt,
		backoff.WithBackOff(&backoff.ExponentialBackOff{
			InitialInterval: 20 * time.Millisecond, Multiplier: 2, RandomizationFactor: 0.5, MaxInterval: lockInterval,
		}),
		backoff.WithMaxElapsedTime(0))
	return deleted, size, err
}

func (c *cleanup) batch(ctx context.Context) (deleted int64, size int, err error) {
	sql, params, size := c.batchSQL()
	var last pgtype.Timestamptz
	var locked bool
	if err := c.q.pool.QueryRow(ctx, sql, params...).Scan(&deleted, &last, &locked); err != nil {
		return 0, size, err
	}
	if !locked {
		return 0, size, errLockTaken
	}
	if last.Valid {
		c.from = last
	}
	return deleted, size, nil
}

// An Archive receives the dead letters that a cleanup is about to delete.
type Archive interface {
	io.Writer
	// Commit returns once everything written is durable, as after an fsync. It is
	// called once, and not after a failed Write.
	Commit() error
}

// CleanupTo is [Queue.Cleanup] that first writes the dead letters to an archive, as
// [Queue.Export] does. It deletes nothing before Commit has returned nil, and
// nothing after an error of the archive. Then it deletes exactly these dead letters,
// but for those that are locked, or that the filter no longer picks. If there is
// nothing to delete it doesn't use the archive.
//
// It keeps their ids in memory: 16 MB for a million.
//
// Errors: those of Cleanup and of the archive.
func (q *Queue) CleanupTo(ctx context.Context, olderThan time.Duration, f Filter, to Archive, format Format) (int64, error) {
	w, picked, err := q.old(ctx, olderThan, f)
	if err != nil {
		return 0, fmt.Errorf("clean up dead letters: %w", err)
	}
	ids, err := q.archive(ctx, w, f.Limit, to, format)
	if err != nil {
		return 0, fmt.Errorf("archive dead letters; none was deleted: %w", err)
	}
	if len(ids) == 0 {
		return 0, nil
	}
	n, err := q.deleteArchived(ctx, w, picked, ids)
	if err != nil {
		return n, fmt.Errorf("clean up dead letters: %w", err)
	}
	return n, nil
}

// archive writes the rows of w and returns their ids. If there are none, nothing
// leaves the buffer.
func (q *Queue) archive(ctx context.Context, w *where, limit int, to Archive, format Format) (ids []uuid.UUID, err error) {
	buffer := bufio.NewWriterSize(to, exportBuffer)
	err = q.encode(ctx, buffer, format, w, limit, func(j Job) { ids = append(ids, j.ID) })
	if err != nil || ids == nil {
		return nil, err
	}
	if err := buffer.Flush(); err != nil {
		return nil, err
	}
	return ids, to.Commit()
}

// deleteArchived deletes those of the ids that are still rows of w, in batches.
func (q *Queue) deleteArchived(ctx context.Context, w *where, f Filter, ids []uuid.UUID) (int64, error) {
	op := Operation{Action: ActionCleanup, State: OperationRunning, Total: int64(len(ids))}
	if err := q.beginOperation(ctx, q.pool, &op, f, nil); err != nil {
		return 0, err
	}
	var refused refusals
	for batch := range slices.Chunk(ids, deleteBatch) {
		picked := w.clone()
		picked.and("d.id = any(" + picked.param(batch) + ")")
		tag, err := q.pool.Exec(ctx, deleteFree(selectIDs+picked.sql()), picked.params...)
		op.Done += tag.RowsAffected()
		if sweep.IsRefusal(err) {
			err = nil
			for _, id := range batch {
				n, one := q.deleteOne(ctx, w, id)
				op.Done += n
				if err = refused.add(id, one); err != nil {
					break
				}
			}
		}
		if err != nil {
			return op.Done, q.endOperation(ctx, &op, err)
		}
	}
	op.Skipped = op.Total - op.Done
	return op.Done, q.endOperation(ctx, &op, refused.err())
}
