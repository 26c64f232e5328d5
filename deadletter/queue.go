package deadletter

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/byindex"
	"soniq/internal/pg"
)

// listLimit bounds a List without a Limit, since its rows are held in memory.
const listLimit = 1000

// A Queue reads and changes the dead letters of one database. Any number of
// goroutines may use it.
type Queue struct {
	pool *pg.Pool
	by   author
}

// QueueConfig is the configuration of a [Queue]. The zero value works.
type QueueConfig struct {
	// Schema is the schema of Soniq's tables, spelled as the catalog has it: case
	// counts. The role's search_path doesn't matter. Default "public".
	Schema string
}

// NewQueue returns the dead-letter queue of the pool's database. It runs no
// statement. The caller closes the pool.
//
// Errors: one that names the field of cfg which is wrong.
func NewQueue(pool *pgxpool.Pool, cfg QueueConfig) (*Queue, error) {
	schema, err := pg.NewSchema(cfg.Schema)
	if err != nil {
		return nil, fmt.Errorf("new dead-letter queue: Schema: %w", err)
	}
	return &Queue{pool: schema.Pool(pool)}, nil
}

// newestFirst orders rows of the same microsecond too, so that a limit cuts at the
// same row each time.
const newestFirst = "\norder by d.moved_to_dead_letter_at desc, d.id desc"

const oldestFirst = "\norder by d.moved_to_dead_letter_at, d.id"

// List returns the dead letters that the filter picks, the newest first. Without a
// Limit it returns at most 1,000.
//
// Errors: a wrong filter; those of the database.
func (q *Queue) List(ctx context.Context, f Filter) ([]Job, error) {
	return q.ListAfter(ctx, f, Cursor{})
}

// A Cursor is a position in the order of [Queue.List]. The zero value is before
// the first row.
type Cursor struct {
	// MovedAt and ID are those of a dead letter.
	MovedAt time.Time
	ID      uuid.UUID
}

// Cursor returns the position of the dead letter in the order of [Queue.List].
func (j Job) Cursor() Cursor { return Cursor{MovedAt: j.MovedAt, ID: j.ID} }

// ListAfter returns the page of [Queue.List] after a position: the Cursor of the
// last row of the page before. Rows that are added or deleted meanwhile don't shift
// the pages.
//
// Errors: those of List.
func (q *Queue) ListAfter(ctx context.Context, f Filter, after Cursor) ([]Job, error) {
	jobs, err := q.page(ctx, f, after)
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	return jobs, nil
}

func (q *Queue) page(ctx context.Context, f Filter, after Cursor) ([]Job, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	if f.Limit == 0 {
		f.Limit = listLimit
	}
	f, err := q.resolveName(ctx, f)
	if err != nil {
		return nil, err
	}
	sql, params := pageSQL(f, after)
	return q.readBounded(ctx, pg.ListedBytes, params, sql)
}

// pageSQL is the statement of a page. Of several job names it takes a page each and
// merges them: an index has the rows of one name in their order, not those of many.
func pageSQL(f Filter, after Cursor) (sql func(reading) string, params []any) {
	names := f.JobNames
	if len(names) > 1 {
		f.JobNames = nil
	}
	w := whereOf(f)
	w.after(after)
	if len(names) <= 1 {
		end := w.SQL() + newestFirst + w.Limit(f.Limit)
		return func(r reading) string { return r.selectJobs() + end }, w.Params()
	}
	unique := slices.Compact(slices.Sorted(slices.Values(names)))
	from := "unnest(" + w.names(unique) + "::text[]) as n (name)"
	w.And("d.job_name = n.name")
	limit := w.Limit(f.Limit)
	end := "\nfrom " + from + "\ncross join lateral (\n" +
		"select d.*\nfrom public.soniq_dead_letter_jobs d" + w.SQL() + newestFirst + limit + "\n) d" + newestFirst + limit
	return func(r reading) string { return "select" + r.columns() + end }, w.Params()
}

// after adds the condition of a page after a position. If its row still exists,
// the row's own time counts: Go may have no value for it.
func (w *where) after(c Cursor) {
	if c == (Cursor{}) {
		return
	}
	id := w.Param(c.ID)
	w.And("(d.moved_to_dead_letter_at, d.id) < (coalesce((" +
		"select c.moved_to_dead_letter_at from public.soniq_dead_letter_jobs c where c.id = " + id + "), " +
		w.Param(c.MovedAt) + "), " + id + ")")
}

const (
	// mostNames is how many names a pattern may match to be replaced by them. A
	// pattern that matches more finds a page soon by reading rows in their order.
	mostNames = 64
	// mostNamesRead bounds the search for them, at about 10 us each.
	mostNamesRead = 2000
)

// A loose index scan: one look for each name that exists, however many rows have
// it. Rows with the same shortened name have the same whole one. $1 is mostNamesRead, and the pattern's condition comes last. A row without a
// name says that there are more names.
const namesSQL = `
with recursive names as (
  (select d.job_name, d.whole_job_name, 1 as n from public.soniq_dead_letter_jobs d order by d.job_name limit 1)
  union all
  select d.job_name, d.whole_job_name, n.n + 1
  from names n
  cross join lateral (
    select d.job_name, d.whole_job_name
    from public.soniq_dead_letter_jobs d
    where d.job_name > n.job_name
    order by d.job_name
    limit 1
  ) d
  where n.n <= $1
)
select case when d.n <= $1 then d.job_name end
from names d
where (d.n > $1 or `

// resolveName replaces a pattern by the names that match it, if they are few. The
// filter picks the same rows.
func (q *Queue) resolveName(ctx context.Context, f Filter) (Filter, error) {
	if f.NameLike == "" || f.JobNames != nil {
		return f, nil
	}
	w := &where{}
	w.Param(mostNamesRead)
	w.nameLike(f.NameLike)
	rows, err := q.pool.Query(ctx, namesSQL+w.Condition()+")"+w.Limit(mostNames+1), w.Params()...)
	if err != nil {
		return f, err
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[*string])
	if err != nil || len(found) > mostNames || slices.Contains(found, nil) {
		return f, err
	}
	names := make([]string, len(found))
	for i, name := range found {
		names[i] = *name
	}
	f.JobNames, f.NameLike = names, ""
	return f, nil
}

// Count returns how many dead letters the filter picks, at most its Limit. It is
// the preview of [Queue.DeleteAll] and [Queue.Export]. [Queue.ReplayCount] is that
// of [Queue.ReplayAll].
//
// Errors: a wrong filter; those of the database.
func (q *Queue) Count(ctx context.Context, f Filter) (int64, error) {
	if err := f.Validate(); err != nil {
		return 0, fmt.Errorf("count dead letters: %w", err)
	}
	n, err := q.count(ctx, whereOf(f), f.Limit)
	if err != nil {
		return 0, fmt.Errorf("count dead letters: %w", err)
	}
	return n, nil
}

// count counts the rows of w, up to the limit.
func (q *Queue) count(ctx context.Context, w *where, limit int) (n int64, err error) {
	sql := "select count(*) from (select from public.soniq_dead_letter_jobs d" + w.SQL() + w.Limit(limit) + ") picked"
	err = byindex.UnhurriedRow(ctx, q.pool, sql, w.Params(), &n)
	return n, err
}

// Get returns one dead letter.
//
// Errors: [ErrNotFound]; those of the database.
func (q *Queue) Get(ctx context.Context, id uuid.UUID) (Job, error) {
	jobs, err := q.readBounded(ctx, pg.SingleBytes, []any{id}, func(r reading) string { return r.selectJobs() + "\nwhere d.id = $1" })
	if err == nil && len(jobs) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Job{}, fmt.Errorf("get dead letter %s: %w", id, err)
	}
	return jobs[0], nil
}

// Picks reports whether the filter picks a dead letter. The filter's Limit doesn't
// count. A dead letter that doesn't exist is not picked.
//
// Errors: a wrong filter; those of the database.
func (q *Queue) Picks(ctx context.Context, f Filter, id uuid.UUID) (bool, error) {
	if err := f.Validate(); err != nil {
		return false, fmt.Errorf("look at dead letter %s: %w", id, err)
	}
	w := whereOf(f)
	w.And("d.id = " + w.Param(id))
	var picked bool
	if err := q.pool.QueryRow(ctx, "select exists (select from public.soniq_dead_letter_jobs d"+w.SQL()+")", w.Params()...).Scan(&picked); err != nil {
		return false, fmt.Errorf("look at dead letter %s: %w", id, err)
	}
	return picked, nil
}

// survey runs a statement that counts up to millions of rows, and passes its rows
// to read. Without JIT: compiling so many expressions takes PostgreSQL two seconds,
// which it never saves.
func (q *Queue) survey(ctx context.Context, sql string, params []any, read func(pgx.Rows) error) error {
	return pg.InTxWith(ctx, q.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "set local jit = off"); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, sql, params...)
		if err != nil {
			return err
		}
		defer rows.Close()
		if err := read(rows); err != nil {
			return err
		}
		return rows.Err()
	})
}
