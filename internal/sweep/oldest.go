package sweep

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"soniq/internal/byindex"
	"soniq/internal/pause"
	"soniq/internal/pg"
)

const (
	// maxRefusals is how many rows of one [Oldest] the database may refuse to
	// delete. Each is a statement, and a line in the server's log.
	maxRefusals = 1000
	// maxSame is how many rows in a row it may refuse by an error that is not about a
	// value or a constraint: then it is not the rows. A right is missing, for instance.
	maxSame = 20
	// longestLockPause is the longest time between two attempts to take the lock.
	longestLockPause = 10 * time.Second
	// shortestPause is the shortest time between two batches with pauses.
	shortestPause = 10 * time.Millisecond
)

// Oldest deletes the rows of a table that match some conditions, the oldest first,
// by an index on their time. It leaves rows that are locked. The table has the key
// id, a uuid.
type Oldest struct {
	// Table is the table, and Time its column with the time.
	Table, Time string
	// Where are the conditions. The row is d.
	Where pg.Where
	// Limit is how many rows it deletes at the most. 0 is no limit.
	Limit int
	// Batch is how many rows one statement deletes.
	Batch int
	// Lock is the key of an advisory lock that each batch waits for and holds. 0 is
	// no lock.
	Lock int64
	// Pauses: a pause follows each batch that is as long as the batch took.
	Pauses bool
	// Step runs each statement that deletes, in a transaction. Nil is the session of Delete.
	Step Step

	deleted int64
	from    pgtype.Timestamptz
	refused Refusals
}

// A Step runs do, which deletes rows by one statement, on a session of its own, and returns
// what do does: how many they are. So it can record, in the transaction that deletes them,
// that they are gone.
type Step func(ctx context.Context, do func(db pg.Querier) (int64, error)) (int64, error)

// on is the step that runs each statement on db.
func on(db pg.Querier) Step {
	return func(_ context.Context, do func(db pg.Querier) (int64, error)) (int64, error) { return do(db) }
}

// Refusals are rows that the database refused to delete.
type Refusals struct {
	ids   []uuid.UUID
	first error
	// same counts those since a row was deleted.
	same int
}

// Any reports whether there are any.
func (r *Refusals) Any() bool { return len(r.ids) > 0 }

// Add keeps the row if err is about it. It returns any other err, and an error once
// there are 1,000, or 20 that are not about the rows.
func (r *Refusals) Add(id uuid.UUID, err error) error {
	if !IsRefusal(err) {
		r.same = 0
		return err
	}
	if r.same++; pg.IsDataError(err) {
		r.same = 0
	}
	r.ids = append(r.ids, id)
	if r.first == nil {
		r.first = err
	}
	if len(r.ids) >= maxRefusals || r.same >= maxSame {
		return r.Err()
	}
	return nil
}

// Err returns an error that names the first row, or nil if there is none.
func (r *Refusals) Err() error {
	if !r.Any() {
		return nil
	}
	return fmt.Errorf("%d of them can't be deleted, such as %s: %w", len(r.ids), r.ids[0], r.first)
}

// Refused reports whether the database refused to delete a row.
func (o *Oldest) Refused() bool { return o.refused.Any() }

// Delete deletes the rows and returns how many, also after an error. A row that the
// database refuses to delete doesn't keep others from being deleted.
//
// Errors: those of [Refusals.Err], of the Step, of the context, of the database.
func (o *Oldest) Delete(ctx context.Context, db pg.Querier) (int64, error) {
	if o.Step == nil {
		o.Step = on(db)
	}
	for more := true; more; {
		began := time.Now()
		n, size, err := o.lockedBatch(ctx)
		taken := n
		if IsRefusal(err) {
			n, taken, err = o.each(ctx, db)
		}
		o.deleted += n
		more = taken == int64(size) && (o.Limit == 0 || o.deleted < int64(o.Limit))
		if err == nil && more && o.Pauses {
			err = pause.For(ctx, max(time.Since(began), shortestPause))
		}
		if err != nil {
			return o.deleted, err
		}
	}
	return o.deleted, o.refused.Err()
}

// DeleteUnlocked deletes the rows d of a table that match the conditions and that
// nobody has locked, and returns how many.
//
// Errors: those of the database.
func DeleteUnlocked(ctx context.Context, db pg.Querier, table string, where pg.Where) (int64, error) {
	tag, err := db.Exec(ctx, fmt.Sprintf(deleteUnlockedSQL, table, where.SQL()), where.Params()...)
	return tag.RowsAffected(), err
}

// Materialized: a plan that ran the query again would pick other rows.
const deleteUnlockedSQL = `
with picked as materialized (
  select d.id
  from %[1]s d%[2]s
  for update skip locked
)
delete from %[1]s d
using picked
where d.id = picked.id`

// deleteListedSQL is deleteUnlockedSQL for rows of a list. Each is looked up by its key, by a
// query of its own: in one query the planner could find the rows by another condition, and read
// all that meet it for each list. The places are those of the table, the list, which is u, and
// the conditions.
const deleteListedSQL = `
with picked as materialized (
  select d.id
  from %[2]s
  cross join lateral (
    select d.id
    from %[1]s d%[3]s
    for update skip locked
  ) d
)
delete from %[1]s d
using picked
where d.id = picked.id`

// deleteListed deletes the rows of a list that are not locked. db is a transaction.
func deleteListed(ctx context.Context, db pg.Querier, table, list string, where pg.Where) (int64, error) {
	if _, err := db.Exec(ctx, byindex.LookupSQL); err != nil {
		return 0, err
	}
	tag, err := db.Exec(ctx, fmt.Sprintf(deleteListedSQL, table, list, where.SQL()), where.Params()...)
	return tag.RowsAffected(), err
}

// DeleteOne is [DeleteUnlocked] for the row with this id.
//
// Errors: those of the database.
func DeleteOne(ctx context.Context, db pg.Querier, table string, where pg.Where, id uuid.UUID) (int64, error) {
	w := where.Clone()
	w.And("d.id = " + w.Param(id))
	return DeleteUnlocked(ctx, db, table, w)
}

// each deletes a batch row by row. taken is how many rows the batch has.
func (o *Oldest) each(ctx context.Context, db pg.Querier) (deleted, taken int64, err error) {
	w, size := o.next()
	rows, _ := db.Query(ctx, fmt.Sprintf("select d.id, d.%[2]s\nfrom %[1]s d%[3]s\norder by d.%[2]s, d.id%[4]s", o.Table, o.Time, w.SQL(), w.Limit(size)), w.Params()...)
	type row struct {
		ID uuid.UUID
		At pgtype.Timestamptz
	}
	batch, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return 0, 0, err
	}
	before := len(o.refused.ids)
	for _, r := range batch {
		n, err := o.Step(ctx, func(db pg.Querier) (int64, error) { return DeleteOne(ctx, db, o.Table, o.Where, r.ID) })
		deleted += n
		if err = o.refused.Add(r.ID, err); err != nil {
			return deleted, int64(len(batch)), err
		}
		o.from = r.At
	}
	if deleted == 0 && len(o.refused.ids) == before {
		// All of them are locked: they are left for the next time.
		return 0, 0, nil
	}
	return deleted, int64(len(batch)), nil
}

// next returns the conditions and the size of the next batch.
func (o *Oldest) next() (w pg.Where, size int) {
	size = o.Batch
	if o.Limit > 0 {
		size = min(size, o.Limit-int(o.deleted))
	}
	w = o.Where.Clone()
	if o.from.Valid {
		w.And("d." + o.Time + " >= " + w.Param(o.from))
	}
	if o.refused.Any() {
		w.And("d.id <> all (" + w.Param(o.refused.ids) + ")")
	}
	return w, size
}

// oldestSQL deletes a batch. Materialized: a plan that ran the query again would
// pick other rows. A batch begins at the time where the last one ended: the index
// keeps the entries of deleted rows until vacuum, and skipping all of them in each
// batch would take longer and longer. That time is included, for rows of the same
// moment.
//
// The places are those of the table, the time, the lock, which is tried once, the
// conditions and the limit.
const oldestSQL = `
with lock as materialized (
  select %[3]s as taken
), picked as materialized (
  select d.id, d.%[2]s as at
  from %[1]s d%[4]s
  order by d.%[2]s%[5]s
  for update skip locked
), gone as (
  delete from %[1]s d
  using picked
  where d.id = picked.id
  returning d.id
)
select (select count(*) from gone), (select max(at) from picked), (select taken from lock)`

// SQL returns the statement of the next batch, its parameters and how many rows it
// deletes at the most.
func (o *Oldest) SQL() (sql string, params []any, size int) {
	w, size := o.next()
	lock := "true"
	if o.Lock != 0 {
		lock = "pg_try_advisory_xact_lock(" + w.Param(o.Lock) + ")"
		w.And("(select taken from lock)")
	}
	conditions, limit := w.SQL(), w.Limit(size)
	return fmt.Sprintf(oldestSQL, o.Table, o.Time, lock, conditions, limit), w.Params(), size
}

// lockedBatch waits for the lock and deletes a batch.
func (o *Oldest) lockedBatch(ctx context.Context) (deleted int64, size int, err error) {
	attempt := func() (int64, error) {
		deleted, err = o.Step(ctx, func(db pg.Querier) (n int64, err error) {
			n, size, err = o.batch(ctx, db)
			return n, err
		})
		if err != nil && !errors.Is(err, ErrLocked) {
			err = backoff.Permanent(err)
		}
		return deleted, err
	}
	deleted, err = backoff.Retry(ctx, attempt,
		backoff.WithBackOff(&backoff.ExponentialBackOff{
			InitialInterval: 20 * time.Millisecond, Multiplier: 2, RandomizationFactor: 0.5, MaxInterval: longestLockPause,
		}),
		backoff.WithMaxElapsedTime(0))
	return deleted, size, err
}

func (o *Oldest) batch(ctx context.Context, db pg.Querier) (deleted int64, size int, err error) {
	// Whatever the planner knows of the table, a batch reads its rows by the index on the time.
	if _, err := db.Exec(ctx, byindex.LookupSQL); err != nil {
		return 0, size, err
	}
	sql, params, size := o.SQL()
	var last pgtype.Timestamptz
	var locked bool
	if err := db.QueryRow(ctx, sql, params...).Scan(&deleted, &last, &locked); err != nil {
		return 0, size, err
	}
	if !locked {
		return 0, size, ErrLocked
	}
	if last.Valid {
		o.from = last
	}
	return deleted, size, nil
}
