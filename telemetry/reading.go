package telemetry

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/internal/liveness"
	"soniq/internal/pg"
)

// Bounds of one reading. They keep it under 50 ms with ten million jobs: a row takes 1 to 5
// µs, since the index of claims has expressions, so that each row is looked up in the table
// too. A count that reaches its bound means 'this many, or more'; then samplePages random
// pages of the table give an estimate.
const (
	// maxQueues is how many queues are named beside those that workers serve, and maxJobs
	// how many job names of dead letters.
	maxQueues, maxJobs = 100, 100
	// queuedRows is how many queued jobs are counted of all queues together, and no
	// fewer than minQueuedRows nor more than maxQueuedRows of each.
	queuedRows, minQueuedRows, maxQueuedRows = 6_000, 100, 1_000
	// deadRows and the others are the same for the dead letters of a job.
	deadRows, minDeadRows, maxDeadRows = 3_000, 50, 1_000
	// processingRows, recentRows and pendingRows are for all queues, jobs and hooks.
	processingRows, recentRows = 2_000, 1_000
	maxHooks, pendingRows      = 100, 1_000
	samplePages                = 200
	// totalRows bounds the count of all dead ones, and oldestRows the search for the oldest.
	totalRows, oldestRows = 2_000, 1_000
	// maxName is how many characters of a name are read.
	maxName = 200
)

// RecentWindow is how far back [Reading.Recent] looks.
const RecentWindow = 5 * time.Minute

// Reading is what the database was seen to hold at one moment. Counts are bounded: see
// the fields that end with Bound. Names beyond a limit are together under 'other'.
type Reading struct {
	Queues []QueueReading `json:"queues"`
	// QueuedBound is where the counts of due and of scheduled jobs of one queue stop.
	QueuedBound int64 `json:"queued_bound"`
	// Estimates are the server's own estimates of how many rows there are, by what they
	// are, as of the last VACUUM or ANALYZE.
	Estimates map[string]int64 `json:"estimates"`
	Workers   []WorkersReading `json:"workers"`
	// Dead are the dead letters by state, job name and reason. Of each job name the
	// latest DeadBound count.
	Dead      []DeadReading `json:"dead_letters"`
	DeadBound int64         `json:"dead_bound"`
	// jobPages and deadPages are how large the tables are.
	jobPages, deadPages int64
	// DeadTotal counts all in the state dead, up to 2,000.
	DeadTotal int64 `json:"dead_total"`
	// OldestDead is for how many seconds the oldest dead letter has been in the state
	// dead. 0 if there is none.
	OldestDead float64 `json:"oldest_dead_seconds"`
	// Recent are those that died within [RecentWindow], the latest 1,000.
	Recent []DeadReading `json:"recent"`
	// Hooks is nil if the role may not read them.
	Hooks []HookReading `json:"hooks,omitempty"`
	// More are the kinds of names of which there are as many as are read, or more.
	More []string `json:"more,omitempty"`
	// Took is how many seconds the reading took.
	Took float64 `json:"took_seconds"`
}

// QueueReading counts the jobs of a queue.
type QueueReading struct {
	Queue      string `json:"queue"`
	Due        int64  `json:"due"`
	Scheduled  int64  `json:"scheduled"`
	Processing int64  `json:"processing"`
	// Estimates are these counts where they are below the bound, and else what a sample of
	// the table says.
	DueEstimate        int64 `json:"due_estimate"`
	ScheduledEstimate  int64 `json:"scheduled_estimate"`
	ProcessingEstimate int64 `json:"processing_estimate"`
	// OldestDue is for how many seconds the oldest due job has been due. 0 if none is.
	OldestDue float64 `json:"oldest_due_seconds"`
	Paused    bool    `json:"paused"`
}

// WorkersReading counts the workers of one kind, 'go' or 'python', whose heartbeat is not
// overdue.
type WorkersReading struct {
	Runtime string `json:"runtime"`
	Alive   int64  `json:"alive"`
	// Slots is how many jobs they run at once together.
	Slots int64 `json:"slots"`
}

// DeadReading counts dead letters that have these in common.
type DeadReading struct {
	State   string `json:"state,omitempty"`
	JobName string `json:"job_name"`
	Reason  string `json:"reason"`
	Count   int64  `json:"count"`
	// Estimate is Count where the job name has fewer dead letters than are counted, and
	// else what a sample of the table says. Recent ones have none.
	Estimate int64 `json:"estimate,omitempty"`
}

// HookReading counts the deliveries of a hook.
type HookReading struct {
	Hook    string `json:"hook"`
	Enabled bool   `json:"enabled"`
	// Pending is up to 1,000.
	Pending int64 `json:"pending"`
	// OldestPending is for how many seconds the oldest of these has waited.
	OldestPending float64 `json:"oldest_pending_seconds"`
	// Failures is how many deliveries failed in a row.
	Failures int64 `json:"failures"`
	// Dropped is how many were dropped since the hook was made, because too many waited.
	Dropped int64 `json:"dropped"`
}

// limitsSQL is for the transaction that reads. With a sequential scan a statement would
// read ten million rows; the bounds hold only for an index.
const limitsSQL = `
select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true), set_config('enable_incremental_sort', 'off', true),
  set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true),
  set_config('statement_timeout', $1, true), set_config('lock_timeout', $1, true), set_config('idle_in_transaction_session_timeout', $1, true)`

// namesSQL lists the queues that have queued jobs, by a loose scan of
// idx_soniq_jobs_claim, after them those that workers serve or that are paused, and the
// job names of dead letters. Parameters: $1 and $2 how many queues and job names.
const namesSQL = `
with recursive queue (name) as (
  (select ` + pg.JobQueue + ` from public.soniq_jobs j where j.status = 'queued' order by ` + pg.JobQueue + ` limit 1)
  union all
  select (
    select ` + pg.JobQueue + `
    from public.soniq_jobs j
    where j.status = 'queued' and ` + pg.JobQueue + ` > queue.name
    order by ` + pg.JobQueue + `
    limit 1
  )
  from queue
  where queue.name is not null
), job (name) as (
  (select d.job_name from public.soniq_dead_letter_jobs d order by d.job_name limit 1)
  union all
  select (select d.job_name from public.soniq_dead_letter_jobs d where d.job_name > job.name order by d.job_name limit 1)
  from job
  where job.name is not null
)
select 'queue', name from (select name from queue limit $1) q where name is not null
union all
select 'served', name
from (
  select name from (select unnest(w.queues) as name from public.soniq_workers w where w.status <> 'stopped' limit 10000) w
  where name is not null
  union
  (select p.name from public.soniq_queues p where p.paused_at is not null limit 100)
  order by 1
  limit $1
) s
union all
select 'job', name from (select name from job limit $2) j where name is not null`

// queuesSQL counts the queued jobs of queues, in the first 500 lanes (queue and priority),
// as package claim walks them. Parameters: $1 queues, $2 the bound.
const queuesSQL = `
with recursive walk (queue, priority, due) as (
  select named.queue, head.priority, head.due
  from unnest((select $1::text[])) as named (queue)
  cross join lateral (
    select ` + pg.JobPriority + ` as priority, ` + pg.JobDue + ` as due
    from public.soniq_jobs j
    where j.status = 'queued' and ` + pg.JobQueue + ` = named.queue
    order by ` + pg.JobPriority + `, ` + pg.JobDue + `
    limit 1
  ) head
  union all
  select walk.queue, head.priority, head.due
  from walk
  cross join lateral (
    select ` + pg.JobPriority + ` as priority, ` + pg.JobDue + ` as due
    from public.soniq_jobs j
    where j.status = 'queued' and ` + pg.JobQueue + ` = walk.queue and ` + pg.JobPriority + ` > walk.priority
    order by ` + pg.JobPriority + `, ` + pg.JobDue + `
    limit 1
  ) head
), lane as materialized (select * from walk limit 500)
select
  named.queue,
  (
    select count(*) from (
      select from lane
      cross join lateral (
        select from public.soniq_jobs j
        where j.status = 'queued' and ` + pg.JobQueue + ` = lane.queue and ` + pg.JobPriority + ` = lane.priority
          and ` + pg.JobDue + ` <= now()
        limit (select $2::int)
      ) j
      where lane.queue = named.queue and lane.due <= now()
      limit (select $2::int)
    ) counted
  ) as due,
  (
    select count(*) from (
      select from lane
      cross join lateral (
        select from public.soniq_jobs j
        where j.status = 'queued' and ` + pg.JobQueue + ` = lane.queue and ` + pg.JobPriority + ` = lane.priority
          and ` + pg.JobDue + ` > now()
        limit (select $2::int)
      ) j
      where lane.queue = named.queue
      limit (select $2::int)
    ) counted
  ) as scheduled,
  coalesce((
    select extract(epoch from now() - min(lane.due)) from lane where lane.queue = named.queue and lane.due <= now() and isfinite(lane.due)
  ), 0)::float8 as oldest,
  exists (select from public.soniq_queues p where p.name = named.queue and p.paused_at is not null)
from unnest((select $1::text[])) as named (queue)`

// otherQueuesSQL counts the queued jobs of the queues after the last one that was walked.
// Parameters: $1 that queue, $2 the queues that are counted already, $3 the bound.
const otherQueuesSQL = `
select count(*) filter (where due <= now()), count(*) filter (where due > now()),
  coalesce(extract(epoch from now() - min(due) filter (where due <= now() and isfinite(due))), 0)::float8
from (
  select ` + pg.JobQueue + ` as queue, ` + pg.JobDue + ` as due
  from public.soniq_jobs j
  where j.status = 'queued' and ` + pg.JobQueue + ` > $1
  order by ` + pg.JobQueue + `
  limit $3
) rest
where queue <> all ($2::text[])`

// processingSQL counts the jobs that run. Parameter: $1 the bound.
const processingSQL = `
select j.queue, count(*)
from (select ` + pg.JobQueue + ` as queue from public.soniq_jobs j where j.status = 'processing' limit (select $1::int)) j
group by 1`

// estimatesSQL returns how many rows there are, as VACUUM or ANALYZE has last estimated, and
// on how many pages.
const estimatesSQL = `
select e.what, c.reltuples::bigint, pg_relation_size(c.oid) / current_setting('block_size')::int
from (values
  ('jobs', to_regclass('public.soniq_jobs')),
  ('queued_jobs', to_regclass('public.idx_soniq_jobs_claim')),
  ('dead_letters', to_regclass('public.soniq_dead_letter_jobs')),
  ('hook_deliveries', to_regclass('public.soniq_hook_deliveries'))
) e (what, class)
join pg_catalog.pg_class c on c.oid = e.class`

// sampleJobsSQL counts jobs on random pages. Parameter: $1 how many of a hundred.
const sampleJobsSQL = `
select
  ` + pg.JobQueue + `,
  case when j.status = 'processing' then 'processing' when ` + pg.JobDue + ` <= now() then 'due' else 'scheduled' end,
  count(*)
from public.soniq_jobs j tablesample system ($1)
where j.status in ('queued', 'processing')
group by 1, 2`

// sampleDeadSQL is the same for dead letters.
const sampleDeadSQL = `
select d.job_name, d.state, d.dead_letter_reason, count(*)
from public.soniq_dead_letter_jobs d tablesample system ($1)
group by 1, 2, 3`

// workersSQL counts the workers. Parameters: $1 and $2 after how long one of Go and one of
// Python is dead.
var workersSQL = `
select r.runtime, count(w.id), coalesce(sum(w.concurrency), 0)::bigint
from (values ('go', true), ('python', false)) r (runtime, go)
left join public.soniq_workers w on w.status <> 'stopped' and coalesce(w.version like 'go/%', false) = r.go
  and ` + liveness.LiveSQL("w", "$1", "$2") + `
group by 1`

// deadSQL counts the latest dead letters of job names. Parameters: $1 names, $2 the bound.
const deadSQL = `
select n.name, d.state, d.reason, count(*)
from unnest((select $1::text[])) as n (name)
cross join lateral (
  select d.state, d.dead_letter_reason as reason
  from public.soniq_dead_letter_jobs d
  where d.job_name >= n.name and d.job_name <= n.name -- with '=' the order is another index's too
  order by d.job_name desc, d.moved_to_dead_letter_at desc
  limit (select $2::int)
) d
group by 1, 2, 3`

// otherDeadSQL counts those of the names after the last. Parameters: $1 it, $2 the bound.
const otherDeadSQL = `
select 'other', d.state, d.reason, count(*)
from (
  select d.state, d.dead_letter_reason as reason
  from public.soniq_dead_letter_jobs d
  where d.job_name > $1
  order by d.job_name
  limit $2
) d
group by 2, 3`

// deadTotalSQL counts the dead ones and finds the oldest, each piece of work once: what was
// superseded is closed, and passed over in the index. Parameters: $1 the bound, $2 how many
// are looked at for the oldest: those that are being replayed may come first.
const deadTotalSQL = `
select
  (
    select count(*)
    from (
      select from public.soniq_dead_letter_jobs d
      where d.closed is distinct from 'resolved' and d.closed is null and d.state = 'dead'
      order by d.moved_to_dead_letter_at, d.id -- the order of that index alone
      limit (select $1::int)
    ) d
  ),
  coalesce((
    select extract(epoch from now() - min(d.at) filter (where d.state = 'dead' and isfinite(d.at)))
    from (
      select d.moved_to_dead_letter_at as at, d.state
      from public.soniq_dead_letter_jobs d
      where d.closed is distinct from 'resolved' and d.closed is null
      order by d.moved_to_dead_letter_at, d.id -- the order of that index alone
      limit (select $2::int)
    ) d
  ), 0)::float8`

// recentSQL counts who died lately. Parameters: $1 within which time, $2 the bound.
const recentSQL = `
select d.job_name, '', d.dead_letter_reason, count(*)
from (
  select d.job_name, d.dead_letter_reason
  from public.soniq_dead_letter_jobs d
  where d.moved_to_dead_letter_at >= now() - (select $1::interval)
  order by d.moved_to_dead_letter_at desc
  limit (select $2::int)
) d
group by 1, 3`

// rightsSQL tells whether the role may read of the hooks what hooksSQL reads, and whether it
// may share its reading: it may write to soniq_leader_tasks, on a server that takes writes.
const rightsSQL = `
select
  not exists (
    select
    from unnest(
      array['id', 'name', 'enabled', 'failures', 'dropped', 'hook_id', 'state', 'created_at', 'next_attempt_at'],
      array[1, 1, 1, 1, 1, 2, 2, 2, 2]
    ) r (name, class)
    where not has_column_privilege(
      case r.class when 1 then 'public.soniq_hook_status'::regclass else 'public.soniq_hook_deliveries'::regclass end, r.name, 'select')
  ),
  has_table_privilege('public.soniq_leader_tasks', 'select') and has_table_privilege('public.soniq_leader_tasks', 'insert')
    and has_table_privilege('public.soniq_leader_tasks', 'update')
    and not pg_is_in_recovery() and current_setting('transaction_read_only') = 'off'`

// hooksSQL counts the deliveries of hooks. Parameters: $1 hooks, $2 the bound of each.
const hooksSQL = `
select h.name, h.enabled, p.pending, coalesce(extract(epoch from now() - p.oldest), 0)::float8, h.failures, h.dropped
from (select id, name, enabled, failures, dropped from public.soniq_hook_status order by name limit (select $1::int)) h
cross join lateral (
  select count(*) as pending, min(p.created_at) as oldest
  from (
    select d.created_at
    from public.soniq_hook_deliveries d
    where d.hook_id = h.id and d.state = 'pending'
    order by d.next_attempt_at
    limit (select $2::int)
  ) p
) p
order by h.name`

// read makes a reading in tx, which must have the limits of limitsSQL.
func read(ctx context.Context, tx pgx.Tx, hooks bool) (r *Reading, err error) {
	began := time.Now()
	r = &Reading{Estimates: map[string]int64{}}
	n, err := readNames(ctx, tx)
	if err != nil {
		return nil, err
	}
	for _, part := range []struct {
		what string
		read func(context.Context, pgx.Tx, names) error
	}{
		{"rows", r.readEstimates}, {"queues", r.readQueues}, {"workers", r.readWorkers}, {"dead letters", r.readDead},
	} {
		if err := part.read(ctx, tx, n); err != nil {
			return nil, fmt.Errorf("count %s: %w", part.what, err)
		}
	}
	if hooks {
		if err := r.readHooks(ctx, tx); err != nil {
			return nil, fmt.Errorf("count deliveries of hooks: %w", err)
		}
	}
	if len(n.walked) == maxQueues {
		r.More = append(r.More, "queues")
	}
	if len(n.jobs) == maxJobs {
		r.More = append(r.More, "job names of dead letters")
	}
	if len(r.Hooks) == maxHooks {
		r.More = append(r.More, "hooks")
	}
	r.tidy()
	r.Took = time.Since(began).Seconds()
	return r, nil
}

// names are what is counted by name.
type names struct {
	// walked are the queues with queued jobs, in order, and all those with the served ones.
	walked, all []string
	jobs        []string
}

func readNames(ctx context.Context, tx pgx.Tx) (n names, err error) {
	rows, _ := tx.Query(ctx, namesSQL, maxQueues, maxJobs)
	var kind, name string
	if _, err := pgx.ForEachRow(rows, []any{&kind, &name}, func() error {
		switch kind {
		case "queue":
			n.walked = append(n.walked, name)
		case "job":
			n.jobs = append(n.jobs, name)
		}
		if kind != "job" && !slices.Contains(n.all, name) {
			n.all = append(n.all, name)
		}
		return nil
	}); err != nil {
		return n, fmt.Errorf("list queues and jobs: %w", err)
	}
	slices.Sort(n.all)
	return n, nil
}

// share is what each of n gets of all, from least to most.
func share(all, n, least, most int) int { return min(max(all/max(n, 1), least), most) }

func (r *Reading) readQueues(ctx context.Context, tx pgx.Tx, n names) error {
	bound := share(queuedRows, len(n.all), minQueuedRows, maxQueuedRows)
	r.QueuedBound = int64(bound)
	by := map[string]int{}
	at := func(queue string) *QueueReading {
		i, ok := by[queue]
		if !ok {
			i = len(r.Queues)
			by[queue] = i
			r.Queues = append(r.Queues, QueueReading{Queue: queue})
		}
		return &r.Queues[i]
	}
	rows, _ := tx.Query(ctx, queuesSQL, n.all, bound)
	var q QueueReading
	if _, err := pgx.ForEachRow(rows, []any{&q.Queue, &q.Due, &q.Scheduled, &q.OldestDue, &q.Paused}, func() error {
		*at(q.Queue) = q
		return nil
	}); err != nil {
		return err
	}
	if len(n.walked) == maxQueues {
		other := QueueReading{Queue: Other}
		err := tx.QueryRow(ctx, otherQueuesSQL, n.walked[maxQueues-1], n.all, bound).Scan(&other.Due, &other.Scheduled, &other.OldestDue)
		if err != nil {
			return err
		}
		*at(Other) = other
	}
	rows, _ = tx.Query(ctx, processingSQL, processingRows)
	var queue string
	var count, processing int64
	if _, err := pgx.ForEachRow(rows, []any{&queue, &count}, func() error {
		if _, ok := by[queue]; !ok && len(by) >= 2*maxQueues {
			queue = Other
		}
		at(queue).Processing += count
		processing += count
		return nil
	}); err != nil {
		return err
	}
	return r.estimateQueues(ctx, tx, processing >= processingRows)
}

// estimateQueues fills in the estimates. most: more jobs are running than were counted.
func (r *Reading) estimateQueues(ctx context.Context, tx pgx.Tx, most bool) error {
	sample := most
	by := map[string]*QueueReading{}
	for i := range r.Queues {
		q := &r.Queues[i]
		by[q.Queue] = q
		q.DueEstimate, q.ScheduledEstimate, q.ProcessingEstimate = q.Due, q.Scheduled, q.Processing
		sample = sample || max(q.Due, q.Scheduled) >= r.QueuedBound
	}
	if !sample {
		return nil
	}
	percent, scale := sampling(r.jobPages)
	rows, _ := tx.Query(ctx, sampleJobsSQL, percent)
	var queue, state string
	var count int64
	_, err := pgx.ForEachRow(rows, []any{&queue, &state, &count}, func() error {
		q := by[queue]
		if q == nil {
			q = by[Other]
		}
		estimate := int64(float64(count) * scale)
		switch {
		case q == nil:
		case state == "due" && q.Due >= r.QueuedBound:
			q.DueEstimate = max(q.DueEstimate, estimate)
		case state == "scheduled" && q.Scheduled >= r.QueuedBound:
			q.ScheduledEstimate = max(q.ScheduledEstimate, estimate)
		case state == "processing" && most:
			q.ProcessingEstimate = max(q.ProcessingEstimate, estimate)
		}
		return nil
	})
	return err
}

// sampling is how many of a hundred pages are read, and how many rows each one stands for.
func sampling(pages int64) (percent, scale float64) {
	percent = min(100*samplePages/float64(max(pages, 1)), 100)
	return percent, 100 / percent
}

func (r *Reading) readWorkers(ctx context.Context, tx pgx.Tx, _ names) (err error) {
	rows, _ := tx.Query(ctx, workersSQL, liveness.DeadAfter, liveness.PythonDeadAfter)
	r.Workers, err = pgx.CollectRows(rows, pgx.RowToStructByPos[WorkersReading])
	return err
}

func (r *Reading) readEstimates(ctx context.Context, tx pgx.Tx, _ names) error {
	rows, _ := tx.Query(ctx, estimatesSQL)
	var what string
	var count, pages int64
	_, err := pgx.ForEachRow(rows, []any{&what, &count, &pages}, func() error {
		if count >= 0 { // -1: not known yet
			r.Estimates[what] = count
		}
		switch what {
		case "jobs":
			r.jobPages = pages
		case "dead_letters":
			r.deadPages = pages
		}
		return nil
	})
	return err
}

func (r *Reading) readDead(ctx context.Context, tx pgx.Tx, n names) error {
	bound := share(deadRows, len(n.jobs), minDeadRows, maxDeadRows)
	r.DeadBound = int64(bound)
	rows, _ := tx.Query(ctx, deadSQL, n.jobs, bound)
	dead, err := collectDead(rows)
	if err != nil {
		return err
	}
	r.Dead = dead
	if len(n.jobs) == maxJobs {
		rows, _ := tx.Query(ctx, otherDeadSQL, n.jobs[maxJobs-1], bound)
		other, err := collectDead(rows)
		if err != nil {
			return err
		}
		r.Dead = append(r.Dead, other...)
	}
	if err := r.estimateDead(ctx, tx); err != nil {
		return err
	}
	if err := tx.QueryRow(ctx, deadTotalSQL, totalRows, oldestRows).Scan(&r.DeadTotal, &r.OldestDead); err != nil {
		return err
	}
	rows, _ = tx.Query(ctx, recentSQL, RecentWindow, recentRows)
	r.Recent, err = collectDead(rows)
	for i := range r.Recent {
		if !slices.Contains(n.jobs, r.Recent[i].JobName) && len(n.jobs) == maxJobs {
			r.Recent[i].JobName = Other
		}
	}
	return err
}

// estimateDead fills in the estimates. Of a job name with more dead letters than were
// counted, a sample may find some that the latest are not.
func (r *Reading) estimateDead(ctx context.Context, tx pgx.Tx) error {
	counted := map[string]int64{}
	for i := range r.Dead {
		d := &r.Dead[i]
		d.Estimate = d.Count
		counted[d.JobName] += d.Count
	}
	full := func(name string) bool { return counted[name] >= r.DeadBound }
	if !slices.ContainsFunc(r.Dead, func(d DeadReading) bool { return full(d.JobName) }) {
		return nil
	}
	percent, scale := sampling(r.deadPages)
	rows, _ := tx.Query(ctx, sampleDeadSQL, percent)
	sample, err := collectDead(rows)
	if err != nil {
		return err
	}
	for _, s := range sample {
		if _, named := counted[s.JobName]; !named {
			s.JobName = Other
		}
		if !full(s.JobName) {
			continue
		}
		s.Estimate, s.Count = int64(float64(s.Count)*scale), 0
		i := slices.IndexFunc(r.Dead, func(d DeadReading) bool {
			return d.JobName == s.JobName && d.State == s.State && d.Reason == s.Reason
		})
		if i < 0 {
			r.Dead = append(r.Dead, s)
		} else {
			r.Dead[i].Estimate = max(r.Dead[i].Estimate, s.Estimate)
		}
	}
	return nil
}

func collectDead(rows pgx.Rows) ([]DeadReading, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (d DeadReading, err error) {
		err = row.Scan(&d.JobName, &d.State, &d.Reason, &d.Count)
		return d, err
	})
}

func (r *Reading) readHooks(ctx context.Context, tx pgx.Tx) (err error) {
	rows, _ := tx.Query(ctx, hooksSQL, maxHooks, pendingRows)
	r.Hooks, err = pgx.CollectRows(rows, pgx.RowToStructByPos[HookReading])
	return err
}

// milliseconds is a duration as a setting of PostgreSQL.
func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) + "ms" }
