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

// The database's clock decides what is old, as it stamped the rows.
// $1 the age in seconds.
const cutoffSQL = "select clock_timestamp() - make_interval(secs => $1)"

// old returns the conditions that a cleanup and its preview share, and the
// filter as the history tells it.
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
	w := f.where()
	w.old(cutoff)
	if f.To.IsZero() || cutoff.Before(f.To) {
		f.To = cutoff
	}
	return w, f, nil
}

// old adds the conditions of what a cleanup takes.
func (w *where) old(cutoff time.Time) {
	w.and("d.moved_to_dead_letter_at < " + w.param(cutoff))
	w.and("d.state <> 'replaying'")
}

// CleanupCount returns how many dead letters Cleanup would delete.
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

// Cleanup deletes for good the dead letters that died longer ago than that and
// that the filter picks, and returns how many that were; with a Limit, the
// oldest. The age must be above zero. The zero Filter is all of them: the age is
// a condition already. What is being replayed stays.
//
// It deletes in batches, each for itself, and never waits for a lock: a row
// that somebody works on at that moment is left for the next time. After an
// error, what was deleted stays deleted, and is counted. A row that the database
// refuses to delete, since a foreign key of the application's refers to it, say,
// doesn't keep the others; the error tells of it in the end.
//
// A cleanup that finds something is an operation in the history.
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
	// limit is the most that it deletes; 0 is none. size is that of a batch.
	limit, size int
	// lock is an advisory lock that each batch holds; 0 is none. While somebody
	// else has it, the cleanup waits.
	lock int64
	// pause, if set, is called after each batch with the time that it took.
	pause func(context.Context, time.Duration) error

	op   Operation
	from pgtype.Timestamptz
	// refused are rows that the database doesn't let go.
	refused refusals
}

// maxRefusals is how many rows of one cleanup the database may refuse to delete:
// each of them is a statement, and a line in the server's log.
const maxRefusals = 1000

// refusals are rows that the database refused to delete.
type refusals struct {
	ids []uuid.UUID
	// first is the error of the first one.
	first error
}

// add notes what became of the row: an error that isn't about it is returned, and
// so is one too many.
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

// each deletes a batch row by row, and returns how many rows it was.
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
		// Somebody holds all of them: the next time.
		return 0, 0, nil
	}
	return deleted, int64(len(batch)), nil
}

// deleteOne deletes a row of w, unless somebody holds it.
func (q *Queue) deleteOne(ctx context.Context, w *where, id uuid.UUID) (int64, error) {
	w = &where{conditions: slices.Clone(w.conditions), params: slices.Clone(w.params)}
	w.and("d.id = " + w.param(id))
	tag, err := q.pool.Exec(ctx, deleteFree(selectIDs+w.sql()), w.params...)
	return tag.RowsAffected(), err
}

// cleanupSQL deletes a batch. It is materialised, since a plan that ran the
// query again would pick other rows. Where the last one left off is part of the
// conditions: the entries of the deleted rows stay in the index until they are
// vacuumed, and to step over all of them again each time would take ever
// longer. Not to skip what died in the same moment, that moment is included.
//
// The places are those of the lock, which is asked for once, of the conditions
// and of the limit.
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

// next is what the next batch has to pick from, and how many.
func (c *cleanup) next() (w *where, size int) {
	size = c.size
	if c.limit > 0 {
		size = min(size, c.limit-int(c.op.Done))
	}
	w = &where{conditions: slices.Clone(c.where.conditions), params: slices.Clone(c.where.params)}
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

// lockedBatch is a batch, as soon as the lock can be had.
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

// An Archive takes what a cleanup is about to delete.
type Archive interface {
	io.Writer
	// Commit returns once everything written is safe, as it is after an fsync.
	// It is called once, and not after a failed Write.
	Commit() error
}

// CleanupTo is Cleanup that first writes the dead letters to an archive, as
// Export does. Nothing is deleted before all of them are safe there; after an
// error of the archive, nothing at all. Then exactly these are deleted, but for
// those that were replayed, locked or changed so that the filter no longer picks
// them meanwhile. Without anything to delete the archive is not touched.
//
// It remembers their ids: 16 MB for a million.
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

// archive writes the rows of w and returns their ids. Without any, nothing gets
// further than the buffer.
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
		picked := &where{conditions: slices.Clone(w.conditions), params: slices.Clone(w.params)}
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
