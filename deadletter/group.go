package deadletter

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/deadletter/classify"
	"soniq/internal/deadwrite"
	"soniq/internal/pg"
)

// TrendHours is how many hours the trend of a group covers.
const TrendHours = 24

// A Group is the dead letters of one cause: those with the same fingerprint. Of
// rows that another program wrote without one, those with the same job, reason and
// first line of the error, apart from numbers.
type Group struct {
	// ID is the fingerprint, or a digest in place of it. [Filter].Groups takes it.
	ID string `json:"group"`
	// Count is how many there are, and Dead, Replaying and Resolved how many of
	// them are in each state. Superseded are dead too, and their work died again in a
	// replay, or was replayed again since: they are not counted as Dead.
	Count      int64 `json:"count"`
	Dead       int64 `json:"dead"`
	Superseded int64 `json:"superseded"`
	Replaying  int64 `json:"replaying"`
	Resolved   int64 `json:"resolved"`
	// FirstSeen and LastSeen are the times of the first and the last death, in UTC.
	FirstSeen time.Time `json:"first_seen"`
	LastSeen  time.Time `json:"last_seen"`
	// Jobs and Reasons are those that occur, sorted. At most ten jobs.
	Jobs    []string          `json:"jobs"`
	Reasons []classify.Reason `json:"reasons"`
	// SampleID is the dead letter that died last, and SampleError its last error.
	SampleID    uuid.UUID `json:"sample_id"`
	SampleError string    `json:"sample_error"`
	// Trend counts the deaths of the last 24 hours, the oldest hour first.
	Trend []int64 `json:"trend"`
}

// Groups are counted by their key alone, so that PostgreSQL can do it in parallel
// and in little memory. Nearly all groups have one job and one reason; only the
// others are read again. $1 is the number of hours of the trend, $2 the limit. The
// places are those of the filter's conditions and of the 'and' or 'where' before
// another one.
// groupError is the latest error of a group, for a format.
var groupError = strings.ReplaceAll(pg.BoundedText("s.last_error", 65536), "%", "%%")

var groupsSQL = `
with groups as materialized (
  select
    ` + groupKey + ` as id,
    count(*) as n,
    count(*) filter (where d.state = 'dead') as dead,
    count(*) filter (where d.state = 'replaying') as replaying,
    count(*) filter (where d.state = 'resolved') as resolved,
    min(d.moved_to_dead_letter_at) as first_seen,
    max(d.moved_to_dead_letter_at) as last_seen,
    min(d.job_name collate "C") as first_job,
    max(d.job_name collate "C") as last_job,
    min(d.dead_letter_reason collate "C") as first_reason,
    max(d.dead_letter_reason collate "C") as last_reason
  from public.soniq_dead_letter_jobs d%[1]s
  group by 1
), recounted as materialized (
  select ` + groupKey + ` as id, count(*) as n
  from public.soniq_dead_letter_jobs d%[1]s%[2]s d.id in (` + deadwrite.Recounted + `)
  group by 1
), worst as (
  select
    g.id, g.n, g.dead - coalesce(r.n, 0) as dead, coalesce(r.n, 0) as superseded, g.replaying, g.resolved,
    g.first_seen, g.last_seen, g.first_job, g.last_job, g.first_reason, g.last_reason
  from groups g
  left join recounted r on r.id = g.id
  order by 3 desc, g.n desc, g.last_seen desc, g.id
  limit $2
), hours as materialized (
  select
    ` + groupKey + ` as id,
    $1::integer - 1 - floor(extract(epoch from now() - d.moved_to_dead_letter_at) / 3600)::integer as hour,
    count(*) as n
  from public.soniq_dead_letter_jobs d%[1]s%[2]s d.moved_to_dead_letter_at > now() - $1::integer * interval '1 hour'
    and d.moved_to_dead_letter_at <= now()
  group by 1, 2
)
select
  g.id, g.n, g.dead, g.superseded, g.replaying, g.resolved,
  least(greatest(g.first_seen, ` + earliest + `), ` + latest + `),
  least(greatest(g.last_seen, ` + earliest + `), ` + latest + `),
  case
    when g.first_job = g.last_job then array[g.first_job]
    else array(
      select distinct d.job_name
      from public.soniq_dead_letter_jobs d%[1]s%[2]s ` + groupKey + ` = g.id
      order by 1
      limit 10
    )
  end,
  case
    when g.first_reason = g.last_reason then array[g.first_reason]
    else array(
      select distinct d.dead_letter_reason
      from public.soniq_dead_letter_jobs d%[1]s%[2]s ` + groupKey + ` = g.id
      order by 1
    )
  end,
  s.id, coalesce(` + groupError + `, ''),
  array(
    select coalesce(h.n, 0)
    from generate_series(0, $1::integer - 1) as t (hour)
    left join hours h on h.id = g.id and h.hour = t.hour
    order by t.hour
  )
from worst g
cross join lateral (
  select d.id, d.last_error
  from public.soniq_dead_letter_jobs d%[1]s%[2]s ` + groupKey + ` = g.id
  order by d.moved_to_dead_letter_at desc, d.id desc
  limit 1
) s
order by g.dead desc, g.n desc, g.last_seen desc, g.id`

// Groups returns the groups of the dead letters that the filter picks: those with
// the most dead ones first, then the largest. The filter's Limit is the highest
// number of groups. Default 1,000.
//
// Errors: a wrong filter; those of the database.
func (q *Queue) Groups(ctx context.Context, f Filter) ([]Group, error) {
	groups, err := q.groups(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("group dead letters: %w", err)
	}
	return groups, nil
}

func (q *Queue) groups(ctx context.Context, f Filter) (groups []Group, err error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	if f.Limit == 0 {
		f.Limit = listLimit
	}
	sql, params := groupsSQLOf(f)
	err = q.survey(ctx, sql, params, func(rows pgx.Rows) error {
		groups, err = pgx.CollectRows(rows, scanGroup)
		return err
	})
	return groups, err
}

func scanGroup(row pgx.CollectableRow) (g Group, err error) {
	err = row.Scan(
		&g.ID, &g.Count, &g.Dead, &g.Superseded, &g.Replaying, &g.Resolved, &g.FirstSeen, &g.LastSeen,
		&g.Jobs, &g.Reasons, &g.SampleID, &g.SampleError, &g.Trend,
	)
	g.FirstSeen, g.LastSeen = g.FirstSeen.UTC(), g.LastSeen.UTC()
	return g, err
}

func groupsSQLOf(f Filter) (sql string, params []any) {
	w := &where{}
	w.Param(TrendHours) // $1
	w.Param(f.Limit)    // $2
	w.filter(f)
	and := "\n  and"
	if w.SQL() == "" {
		and = "\nwhere"
	}
	return fmt.Sprintf(groupsSQL, w.SQL(), and), w.Params()
}
