package deadletter

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/pg"
)

// listLimit bounds a List without a limit of its own: its rows are all held in
// memory. Export has no need of one.
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

// newestFirst is total: rows that died in the same microsecond have an order
// too, so that a limit cuts at the same place each time.
const newestFirst = "\norder by d.moved_to_dead_letter_at desc, d.id desc"

const oldestFirst = "\norder by d.moved_to_dead_letter_at, d.id"

// List returns the dead letters that the filter picks, newest first.
func (q *Queue) List(ctx context.Context, f Filter) ([]Job, error) {
	return q.ListAfter(ctx, f, Cursor{})
}

// A Cursor is a place in the order of List: that of the dead letter with this
// time of death and this id. The zero value is the place before the first one.
type Cursor struct {
	MovedAt time.Time
	ID      uuid.UUID
}

// Cursor returns the dead letter's place in the order of List.
func (j Job) Cursor() Cursor { return Cursor{MovedAt: j.MovedAt, ID: j.ID} }

// ListAfter returns the page that follows a place: the Cursor of the last row
// of the page before. What dies or is deleted meanwhile moves nothing: no row
// is shown twice or left out.
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
	sql, params := f.pageSQL(after)
	return q.readBounded(ctx, pg.ListedBytes, params, sql)
}

// pageSQL is the statement of a page. Of several job names it takes a page
// each and merges them: an index gives one name's rows in their order, and not
// those of many.
func (f Filter) pageSQL(after Cursor) (sql func(reading) string, params []any) {
	names := f.JobNames
	if len(names) > 1 {
		f.JobNames = nil
	}
	w := f.where()
	w.after(after)
	if len(names) <= 1 {
		end := w.sql() + newestFirst + w.limit(f.Limit)
		return func(r reading) string { return r.selectJobs() + end }, w.params
	}
	unique := slices.Compact(slices.Sorted(slices.Values(names)))
	from := "unnest(" + w.param(unique) + "::text[]) as n (name)"
	w.and("d.job_name = n.name")
	limit := w.limit(f.Limit)
	end := "\nfrom " + from + "\ncross join lateral (\n" +
		"select d.*\nfrom public.soniq_dead_letter_jobs d" + w.sql() + newestFirst + limit + "\n) d" + newestFirst + limit
	return func(r reading) string { return "select" + r.columns() + end }, w.params
}

// after adds the condition of a page that follows a place. While the row is
// there its own time counts, which can be one that Go has no value for.
func (w *where) after(c Cursor) {
	if c == (Cursor{}) {
		return
	}
	id := w.param(c.ID)
	w.and("(d.moved_to_dead_letter_at, d.id) < (coalesce((" +
		"select c.moved_to_dead_letter_at from public.soniq_dead_letter_jobs c where c.id = " + id + "), " +
		w.param(c.MovedAt) + "), " + id + ")")
}

const (
	// mostNames is how many names a pattern may stand for until its rows are
	// read in the order of time and compared one by one: a pattern that fits so
	// many finds a page soon.
	mostNames = 64
	// mostNamesRead bounds the search for them, at some 10 us each.
	mostNamesRead = 2000
)

// A loose scan: one look into the index for each name that there is, however
// many rows have it. $1 is mostNamesRead; the pattern's condition comes last,
// and a row without a name tells that there are more names than that.
const namesSQL = `
with recursive names as (
  (select d.job_name, 1 as place from public.soniq_dead_letter_jobs d order by d.job_name limit 1)
  union all
  select
    (
      select d.job_name
      from public.soniq_dead_letter_jobs d
      where d.job_name > n.job_name
      order by d.job_name
      limit 1
    ),
    n.place + 1
  from names n
  where n.job_name is not null
    and n.place <= $1
)
select case when d.place <= $1 then d.job_name end
from names d
where d.job_name is not null
  and (d.place > $1 or `

// resolveName puts the names that there are in the place of a pattern, where
// they are few. It picks the same rows.
func (q *Queue) resolveName(ctx context.Context, f Filter) (Filter, error) {
	if f.NameLike == "" || f.JobNames != nil {
		return f, nil
	}
	w := &where{}
	w.param(mostNamesRead)
	w.nameLike(f.NameLike)
	rows, err := q.pool.Query(ctx, namesSQL+w.conditions[0]+")"+w.limit(mostNames+1), w.params...)
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

// Count returns how many dead letters the filter picks. With a Limit it is
// never higher than that, as befits the preview of a limited verb: DeleteAll
// and Export. ReplayCount is the preview of ReplayAll.
func (q *Queue) Count(ctx context.Context, f Filter) (int64, error) {
	if err := f.Validate(); err != nil {
		return 0, fmt.Errorf("count dead letters: %w", err)
	}
	n, err := q.count(ctx, f.where(), f.Limit)
	if err != nil {
		return 0, fmt.Errorf("count dead letters: %w", err)
	}
	return n, nil
}

// count counts the rows of w, up to the limit.
func (q *Queue) count(ctx context.Context, w *where, limit int) (n int64, err error) {
	sql := "select count(*) from (select from public.soniq_dead_letter_jobs d" + w.sql() + w.limit(limit) + ") picked"
	err = q.pool.QueryRow(ctx, sql, w.params...).Scan(&n)
	return n, err
}

// Get returns one dead letter, or ErrNotFound.
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

// Picks reports whether the filter picks the dead letter, its Limit aside.
// One that doesn't exist is not picked.
func (q *Queue) Picks(ctx context.Context, f Filter, id uuid.UUID) (bool, error) {
	if err := f.Validate(); err != nil {
		return false, fmt.Errorf("look at dead letter %s: %w", id, err)
	}
	w := f.where()
	w.and("d.id = " + w.param(id))
	var picked bool
	if err := q.pool.QueryRow(ctx, "select exists (select from public.soniq_dead_letter_jobs d"+w.sql()+")", w.params...).Scan(&picked); err != nil {
		return false, fmt.Errorf("look at dead letter %s: %w", id, err)
	}
	return picked, nil
}

// survey runs a statement that counts what may be millions of rows, and hands
// its answer to read. It is not compiled before: for statements with so many
// expressions that takes PostgreSQL two seconds, which it never wins back.
func (q *Queue) survey(ctx context.Context, sql string, params []any, read func(pgx.Rows) error) error {
	return pgx.BeginTxFunc(ctx, q.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
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
