package deadletter

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
)

// MinPrefix is the lowest number of hex digits that [Queue.Find] takes as the
// beginning of an id.
const MinPrefix = pg.MinPrefix

// An AmbiguousError says that the ids of several dead letters begin alike.
type AmbiguousError struct {
	// Prefix is what they begin with.
	Prefix string
	// IDs are the first of them, sorted. At most ten.
	IDs []uuid.UUID
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%d or more dead letters have an id that begins with %s: give more of it", len(e.IDs), e.Prefix)
}

// IsPrefix reports whether s can be the beginning of an id: it has [MinPrefix] to
// 32 hex digits, and dashes anywhere.
func IsPrefix(s string) bool {
	_, _, ok := pg.IDRange(s)
	return ok
}

// $1 and $2 are the first and the last id with the prefix.
const findSQL = `
select id
from public.soniq_dead_letter_jobs
where id between $1 and $2
order by id
limit 10`

// Find returns the id of the dead letter whose id begins with prefix. A prefix for
// which [IsPrefix] is false finds nothing.
//
// Errors: [ErrNotFound]; [*AmbiguousError]; those of the database.
func (q *Queue) Find(ctx context.Context, prefix string) (uuid.UUID, error) {
	first, last, ok := pg.IDRange(prefix)
	if !ok {
		return uuid.Nil, ErrNotFound
	}
	rows, _ := q.pool.Query(ctx, findSQL, first, last)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	switch {
	case err != nil:
		return uuid.Nil, fmt.Errorf("find dead letter: %w", err)
	case len(ids) == 0:
		return uuid.Nil, ErrNotFound
	case len(ids) > 1:
		return uuid.Nil, &AmbiguousError{Prefix: prefix, IDs: ids}
	}
	return ids[0], nil
}
