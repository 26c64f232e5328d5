package engine

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
)

// An AmbiguousError says that the ids of several jobs begin alike.
type AmbiguousError struct {
	// Prefix is what they begin with.
	Prefix string
	// IDs are the first of them, sorted. At most ten.
	IDs []uuid.UUID
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%d or more jobs have an id that begins with %s: give more of it", len(e.IDs), e.Prefix)
}

// $1 and $2 are the first and the last id with the prefix.
const findJobSQL = `
(
  select id
  from public.soniq_jobs
  where id between $1 and $2
  order by id
  limit 10
) union (
  select id
  from public.soniq_dead_letter_jobs
  where id between $1 and $2
  order by id
  limit 10
)
order by id
limit 10`

// FindJob returns the id of the job, or the dead letter, whose id begins with prefix: at
// least 8 hex digits, and dashes anywhere.
//
// Errors: [ErrJobNotFound], for a prefix that can't be one too; an [*AmbiguousError];
// those of the database.
func (c *Client) FindJob(ctx context.Context, prefix string) (uuid.UUID, error) {
	first, last, ok := pg.IDRange(prefix)
	if !ok {
		return uuid.Nil, ErrJobNotFound
	}
	rows, _ := c.pool.Query(ctx, findJobSQL, first, last)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	switch {
	case err != nil:
		return uuid.Nil, fmt.Errorf("find job: %w", err)
	case len(ids) == 0:
		return uuid.Nil, ErrJobNotFound
	case len(ids) > 1:
		return uuid.Nil, &AmbiguousError{Prefix: prefix, IDs: ids}
	}
	return ids[0], nil
}
