// Package groupsql has the SQL of groups of dead letters: those of one cause.
package groupsql

import (
	"strings"

	"soniq/internal/deadwrite"
	"soniq/internal/pg"
)

// Key is the group of the row d: its fingerprint or, if another program wrote
// none, a digest of what failures of one cause have in common. It must match the
// expression of an index in schema.sql to the letter.
const Key = `coalesce(d.fingerprint, lpad(to_hex(hashtextextended(` +
	`d.job_name || '|' || d.dead_letter_reason || '|' || ` +
	`regexp_replace(left(split_part(coalesce(d.last_error, ''), chr(10), 1), 200), '[0-9a-f]*[0-9][0-9a-f-]*', '#', 'gi')` +
	`, 0)), 16, '0'))`

// groupError is the latest error of a group, for a format.
var groupError = strings.ReplaceAll(pg.BoundedText("s.last_error", 65536), "%", "%%")

// Groups counts the groups that conditions pick. They are counted by their key alone, so that PostgreSQL can do it in parallel
// and in little memory. Nearly all groups have one job and one reason; only the
// others are read again. $1 is the number of hours of the trend, $2 the limit. The
// places are those of the filter's conditions and of the 'and' or 'where' before
// another one.
var Groups = `
with groups as materialized (
  select
    ` + Key + ` as id,
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
  select ` + Key + ` as id, count(*) as n
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
    ` + Key + ` as id,
    $1::integer - 1 - floor(extract(epoch from now() - d.moved_to_dead_letter_at) / 3600)::integer as hour,
    count(*) as n
  from public.soniq_dead_letter_jobs d%[1]s%[2]s d.moved_to_dead_letter_at > now() - $1::integer * interval '1 hour'
    and d.moved_to_dead_letter_at <= now()
  group by 1, 2
)
select
  g.id, g.n, g.dead, g.superseded, g.replaying, g.resolved,
  least(greatest(g.first_seen, ` + pg.EarliestTime + `), ` + pg.LatestTime + `),
  least(greatest(g.last_seen, ` + pg.EarliestTime + `), ` + pg.LatestTime + `),
  case
    when g.first_job = g.last_job then array[g.first_job]
    else array(
      select distinct d.job_name
      from public.soniq_dead_letter_jobs d%[1]s%[2]s ` + Key + ` = g.id
      order by 1
      limit 10
    )
  end,
  case
    when g.first_reason = g.last_reason then array[g.first_reason]
    else array(
      select distinct d.dead_letter_reason
      from public.soniq_dead_letter_jobs d%[1]s%[2]s ` + Key + ` = g.id
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
  from public.soniq_dead_letter_jobs d%[1]s%[2]s ` + Key + ` = g.id
  order by d.moved_to_dead_letter_at desc, d.id desc
  limit 1
) s
order by g.dead desc, g.n desc, g.last_seen desc, g.id`
