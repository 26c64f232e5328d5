package deadletter

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"soniq/internal/byindex"
	"soniq/internal/replaysql"
)

// A Backlog is how many dead letters there are, and how old the oldest is.
type Backlog struct {
	// Count is how many the filter picks, at most its Limit.
	Count int64
	// OldestID is the one that died first, whatever the Limit. Nil if there is
	// none.
	OldestID *uuid.UUID
	// OldestAge is how long ago that was, by the database's clock, between 0 and
	// 250 years. 0 if there is none.
	OldestAge time.Duration
}

// The count and the oldest are of one snapshot. The places are those of the filter's
// conditions and of its limit. A Duration can't hold 300 years.
const backlogSQL = `
select counted.n, oldest.id, coalesce(oldest.age, 0)::double precision
from (select count(*) as n from (select from public.soniq_dead_letter_jobs d%[1]s%[2]s) picked) counted
left join (
  select d.id, least(greatest(extract(epoch from clock_timestamp() - ` + movedAt + `), 0), 250 * 365.25 * 86400) as age
  from public.soniq_dead_letter_jobs d%[1]s` + oldestFirst + `
  limit 1
) oldest on true`

// Backlog counts the dead letters that the filter picks and finds the oldest. Those
// that need attention have the state [StateDead]. With it a piece of work counts once,
// however often its replays have died: as its latest death. Counting stops at the Limit: with
// a Limit of n + 1, whether there are more than n is a fast query on a table of any
// size.
//
// Errors: a wrong filter; those of the database.
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
	sql, params := backlogSQLOf(f)
	var age float64
	read := byindex.UnhurriedRow
	if f.Limit > 0 {
		// Whatever the planner knows of the table, it reads no more than it counts.
		read = byindex.LookupRow
	}
	if err := read(ctx, q.pool, sql, params, &b.Count, &b.OldestID, &age); err != nil {
		return Backlog{}, err
	}
	b.OldestAge = time.Duration(age * float64(time.Second))
	return b, nil
}

func backlogSQLOf(f Filter) (sql string, params []any) {
	w := whereOf(f)
	if f.State == StateDead {
		// Nearly all that count with a younger dead letter are passed over in the index. The others,
		// and those of programs that know of no index, are looked up one by one.
		w.And("d.closed is null")
		w.And("(d.replay_job_id is null or (select s.id from public.soniq_dead_letter_jobs s where s.id = d.replay_job_id) is null)")
		w.And("not " + replaysql.Overtaken)
	}
	conditions, bound := w.SQL(), ""
	if f.Limit > 0 {
		// In the order of an index: a scan of the table could have to read all of it
		// before it meets enough rows.
		bound = oldestFirst + w.Limit(f.Limit)
	}
	return fmt.Sprintf(backlogSQL, conditions, bound), w.Params()
}
