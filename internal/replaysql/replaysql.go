// Package replaysql has the statements that make jobs of dead letters, and those of a
// bulk replay.
//
// A bulk replay fills its tables faster than anything counts their rows: what the planner
// knows of them is from before, or from the middle of an earlier replay. So a batch runs
// under [byindex.LookupSQL], looks each row up by an index, and reads no more rows than it
// has.
package replaysql

import "soniq/internal/pg"

// Options are the first parameters of the statements that make jobs.
type Options struct {
	// KeepAttempts keeps the attempts of the dead letter.
	KeepAttempts bool
	// MaxAttempts are the job's; 0 is as many as the dead letter has.
	MaxAttempts int
	// Priority and Queue are the job's; nil and "" are those of the dead letter.
	Priority *int
	Queue    string
	// Delay is a time.Duration.
	Delay any
	// Operation is the one that it is part of, a *uuid.UUID, or nil.
	Operation any
	// Actor and Comment are for the history.
	Actor, Comment string
}

// Params are the parameters $1 to $8.
func (o Options) Params() []any {
	return []any{o.KeepAttempts, o.MaxAttempts, o.Priority, o.Queue, o.Delay, o.Operation, o.Actor, o.Comment}
}

// columns are those of a dead letter that its job is made of.
const columns = `d.id, d.job_name, d.whole_job_name, d.args, d.args_hash, d.attempts, d.max_attempts, d.queue,
    d.whole_queue, d.priority, d.unique_job, d.dedup_key, d.producer_id, d.trace_context`

// made inserts a queued job for each row of picked, in the order of their places, and
// links the two.
//
// A job that is equal to a queued one under either unique index isn't made, and
// its dead letter isn't changed. The trigger on the insert wakes the workers.
// created_at is the clock's time, not the transaction's: the jobs of one
// transaction run in their order.
//
// A name and a queue that were shortened become whole again. What the unique
// indexes of the queue can't hold is not unique.
const made = `made as (
  insert into public.soniq_jobs (
    id, job_name, args, args_hash, status, attempts, max_attempts,
    queue, priority, unique_job, dedup_key, producer_id, replay_of, created_at, scheduled_at, trace_context
  )
  select
    p.job_id, coalesce(p.whole_job_name, p.job_name), coalesce(p.other_args::jsonb, p.args),
    case when p.other_args is not null and p.args_hash is not null then p.other_hash else p.args_hash end, 'queued',
    case when $1 then p.attempts else 0 end,
    case when $2 > 0 then $2 else greatest(p.max_attempts, 1) end,
    coalesce(nullif($4, ''), p.whole_queue, p.queue),
    coalesce($3, p.priority),
    coalesce(p.unique_job, false) and p.whole_job_name is null
      and octet_length(p.job_name) + octet_length(coalesce(p.args_hash, '')) <= 2500,
    case when octet_length(p.dedup_key) <= 2500 then p.dedup_key end, p.producer_id, p.id, clock_timestamp(),
    case when $5::interval > interval '0' then clock_timestamp() + $5::interval end, p.trace_context
  from picked p
  order by p.place
  on conflict do nothing
  returning id, replay_of
), linked as (
  update public.soniq_dead_letter_jobs d
  set
    state = 'replaying',
    closed = null,
    replay_job_id = made.id,
    resurrection_count = least(coalesce(d.resurrection_count, 0), 2147483646) + 1,
    last_resurrection_at = clock_timestamp()
  from made
  where d.id = made.replay_of
  returning d.id, made.id as job_id
), recorded as (
  insert into public.soniq_dead_letter_audit (dead_letter_id, operation_id, action, actor, comment, because, job_id, detail)
  select l.id, $6::uuid, 'replay', nullif($7, ''), nullif($8, ''), nullif($8, ''), l.job_id, `

// Make makes the jobs of dead letters that are locked. It returns the ids of both for
// those that it made.
//
// After [Options]: $9 dead letters, $10 the new ids, $11 and $12 the other arguments of
// each and their hash, or null, $13 the detail of each record or null.
const Make = `
with picked as (
  select
    u.position as place, u.job_id, u.args as other_args, u.args_hash as other_hash,
    ` + columns + `
  from unnest($9::uuid[], $10::uuid[], $11::text[], $12::text[]) with ordinality as u (id, job_id, args, args_hash, position)
  join public.soniq_dead_letter_jobs d on d.id = u.id
), ` + made + `u.detail::jsonb
  from linked l
  join unnest($9::uuid[], $13::text[]) as u (id, detail) on u.id = l.id
)
select id, job_id
from linked`

// taken takes the next rows of an operation's selection. They are deleted by their places in
// the table, so that nothing is joined, and what was taken before is not looked at. Whoever
// takes some holds the operation's lock.
func taken(operation, after, most string) string {
	return `taken as (
  delete from public.soniq_dead_letter_selections s
  where s.ctid = any (array(
    select p.ctid
    from public.soniq_dead_letter_selections p
    where p.operation_id = (select ` + operation + `::uuid)
      and p.place > ` + after + `
    order by p.place
    limit ` + most + `
  ))
  returning s.place, s.dead_letter_id
)`
}

// Take takes the next rows of an operation's selection. $1 the operation, $2 the place
// after which they are, $3 the most.
func Take() string {
	return "\nwith " + taken("$1", "$2", "$3") + `
select dead_letter_id, place
from taken
order by place`
}

// A Batch is the next part of a bulk replay.
type Batch struct {
	Options
	// Fresh are the ids of the new jobs, a []uuid.UUID, as many as are taken at the most.
	Fresh any
	// After is the place in the selection after which it begins.
	After int64
	// Most is how many rows it takes at the most.
	Most int
}

// SQL takes the next rows of the operation's selection, locks those dead letters that
// conditions on d allow, and makes their jobs. conditions adds them, and their parameters.
// One that keeps its attempts and has none left is left out.
//
// It returns a row for each job, its dead letter and its id, and one that begins with null
// and has the number of rows taken and the last place.
//
// All that replay lock in the order of the places, which is that of the deaths: two at the
// same time don't deadlock. Each row is locked by a query of its own: a row that somebody has
// changed is looked at again, and all that is joined with it would be, too.
func (b Batch) SQL(conditions func(*pg.Where)) (sql string, params []any) {
	var w pg.Where
	for _, p := range b.Params() {
		w.Param(p)
	}
	sql = `
with ` + taken("$6", w.Param(b.After), w.Param(b.Most)) + `, locked as materialized (
  select t.place, d.*
  from (select place, dead_letter_id from taken order by place) t
  cross join lateral (
    select ` + columns + `
    from public.soniq_dead_letter_jobs d`
	fresh := w.Param(b.Fresh)
	w.And("d.id = t.dead_letter_id")
	conditions(&w)
	w.And("not ($1 and d.attempts >= case when $2 > 0 then $2 else d.max_attempts end)")
	sql += w.SQL() + `
    for update of d
  ) d
), picked as (
  select l.*, (` + fresh + `::uuid[])[row_number() over (order by l.place)] as job_id, null as other_args, null as other_hash
  from locked l
), ` + made + `null
  from linked l
)
select replay_of, id, null::bigint, null::bigint
from made
union all
select null, null, count(*), max(place)
from taken`
	return sql, w.Params()
}

// Breaker counts the latest replays of an operation that died again, and those that
// succeeded. A replay that died has a dead letter of its own. A replay that was cancelled
// says nothing about the cause. A subquery for one value is a look into an index, whatever
// the statistics say. $1 the operation, $2 the record before this run, $3 the window.
const Breaker = `
select
  count((select x.id from public.soniq_dead_letter_jobs x where x.id = a.job_id)),
  count(*) filter (where (select d.state from public.soniq_dead_letter_jobs d where d.id = a.dead_letter_id) = 'resolved')
from (
  select dead_letter_id, job_id
  from public.soniq_dead_letter_audit
  where operation_id = $1
    and id > $2
  order by id desc
  limit $3
) a`
