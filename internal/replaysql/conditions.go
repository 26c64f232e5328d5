package replaysql

// OutcomeUnknown is the condition that a program which doesn't record the outcome, such as
// Python Soniq, replayed the row d. It can be null.
const OutcomeUnknown = `(
    d.state = 'dead' and d.replay_job_id is null
    and d.last_resurrection_at > d.moved_to_dead_letter_at
  )`

// Dead is the condition that the row d is in the state dead. It has what the index of open dead
// letters has in its condition; whether they are dead is looked up in the table, since the state
// is in no index.
const Dead = "d.state = 'dead' and d.closed is distinct from 'resolved'"

// Superseded is the condition that a replay of the row d died, and has
// a dead letter of its own.
const Superseded = "exists (select from public.soniq_dead_letter_jobs s where s.id = d.replay_job_id)"

// Overtaken is the condition that the row d is a replay that died, and what it replayed was
// replayed again since. A subquery for one value is run for the few rows that need it; an exists could
// become a join with the whole table.
const Overtaken = "coalesce(d.replay_of is not null and (" +
	"select p.replay_job_id <> d.id from public.soniq_dead_letter_jobs p where p.id = d.replay_of), false)"

// ReplaysOf is the SQL of how often the work of a dead letter was replayed: itself
// and those that it is a replay of. Rows made by hand can form a circle. It is the
// same as the function soniq_dead_letter_replays in schema.sql, which programs of
// 0.1.0 call, and needs no right to execute one.
func ReplaysOf(id string) string {
	return `(
  with recursive line (parent, replays, depth) as (
    select f.replay_of, f.resurrection_count, 1
    from public.soniq_dead_letter_jobs f
    where f.id = ` + id + `
    union all
    select f.replay_of, f.resurrection_count, l.depth + 1
    from line l
    join public.soniq_dead_letter_jobs f on f.id = l.parent
    where l.depth < 100
  )
  select least(coalesce(sum(l.replays), 0), 1000000)::integer
  from line l
)`
}

var (
	// State reads what decides whether a dead letter can be replayed. $1 the dead letter.
	State = `
select d.state, d.replay_job_id, d.attempts, d.max_attempts, ` + ReplaysOf("d.id") + `
from public.soniq_dead_letter_jobs d
where d.id = $1`
	// LockState is State that locks the row.
	LockState = State + `
for update`
)

// Duplicate reads the queued job that is equal to the dead letter $1 under one of the unique
// indexes. $2 is the hash of other arguments, or null.
const Duplicate = `
select j.id
from public.soniq_dead_letter_jobs d
join public.soniq_jobs j on j.status = 'queued' and (
  d.unique_job and j.unique_job and j.job_name = d.job_name
    and j.args_hash = case when d.args_hash is not null then coalesce($2, d.args_hash) end
  or j.dedup_key = d.dedup_key
)
where d.id = $1
limit 1`

// LongQueue is the condition that the name of the row's queue was shortened: the index of the
// queue may not hold the whole of it, so a bulk replay can't take the row.
const LongQueue = "d.whole_queue is not null"

// LeftOut counts what a filter matches and a bulk replay doesn't take. The places are those of
// the conditions superseded, outcome unknown, exhausted and long queue, and of the filter.
const LeftOut = `
select
  count(*) filter (where d.state = 'replaying'),
  count(*) filter (where d.state = 'resolved'),
  count(*) filter (where d.state = 'dead' and %[1]s),
  count(*) filter (where d.state = 'dead' and %[2]s),
  count(*) filter (where d.state = 'dead' and not %[1]s and %[2]s is not true and %[3]s),
  count(*) filter (where d.state = 'dead' and not %[1]s and %[2]s is not true and not %[3]s and %[4]s)
from public.soniq_dead_letter_jobs d%[5]s`

// UniqueRows reads the rows that one of the two unique indexes can refuse, in the order in which
// they would be inserted, and whether an equal job is queued for each: one with
// the same arguments, one with the same key. The place is that of the query that
// picks the rows.
const UniqueRows = `
select
  p.id,
  case when p.unique_job and p.args_hash is not null then p.job_name end,
  case when p.unique_job then p.args_hash end,
  p.dedup_key,
  p.args,
  exists (
    select from public.soniq_jobs j
    where j.status = 'queued' and j.unique_job and p.unique_job and j.job_name = p.job_name and j.args_hash = p.args_hash
  ),
  exists (
    select from public.soniq_jobs j
    where j.status = 'queued' and j.dedup_key = p.dedup_key
  )
from (%s) p
where p.dedup_key is not null
   or p.unique_job and p.args_hash is not null
order by p.moved_to_dead_letter_at, p.id`

// QueuedEqual reads the positions, from 1, of the names $1 and hashes $2 that a queued job has.
const QueuedEqual = `
select u.position
from unnest($1::text[], $2::text[]) with ordinality as u (name, hash, position)
where exists (
  select from public.soniq_jobs j
  where j.status = 'queued' and j.unique_job and j.job_name = u.name and j.args_hash = u.hash
)`
