package deadletter

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// TrendHours is how many hours the trend of a group covers.
const TrendHours = 24

// A Group is the dead letters of one cause: those with the same fingerprint
// or, where another program has written none, with the same job, reason and
// first line of the error apart from its numbers.
type Group struct {
	// ID is the fingerprint, or what stands for it: what Filter.Groups takes.
	ID string `json:"group"`
	// Count is how many there are; Dead, Replaying and Resolved say in which
	// state.
	Count     int64 `json:"count"`
	Dead      int64 `json:"dead"`
	Replaying int64 `json:"replaying"`
	Resolved  int64 `json:"resolved"`
	// FirstSeen and LastSeen are the times of the first and the last death.
	FirstSeen time.Time `json:"first_seen"`
	LastSeen  time.Time `json:"last_seen"`
	// Jobs and Reasons are those that occur, in the order of their names; at
	// most ten jobs.
	Jobs    []string `json:"jobs"`
	Reasons []Reason `json:"reasons"`
	// SampleID is the one that died last, SampleError its last error.
	SampleID    uuid.UUID `json:"sample_id"`
	SampleError string    `json:"sample_error"`
	// Trend counts the deaths of the last 24 hours, the oldest hour first.
	Trend []int64 `json:"trend"`
}

// The rows are counted once, by all that is asked about them; the groups are
// made of those counts. $1 is the number of hours of the trend, $2 the limit.
// The place of %[1]s is the filter's, which is the samples' too.
const groupsSQL = `
with counts as materialized (
  select
    ` + groupKey + ` as id,
    d.job_name, d.dead_letter_reason, d.state,
    case
      when d.moved_to_dead_letter_at > now() - $1::integer * interval '1 hour' and d.moved_to_dead_letter_at <= now()
      then $1::integer - 1 - floor(extract(epoch from now() - d.moved_to_dead_letter_at) / 3600)::integer
    end as hour,
    count(*) as n,
    min(` + movedAt + `) as first_seen,
    max(` + movedAt + `) as last_seen
  from soniq_dead_letter_jobs d%[1]s
  group by 1, 2, 3, 4, 5
), groups as (
  select
    c.id,
    sum(c.n) as n,
    coalesce(sum(c.n) filter (where c.state = 'dead'), 0) as dead,
    coalesce(sum(c.n) filter (where c.state = 'replaying'), 0) as replaying,
    coalesce(sum(c.n) filter (where c.state = 'resolved'), 0) as resolved,
    min(c.first_seen) as first_seen,
    max(c.last_seen) as last_seen
  from counts c
  group by c.id
  order by dead desc, n desc, last_seen desc, c.id
  limit $2
)
select
  g.id, g.n::bigint, g.dead::bigint, g.replaying::bigint, g.resolved::bigint, g.first_seen, g.last_seen,
  array(select distinct c.job_name from counts c where c.id = g.id order by 1 limit 10),
  array(select distinct c.dead_letter_reason from counts c where c.id = g.id order by 1),
  s.id, coalesce(s.last_error, ''),
  array(
    select coalesce(sum(c.n), 0)::bigint
    from generate_series(0, $1::integer - 1) h
    left join counts c on c.id = g.id and c.hour = h
    group by h
    order by h
  )
from groups g
cross join lateral (
  select d.id, d.last_error
  from soniq_dead_letter_jobs d%[1]s%[2]s ` + groupKey + ` = g.id
  order by d.moved_to_dead_letter_at desc, d.id desc
  limit 1
) s
order by g.dead desc, g.n desc, g.last_seen desc, g.id`

// Groups returns the groups of the dead letters that the filter picks: those
// with the most dead ones first, then the largest. The filter's Limit is the
// highest number of groups; default 1,000.
func (q *Queue) Groups(ctx context.Context, f Filter) ([]Group, error) {
	groups, err := q.groups(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("group dead letters: %w", err)
	}
	return groups, nil
}

func (q *Queue) groups(ctx context.Context, f Filter) ([]Group, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	if f.Limit == 0 {
		f.Limit = listLimit
	}
	sql, params := f.groupsSQL()
	rows, err := q.pool.Query(ctx, sql, params...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (g Group, err error) {
		err = row.Scan(
			&g.ID, &g.Count, &g.Dead, &g.Replaying, &g.Resolved, &g.FirstSeen, &g.LastSeen,
			&g.Jobs, &g.Reasons, &g.SampleID, &g.SampleError, &g.Trend,
		)
		g.FirstSeen, g.LastSeen = g.FirstSeen.UTC(), g.LastSeen.UTC()
		return g, err
	})
}

func (f Filter) groupsSQL() (sql string, params []any) {
	w := &where{params: []any{TrendHours, f.Limit}}
	f.addTo(w)
	and := "\n  and"
	if len(w.conditions) == 0 {
		and = "\nwhere"
	}
	return fmt.Sprintf(groupsSQL, w.sql(), and), w.params
}
