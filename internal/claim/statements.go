package claim

import (
	"fmt"
	"strings"

	"soniq/internal/pg"
	"soniq/internal/tracecontext"
)

// form is one of the ways in which the statements are written.
type form struct {
	// many: the worker serves more than fewQueues.
	many bool
	// limited: some queues or names have room for fewer jobs than are asked for.
	limited bool
}

// fewQueues is up to how many queues each is looked into. Of more, those are looked for
// that have jobs: a probe of an empty queue takes 3 µs, and of a thousand one has jobs.
const fewQueues = 16

// statements are those of one form. Their first parameters are the same: $1 queues, $2
// job names; and of those that claim also $3 how many, $4 worker, $5 token, $6 the
// attempt limits of this worker by job name, $7 the limit of all other jobs. In the
// limited form $8 and $9 follow: how many jobs of a queue, and of a name, as JSON objects.
// Then come those that a statement names.
type statements struct {
	// whole claims the due jobs of the first lanes. floored does not look at what comes
	// before the floor of a lane: its last parameters are the queues, priorities and due
	// times of the floors.
	whole, floored string
	// rest is whole for queues with more lanes than are walked. It keeps the order of
	// priorities over all of them. So it reads on in each queue, and locks what it does
	// not take until it ends.
	rest string
	// known claims the due jobs of the lanes that it is given, in order of priority, in
	// each from a due time on. Its last parameters are the queues, priorities and due times.
	known string
	// cursor continues in the lane that the last claim took from, at its last job,
	// unless a more urgent lane has jobs or the queue was paused. It does not look at what
	// comes before the cursor. Its last parameters are the queue, the priority, and the
	// due time.
	cursor string
	// past is cursor where more urgent lanes have jobs that are not in scope: it looks into
	// those lanes, from their floors on, which are its very last parameters.
	past string
	// next returns the seconds until the next job in scope is due, by the database's
	// clock, and whether there are more lanes than it has walked: then it is the next one
	// of these alone. It takes no locks: a row that another session holds counts too, and
	// may be overdue. It does not look further ahead than the horizon, which is $3. The
	// last column is how long it took the server, in seconds. nextFloored does not look
	// at what comes before the floors, which are $4 to $6.
	next, nextFloored string
	// nextRest is next for what comes after the lanes that are walked. Of the jobs
	// within the horizon it looks at restLook in each queue. Its second column is whether
	// there are more.
	nextRest string
	// survey returns the lanes with a due job in the order in which claims take from them, each
	// with the due time of its first job. Its only parameter is $1, and it looks
	// into each queue.
	survey string
	// floors returns where claims can begin in the first lanes (see floors.go). $2 are the
	// names without a limit of their own, and $3 the others.
	floors string
}

var forms = func() map[form]*statements {
	all := map[form]*statements{}
	for _, many := range []bool{false, true} {
		for _, limited := range []bool{false, true} {
			f := form{many, limited}
			walk := f.walkLanes("")
			all[f] = &statements{
				whole:       walk + "," + f.picked(f.dueOfLanes("")) + takePicked,
				floored:     walk + "," + f.picked(f.dueOfLanes(f.floorOf(f.further()))) + takePicked,
				rest:        walk + f.restOfLanes() + "," + f.picked(f.dueOfAll()) + takePicked,
				known:       "\nwith " + f.picked(f.dueOfKnown()) + takePicked,
				cursor:      f.dueAtCursor() + takePicked,
				past:        f.duePastOthers() + takePicked,
				next:        walk + f.nextOfLanes(""),
				nextFloored: walk + f.nextOfLanes(f.floorOf(4)),
				nextRest:    walk + f.restOfLanes() + nextOfRest,
				floors:      walk + f.floorsOfLanes(),
				survey:      f.dueLanes(),
			}
		}
	}
	return all
}()

func (s *statements) wholeSQL() string   { return s.whole }
func (s *statements) flooredSQL() string { return s.floored }
func (s *statements) restSQL() string    { return s.rest }
func (s *statements) knownSQL() string   { return s.known }
func (s *statements) cursorSQL() string  { return s.cursor }
func (s *statements) pastSQL() string    { return s.past }

// The statements of a worker of few queues without limits, for tests of their plans.
// LimitedSQL is WholeSQL with limits.
var (
	WholeSQL     = forms[form{}].whole
	LimitedSQL   = forms[form{limited: true}].whole
	WholeRestSQL = forms[form{}].rest
	KnownSQL     = forms[form{}].known
	FloorsSQL    = forms[form{}].floors
	NextSQL      = forms[form{}].next
	NextRestSQL  = forms[form{}].nextRest
)

// further is the number of the first parameter that only one statement has.
func (f form) further() int {
	if f.limited {
		return 10
	}
	return 8
}

// entry are the columns of an entry of idx_soniq_jobs_claim, but for the queue.
const entry = `
      ` + pg.JobPriority + ` as priority,
      ` + pg.JobDue + ` as due`

const servedQueues = `unnest((select $1::text[])) as served (queue)`

// isPaused holds for a queue that is paused.
func isPaused(queue string) string {
	return `exists (select from public.soniq_queues p where p.name = ` + queue + ` and p.paused_at is not null)`
}

// nearQueues finds the served queues that have a queued job, with the first of it. It
// goes through two sorted lists, the index and the served queues, and looks in each for
// what the other has next: so the queues that only one of them has cost nothing.
const nearQueues = `
near (queue, priority, due, served) as (
  (
    select ` + pg.JobQueue + `,` + entry + `,
      ` + pg.JobQueue + ` = any ((select $1::text[])::text[])
    from public.soniq_jobs j
    where j.status = 'queued'
    order by ` + pg.JobQueue + `, ` + pg.JobPriority + `, ` + pg.JobDue + `
    limit 1
  )
  union all
  select ahead.queue, ahead.priority, ahead.due, ahead.queue = any ((select $1::text[])::text[])
  from near
  cross join lateral (
    (
      select ` + pg.JobQueue + ` as queue,` + entry + `
      from public.soniq_jobs j
      where near.served
        and j.status = 'queued'
        and ` + pg.JobQueue + ` > near.queue
      order by ` + pg.JobQueue + `, ` + pg.JobPriority + `, ` + pg.JobDue + `
      limit 1
    )
    union all
    (
      select ` + pg.JobQueue + ` as queue,` + entry + `
      from public.soniq_jobs j
      where not near.served
        and j.status = 'queued'
        and ` + pg.JobQueue + ` >= (select min(served.queue) from ` + servedQueues + ` where served.queue > near.queue)
      order by ` + pg.JobQueue + `, ` + pg.JobPriority + `, ` + pg.JobDue + `
      limit 1
    )
  ) ahead
)`

// walkLanes lists the lanes (queue, priority) of the served queues that have a queued
// job, by a loose scan of idx_soniq_jobs_claim: one index probe for each lane, however
// many jobs wait in it or are scheduled far ahead. due is the due time of the lane's
// first job. Paused queues have no lanes.
//
// A probe takes 10 to 20 µs, and whoever may insert can make a lane of each job:
// 100,000 lanes made a claim take 2 s. So no statement reads all of lane, but
// firstLanes; what comes after those is the rest (see restOfLanes). The recursion goes
// no further than it is read: one level of all queues, then the next. It ends before the
// priority before, if that is not empty.
func (f form) walkLanes(before string) string {
	if before != "" {
		before = `
      and ` + pg.JobPriority + ` < ` + before
	}
	first, heads := "", `
  select served.queue, head.priority, head.due
  from `+servedQueues+`
  cross join lateral (
    select`+entry+`
    from public.soniq_jobs j
    where j.status = 'queued'
      and `+pg.JobQueue+` = served.queue`+before+`
    order by `+pg.JobPriority+`, `+pg.JobDue+`
    limit 1
  ) head
  where not `+isPaused("served.queue")
	if f.many {
		first, heads = nearQueues+",", `
  select j.queue, j.priority, j.due
  from near j
  where j.served`+strings.ReplaceAll(before, pg.JobPriority, "j.priority")+`
    and not `+isPaused("j.queue")
	}
	return `
with recursive ` + first + ` lane (queue, priority, due) as (` + heads + `
  union all
  select lane.queue, head.priority, head.due
  from lane
  cross join lateral (
    select` + entry + `
    from public.soniq_jobs j
    where j.status = 'queued'
      and ` + pg.JobQueue + ` = lane.queue
      and ` + pg.JobPriority + ` > lane.priority` + before + `
    order by ` + pg.JobPriority + `, ` + pg.JobDue + `
    limit 1
  ) head
)`
}

// mostLanes is how many lanes a statement walks, of all queues together. For few queues it is
// a literal: a computed limit makes each claim 1 % slower. Many queues have a lane each, and
// these don't count.
func (f form) mostLanes() string {
	if f.many {
		return `(select 500 + cardinality($1::text[]))`
	}
	return `500`
}

func (f form) firstLanes() string {
	return `(select queue, priority, due from lane limit ` + f.mostLanes() + `)`
}

// floorOf joins the floors to the first lanes. They are the parameters from n on.
func (form) floorOf(n int) string {
	return fmt.Sprintf(`
    left join unnest((select $%d::text[]), (select $%d::int[]), (select $%d::timestamptz[])) as floor (queue, priority, due)
      on floor.queue = first.queue and floor.priority = first.priority`, n, n+1, n+2)
}

// picked has the ids of the jobs to take, in their order. met lists those that may be
// taken, up to $3 of them. Where there are limits, it leaves out what is over one.
//
// Jobs over a limit don't count against another limit. So after a job that is over one,
// and counts against two, nothing more is taken: the next claim, which no longer asks for
// what is full, goes on.
func (f form) picked(met string) string {
	if !f.limited {
		return `
picked as materialized (` + met + `
)`
	}
	return `
met as materialized (` + met + `
), picked as materialized (
  select judged.id
  from (
    select counted.id, counted.place, counted.over,
      min(counted.place) filter (where counted.over and counted.twice) over () as stop
    from (
      select placed.id, placed.place,
        row_number() over (partition by placed.queue order by placed.place) > ($8::jsonb ->> placed.queue)::bigint is true
          or row_number() over (partition by placed.job_name order by placed.place) > ($9::jsonb ->> placed.job_name)::bigint is true as over,
        ($8::jsonb ? placed.queue) and ($9::jsonb ? placed.job_name) as twice
      from (select met.id, met.queue, met.job_name, row_number() over () as place from met) placed
    ) counted
  ) judged
  where not judged.over
    and (judged.stop is null or judged.place < judged.stop)
  order by judged.place
)`
}

// dueOfLanes has the due jobs of the first lanes, in order of priority. Among lanes of
// one priority, the lane whose first job has waited longest goes first, so no queue
// starves another. With floors, that is the first job from the floor on.
func (f form) dueOfLanes(floors string) string {
	begin, from := "first.due", ""
	if floors != "" {
		begin, from = "greatest(first.due, floor.due)", `
      and `+pg.JobDue+` >= due_lane.due`
	}
	return `
  select head.id, head.job_name, due_lane.queue, due_lane.priority, head.due
  from (
    select first.queue, first.priority, ` + begin + ` as due
    from ` + f.firstLanes() + ` first` + floors + `
    where first.due <= now()
    order by 2, 3
  ) due_lane
  cross join lateral (
    select j.id, j.job_name, ` + pg.JobDue + ` as due
    from public.soniq_jobs j
    where j.status = 'queued'
      and ` + pg.JobQueue + ` = due_lane.queue
      and ` + pg.JobPriority + ` = due_lane.priority` + from + `
      and ` + pg.JobDue + ` <= now()
      and j.job_name = any ((select $2::text[])::text[])
    order by ` + pg.JobDue + `
    limit (select $3::int)
    for update skip locked
  ) head
  limit (select $3::int)`
}

// dueLanes is the statement of a survey.
func (f form) dueLanes() string {
	return form{limited: f.limited}.walkLanes("") + `
select first.queue, first.priority, first.due
from ` + f.firstLanes() + ` first
where first.due <= now()
order by 2, 3`
}

// restOfLanes has, of each queue that is not paused, the priority of the last lane that
// was walked, or less than any. What comes after it is read entry by entry: 0.1 µs for
// an entry that is not due, 0.3 µs for one that is due under a name that is not served.
func (f form) restOfLanes() string {
	return `
, walked as materialized (
  select queue, max(priority) as priority
  from ` + f.firstLanes() + ` first
  group by queue
), rest as materialized (
  select served.queue, coalesce(walked.priority, -2147483649) as after
  from ` + servedQueues + `
  left join walked on walked.queue = served.queue
  where not ` + isPaused("served.queue") + `
)`
}

// dueOfAll has the due jobs of all lanes.
func (f form) dueOfAll() string {
	return `
  select u.id, u.job_name, u.queue
  from (
    (` + f.dueOfLanes("") + `
    )
    union all
    select head.id, head.job_name, rest.queue, head.priority, head.due
    from rest
    cross join lateral (
      select j.id, j.job_name,` + entry + `
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
  ) u
  order by u.priority, u.due
  limit (select $3::int)`
}

// dueOfKnown has the due jobs of known lanes.
func (f form) dueOfKnown() string {
	n := f.further()
	return fmt.Sprintf(`
  select head.id, head.job_name, known.queue
  from (
    select k.queue, k.priority, k.due
    from unnest((select $%d::text[]), (select $%d::int[]), (select $%d::timestamptz[])) with ordinality as k (queue, priority, due, place)
    where k.queue = any ((select $1::text[])::text[])
      and not `, n, n+1, n+2) + isPaused("k.queue") + `
    order by k.priority, k.due, k.place
  ) known
  cross join lateral (
    select j.id, j.job_name
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
  limit (select $3::int)`
}

// cursorOf are the parameters of the cursor.
func (f form) cursorOf() (queue, priority, due string) {
	n := f.further()
	return fmt.Sprintf(`(select $%d::text)`, n), fmt.Sprintf(`(select $%d::int)`, n+1), fmt.Sprintf(`(select $%d::timestamptz)`, n+2)
}

// dueAtCursor begins a statement that has the due jobs at the cursor.
func (f form) dueAtCursor() string {
	_, priority, _ := f.cursorOf()
	begin, urgent := "\nwith ", `
      select from `+servedQueues+`
      cross join lateral (
        select
        from public.soniq_jobs m
        where m.status = 'queued'
          and coalesce(m.queue, 'default') = served.queue
          and coalesce(m.priority, 100) < `+priority+`
        limit 1
      ) urgent`
	if f.many {
		begin, urgent = "\nwith recursive "+nearQueues+",", `
      select from near where near.served and near.priority < `+priority
	}
	return begin + f.picked(f.fromCursor(urgent))
}

// duePastOthers is dueAtCursor for more urgent lanes with jobs of others.
func (f form) duePastOthers() string {
	_, priority, _ := f.cursorOf()
	return f.walkLanes(priority) + "," + f.picked(f.fromCursor(`
      select from `+f.firstLanes()+` first`+f.floorOf(f.further()+3)+`
      cross join lateral (
        select
        from public.soniq_jobs j
        where j.status = 'queued'
          and `+pg.JobQueue+` = first.queue
          and `+pg.JobPriority+` = first.priority
          and `+pg.JobDue+` >= coalesce(floor.due, timestamptz '-infinity')
          and `+pg.JobDue+` <= now()
          and j.job_name = any ((select $2::text[])::text[])
        limit 1
      ) urgent`))
}

// fromCursor has the due jobs at the cursor, or none if there are urgent ones.
func (f form) fromCursor(urgent string) string {
	queue, priority, due := f.cursorOf()
	return `
  select j.id, j.job_name, ` + pg.JobQueue + ` as queue
  from public.soniq_jobs j
  where j.status = 'queued'
    and ` + pg.JobQueue + ` = ` + queue + `
    and ` + pg.JobPriority + ` = ` + priority + `
    and ` + pg.JobDue + ` >= ` + due + `
    and ` + pg.JobDue + ` <= now()
    and j.job_name = any ((select $2::text[])::text[])
    and not ` + isPaused(queue) + `
    and not exists (` + urgent + `
    )
  order by ` + pg.JobDue + `
  limit (select $3::int)
  for update skip locked`
}

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
var takePicked = `
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
  j.replay_of, ` + pg.JobDue + `, ` + tracecontext.Column("j.trace_context")

// nextOfLanes is when the next job of the first lanes is due.
func (f form) nextOfLanes(floors string) string {
	from := ""
	if floors != "" {
		from = `
    and ` + pg.JobDue + ` >= coalesce(floor.due, timestamptz '-infinity')`
	}
	return `
select` + secondsUntil + `, count(*) >= ` + f.mostLanes() + `,
  extract(epoch from clock_timestamp() - statement_timestamp())::float8
from ` + f.firstLanes() + ` first` + floors + `
left join lateral (
  select ` + pg.JobDue + ` as due
  from public.soniq_jobs j
  where j.status = 'queued'
    and ` + pg.JobQueue + ` = first.queue
    and ` + pg.JobPriority + ` = first.priority` + from + `
    and ` + pg.JobDue + ` <= now() + (select $3::interval)
    and j.job_name = any ((select $2::text[])::text[])
  order by ` + pg.JobDue + `
  limit 1
) head on true`
}

// secondsUntil is NULL where there is none: greatest(NULL, x) is x.
const secondsUntil = ` extract(epoch from min(greatest(head.due, now() - interval '1 day')) filter (where head.due is not null) - now())::float8`

// nextOfRest is when the next job after the first lanes is due.
const nextOfRest = `
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

// floorsOfLanes returns the floors of the first lanes that have one after their first
// job: the queue, the priority, the first due time of a name without a limit, and of the
// names with one, those that have a job before that, each with its first due time. Nothing
// is after a second ago: a transaction may have begun then, and not committed its job.
func (f form) floorsOfLanes() string {
	return `
select first.queue, first.priority, least(open.due, now() - interval '1 second'), bounded.names, bounded.dues
from ` + f.firstLanes() + ` first
left join lateral (
  select ` + pg.JobDue + ` as due
  from public.soniq_jobs j
  where j.status = 'queued'
    and ` + pg.JobQueue + ` = first.queue
    and ` + pg.JobPriority + ` = first.priority
    and ` + pg.JobDue + ` <= now()
    and j.job_name = any ((select $2::text[])::text[])
  order by ` + pg.JobDue + `
  limit 1
) open on true
left join lateral (
  select array_agg(n.job_name) as names, array_agg(n.due) as dues
  from (
    select j.job_name, least(min(` + pg.JobDue + `), now() - interval '1 second') as due
    from public.soniq_jobs j
    where j.status = 'queued'
      and ` + pg.JobQueue + ` = first.queue
      and ` + pg.JobPriority + ` = first.priority
      and ` + pg.JobDue + ` < coalesce(open.due, now())
      and j.job_name = any ((select $3::text[])::text[])
    group by j.job_name
  ) n
  where cardinality((select $3::text[])) > 0
) bounded on true
where first.due <= now() - interval '1 second'
  and (open.due > first.due or open.due is null)`
}
