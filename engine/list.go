package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
)

// defaultListLimit is more than a person reads, and takes little memory.
const defaultListLimit = 1000

// JobFilter selects jobs. The zero value selects all.
type JobFilter struct {
	// Statuses, Queues and Names select jobs that have one of the values. Nil
	// selects any. A list that is empty but not nil is an error. Dead letters are
	// not listed: see [deadletter.Queue.List]. Default nil.
	Statuses []JobStatus
	Queues   []string
	Names    []string
	// Limit is the most jobs that are listed. Default 1,000.
	Limit int
}

func (f JobFilter) validate() error {
	for field, empty := range map[string]bool{
		"statuses": f.Statuses != nil && len(f.Statuses) == 0,
		"queues":   f.Queues != nil && len(f.Queues) == 0,
		"names":    f.Names != nil && len(f.Names) == 0,
	} {
		if empty {
			return &ArgumentError{field, "are an empty list; leave it nil to select any"}
		}
	}
	known := []JobStatus{StatusQueued, StatusProcessing, StatusDone, StatusCancelled}
	for _, status := range f.Statuses {
		if !slices.Contains(known, status) {
			return &ArgumentError{"status", fmt.Sprintf("must be queued, processing, done or cancelled, not %q", string(status))}
		}
	}
	if f.Limit < 0 {
		return &ArgumentError{"limit", fmt.Sprintf("must not be negative, not %d", f.Limit)}
	}
	return nil
}

// Ids of version 7 are in order of time: they order jobs of the same microsecond.
func listSQL(most int) string {
	return `
select` + jobColumns(most) + `
from public.soniq_jobs
where ($1::text[] is null or status = any ($1))
  and ($2::text[] is null or coalesce(queue, 'default') = any ($2))
  and ($3::text[] is null or job_name = any ($3))
order by created_at desc nulls last, id desc
limit $4`
}

// ListJobs returns the jobs that match, the newest first.
//
// Errors: an [*ArgumentError] for a mistake in the filter; else those of the
// database.
func (c *Client) ListJobs(ctx context.Context, f JobFilter) ([]*Job, error) {
	if err := f.validate(); err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	if f.Limit == 0 {
		f.Limit = defaultListLimit
	}
	list := func(most int) (jobs []*Job, err error) {
		err = pg.Again(ctx, c.pool, func(db pg.Querier) (err error) {
			rows, _ := db.Query(ctx, listSQL(most), f.Statuses, f.Queues, f.Names, f.Limit)
			jobs, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Job, error) { return scanJob(row) })
			return err
		})
		return jobs, err
	}
	jobs, err := list(pg.ListedBytes)
	if pg.IsTooLarge(err) {
		jobs, err = list(pg.PlainBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	return jobs, nil
}
