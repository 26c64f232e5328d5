package deadletter

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// A Backlog is how many dead letters there are, and how old the oldest is.
type Backlog struct {
	// Count is how many the filter picks, up to its Limit.
	Count int64
	// OldestID is the one that died first, whatever the Limit; nil if there is
	// none.
	OldestID *uuid.UUID
	// OldestAge is how long ago that was, by the database's clock; 0 if there
	// is none. Never negative.
	OldestAge time.Duration
}

// The count and the oldest are of one moment. %[1]s are the filter's conditions,
// %[2]s its limit. An age that no Duration can hold is read as 250 years.
const backlogSQL = `
select counted.n, oldest.id, coalesce(oldest.age, 0)::double precision
from (select count(*) as n from (select from public.soniq_dead_letter_jobs d%[1]s%[2]s) picked) counted
left join (
  select d.id, least(greatest(extract(epoch from clock_timestamp() - ` + movedAt + `), 0), 250 * 365.25 * 86400) as age
  from public.soniq_dead_letter_jobs d%[1]s` + oldestFirst + `
  limit 1
) oldest on true`

// Backlog measures the dead letters that the filter picks; those that wait for
// somebody have the state StateDead. With a Limit it stops counting there: to
// learn whether there are more than n, a Limit of n + 1 is quick on a table of
// any size.
func (q *Queue) Backlog(ctx context.Context, f Filter) (Backlog, error) {
	b, err := q.backlog(ctx, f)
	if err != nil {
		return Backlog{}, fmt.Errorf("measure dead letters: %w", err)
	}
	return b, nil
}

func (q *Queue) backlog(ctx context.Context, f Filter) (b Backlog, err error) {
	if err := f.Validate(); err != nil {
		return b, err
	}
	sql, params := f.backlogSQL()
	var age float64
	if err := q.pool.QueryRow(ctx, sql, params...).Scan(&b.Count, &b.OldestID, &age); err != nil {
		return Backlog{}, err
	}
	b.OldestAge = time.Duration(age * float64(time.Second))
	return b, nil
}

func (f Filter) backlogSQL() (sql string, params []any) {
	w := f.where()
	conditions, bound := w.sql(), ""
	if f.Limit > 0 {
		// In their order, which an index has: a scan of the table that hopes to
		// meet enough of them soon may have to read all of it.
		bound = oldestFirst + w.limit(f.Limit)
	}
	return fmt.Sprintf(backlogSQL, conditions, bound), w.params
}
