package claim

import "soniq/internal/pg"

// walkLanes lists the lanes (queue, priority) of the served queues that have a queued
// job, by a loose scan of idx_soniq_jobs_claim: one index probe for each lane, however
// many jobs wait in it or are scheduled far ahead. due is the due time of the lane's
// first job. Paused queues have no lanes. Parameter: $1 queues.
//
// A probe takes 10 to 20 µs, and whoever may insert can make a lane of each job:
// 100,000 lanes made a claim take 2 s. So no statement reads all of lane, but
// firstLanes; what comes after those is the rest (see restOfLanes). The recursion goes
// no further than it is read: one level of all queues, then the next.
const walkLanes = `
with recursive lane (queue, priority, due) as (
  select served.queue, head.priority, head.due
  from unnest((select $1::text[])) as served (queue)
  cross join lateral (
    select
      ` + pg.JobPriority + ` as priority,
      ` + pg.JobDue + ` as due
    from public.soniq_jobs j
    where j.status = 'queued'
      and ` + pg.JobQueue + ` = served.queue
    order by ` + pg.JobPriority + `, ` + pg.JobDue + `
    limit 1
  ) head
  where not exists (select from public.soniq_queues p where p.name = served.queue and p.paused_at is not null)
  union all
  select lane.queue, head.priority, head.due
  from lane
  cross join lateral (
    select
      ` + pg.JobPriority + ` as priority,
      ` + pg.JobDue + ` as due
    from public.soniq_jobs j
    where j.status = 'queued'
      and ` + pg.JobQueue + ` = lane.queue
      and ` + pg.JobPriority + ` > lane.priority
    order by ` + pg.JobPriority + `, ` + pg.JobDue + `
    limit 1
  ) head
)`

// mostLanes is how many lanes a statement walks, of all queues together. It is a
// literal: a computed limit makes each claim 1 % slower.
const mostLanes = `500`

const firstLanes = `(select queue, priority, due from lane limit ` + mostLanes + `)`

// dueOfLanes has the due jobs of the first lanes, in order of priority. Among lanes of
// one priority, the lane whose first job has waited longest goes first, so no queue
// starves another.
const dueOfLanes = `
  select head.id, due_lane.priority, head.due
  from (
    select queue, priority
    from ` + firstLanes + ` first
    where due <= now()
    order by priority, due
  ) due_lane
  cross join lateral (
    select j.id, ` + pg.JobDue + ` as due
    from public.soniq_jobs j
    where j.status = 'queued'
      and ` + pg.JobQueue + ` = due_lane.queue
      and ` + pg.JobPriority + ` = due_lane.priority
      and ` + pg.JobDue + ` <= now()
      and j.job_name = any ((select $2::text[])::text[])
    order by ` + pg.JobDue + `
    limit (select $3::int)
    for update skip locked
  ) head
  limit (select $3::int)`

// WholeSQL claims the due jobs of the first lanes. Parameters: $1 queues, $2 job
// names, $3 how many, $4 worker, $5 token, $6 the attempt limits of this worker by job
// name, $7 the limit of all other jobs.
const WholeSQL = walkLanes + `
, picked as materialized (` + dueOfLanes + `
)` + takePicked

// restOfLanes has, of each queue that is not paused, the priority of the last lane that
// was walked, or less than any. What comes after it is read entry by entry: 0.1 µs for
// an entry that is not due, 0.3 µs for one that is due under a name that is not served.
const restOfLanes = `
, walked as materialized (
  select queue, max(priority) as priority
  from ` + firstLanes + ` first
  group by queue
), rest as materialized (
  select served.queue, coalesce(walked.priority, -2147483649) as after
  from unnest((select $1::text[])) as served (queue)
  left join walked on walked.queue = served.queue
  where not exists (select from public.soniq_queues p where p.name = served.queue and p.paused_at is not null)
)`

// WholeRestSQL is [WholeSQL] for queues with more lanes than are walked. It keeps the
// order of priorities over all of them. So it reads on in each queue, and locks what it
// does not take until it ends. Parameters: those of WholeSQL.
const WholeRestSQL = walkLanes + restOfLanes + `
, front as materialized (` + dueOfLanes + `
), back as materialized (
  select head.id, head.priority, head.due
  from rest
  cross join lateral (
    select
      j.id,
      ` + pg.JobPriority + ` as priority,
      ` + pg.JobDue + ` as due
    from public.soniq_jobs j
    where j.status = 'queued'
      and ` + pg.JobQueue + ` = rest.queue
      and ` + pg.JobPriority + ` > rest.after
      and ` + pg.JobDue + ` <= now()
      and j.job_name = any ((select $2::text[])::text[])
    order by ` + pg.JobPriority + `, ` + pg.JobDue + `
    limit (select $3::int)
    for update skip locked
  ) head
), picked as materialized (
  select u.id
  from (
    select id, priority, due from front
    union all
    select id, priority, due from back
  ) u
  order by u.priority, u.due
  limit (select $3::int)
)` + takePicked

// KnownSQL claims the due jobs of the lanes that it is given, in order of priority, in
// each from a due time on. Parameters: those of [WholeSQL], and $8 the queues, $9 the
// priorities, $10 the due times.
const KnownSQL = `
with picked as materialized (
  select head.id
  from (
    select k.queue, k.priority, k.due
    from unnest((select $8::text[]), (select $9::int[]), (select $10::timestamptz[])) as k (queue, priority, due)
    where k.queue = any ((select $1::text[])::text[])
      and not exists (select from public.soniq_queues p where p.name = k.queue and p.paused_at is not null)
    order by k.priority, k.due
  ) known
  cross join lateral (
    select j.id
    from public.soniq_jobs j
    where j.status = 'queued'
      and ` + pg.JobQueue + ` = known.queue
      and ` + pg.JobPriority + ` = known.priority
      and ` + pg.JobDue + ` >= known.due
      and ` + pg.JobDue + ` <= now()
      and j.job_name = any ((select $2::text[])::text[])
    order by ` + pg.JobDue + `
    limit (select $3::int)
    for update skip locked
  ) head
  limit (select $3::int)
)` + takePicked

// CursorSQL continues in the lane that the last claim took from, at its last job,
// unless a more urgent lane has jobs or the queue was paused. It does not look at what
// comes before the cursor. Parameters: those of [WholeSQL], and $8 the queue, $9 the
// priority, $10 the due time.
const CursorSQL = `
with picked as materialized (
  select j.id
  from public.soniq_jobs j
  where j.status = 'queued'
    and ` + pg.JobQueue + ` = (select $8::text)
    and ` + pg.JobPriority + ` = (select $9::int)
    and ` + pg.JobDue + ` >= (select $10::timestamptz)
    and ` + pg.JobDue + ` <= now()
    and j.job_name = any ((select $2::text[])::text[])
    and not exists (
      select from public.soniq_queues p where p.name = (select $8::text) and p.paused_at is not null
    )
    and not exists (
      select from unnest((select $1::text[])) as served (queue)
      cross join lateral (
        select
        from public.soniq_jobs m
        where m.status = 'queued'
          and coalesce(m.queue, 'default') = served.queue
          and coalesce(m.priority, 100) < (select $9::int)
        limit 1
      ) urgent
    )
  order by ` + pg.JobDue + `
  limit (select $3::int)
  for update skip locked
)` + takePicked

// smallArgs is the arguments of a row that has them small and uncompressed, else NULL.
// Their length is asked for only above 160 bytes, which nearly all jobs stay below. So
// at most 1.5 MB of text are read for nothing; with 2,000 bytes it would be 19 MB. Each
// claim pays for this expression for each job: 0.2 µs.
const smallArgs = `case
    when pg_column_size(j.args) <= 2000 and pg_column_compression(j.args) is null
      and (pg_column_size(j.args) <= 160 or octet_length(j.args::text) <= 16384)
    then j.args
  end`

// takePicked claims the picked jobs. One bad row must not fail the claim of the others,
// and never after it was committed: attempts are counted from 0 and can't overflow, and
// times at infinity, which Go can't hold, are read like NULL. Nor may a claim return
// more than the worker can hold: only small arguments come with it, and texts are cut.
// The name and the queue are ours.
const takePicked = `
update public.soniq_jobs j
set status = 'processing',
  attempts = least(greatest(coalesce(j.attempts, 0), 0), 2147483646) + 1,
  worker_id = $4,
  claim_token = $5,
  cancel_requested_at = null,
  max_attempts = coalesce(($6::jsonb ->> j.job_name)::int, least(greatest(coalesce(j.max_attempts, 4), 1), $7::int)),
  updated_at = now()
from picked
where j.id = picked.id
returning
  j.id, j.job_name, ` + smallArgs + `, ` + pg.JobQueue + `, ` + pg.JobPriority + `,
  j.attempts, j.max_attempts,
  case when isfinite(j.scheduled_at) then j.scheduled_at end,
  case when isfinite(j.created_at) then j.created_at else now() end,
  j.updated_at,
  left(j.last_error, 8192), left(j.producer_id, 1000), left(j.dedup_key, 3000),
  j.replay_of, ` + pg.JobDue

// NextSQL returns the seconds until the next job in scope is due, by the database's
// clock, and whether there are more lanes than it has walked: then it is the next one
// of these alone. It takes no locks: a row that another session holds counts too, and
// may be overdue. It does not look further ahead than the horizon. The last column is
// how long it took the server, in seconds. Parameters: $1 queues, $2 job names, $3
// horizon.
const NextSQL = walkLanes + `
select` + secondsUntil + `, count(*) >= ` + mostLanes + `,
  extract(epoch from clock_timestamp() - statement_timestamp())::float8
from ` + firstLanes + ` first
left join lateral (
  select ` + pg.JobDue + ` as due
  from public.soniq_jobs j
  where j.status = 'queued'
    and ` + pg.JobQueue + ` = first.queue
    and ` + pg.JobPriority + ` = first.priority
    and ` + pg.JobDue + ` <= now() + (select $3::interval)
    and j.job_name = any ((select $2::text[])::text[])
  order by ` + pg.JobDue + `
  limit 1
) head on true`

const secondsUntil = ` extract(epoch from min(greatest(head.due, now() - interval '1 day')) - now())::float8`

// NextRestSQL is [NextSQL] for what comes after the lanes that are walked. Of the jobs
// within the horizon it looks at restLook in each queue. Its second column is whether
// there are more.
const NextRestSQL = walkLanes + restOfLanes + `
select` + secondsUntil + `, coalesce(max(head.seen) >= ` + restLook + `, false),
  extract(epoch from clock_timestamp() - statement_timestamp())::float8
from rest
cross join lateral (
  select min(near.due) filter (where near.job_name = any ((select $2::text[])::text[])) as due, count(*) as seen
  from (
    select j.job_name, ` + pg.JobDue + ` as due
    from public.soniq_jobs j
    where j.status = 'queued'
      and ` + pg.JobQueue + ` = rest.queue
      and ` + pg.JobPriority + ` > rest.after
      and ` + pg.JobDue + ` <= now() + (select $3::interval)
    order by ` + pg.JobPriority + `, ` + pg.JobDue + `
    limit ` + restLook + `
  ) near
) head`

// restLook takes some 5 ms.
const restLook = `10000`
