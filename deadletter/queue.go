package deadletter

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// listLimit bounds a List without a limit of its own: its rows are all held in
// memory. Export has no need of one.
const listLimit = 1000

// Queue reads and works the dead letters of one database. It may be used by
// any number of goroutines.
type Queue struct {
	pool *pgxpool.Pool
}

// NewQueue returns the dead-letter queue of the pool's database. The caller
// closes the pool.
func NewQueue(pool *pgxpool.Pool) *Queue {
	return &Queue{pool: pool}
}

const selectJobs = "select" + jobColumns + "\nfrom soniq_dead_letter_jobs d"

// newestFirst is total: rows that died in the same microsecond have an order
// too, so that a limit cuts at the same place each time.
const newestFirst = "\norder by d.moved_to_dead_letter_at desc, d.id desc"

const oldestFirst = "\norder by d.moved_to_dead_letter_at, d.id"

// List returns the dead letters that the filter picks, newest first.
func (q *Queue) List(ctx context.Context, f Filter) ([]Job, error) {
	if err := f.Validate(); err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	if f.Limit == 0 {
		f.Limit = listLimit
	}
	w := f.where()
	rows, err := q.pool.Query(ctx, selectJobs+w.sql()+newestFirst+w.limit(f.Limit), w.params...)
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	jobs, err := pgx.CollectRows(rows, scanJob)
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	return jobs, nil
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
	sql := "select count(*) from (select from soniq_dead_letter_jobs d" + w.sql() + w.limit(limit) + ") picked"
	err = q.pool.QueryRow(ctx, sql, w.params...).Scan(&n)
	return n, err
}

const getSQL = selectJobs + "\nwhere d.id = $1"

// Get returns one dead letter, or ErrNotFound.
func (q *Queue) Get(ctx context.Context, id uuid.UUID) (Job, error) {
	rows, err := q.pool.Query(ctx, getSQL, id)
	if err != nil {
		return Job{}, fmt.Errorf("get dead letter %s: %w", id, err)
	}
	j, err := pgx.CollectExactlyOneRow(rows, scanJob)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return Job{}, fmt.Errorf("get dead letter %s: %w", id, err)
	}
	return j, nil
}
