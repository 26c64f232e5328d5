package dashboard

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/deadletter"
	"soniq/engine"
	"soniq/internal/chart"
	"soniq/internal/pg"
)

const (
	// pageTimeout bounds the statements of a page.
	pageTimeout = 10 * time.Second
	// mostQueues is how many queues of each kind are named: with queued jobs, served, paused,
	// and with running jobs.
	mostQueues = 200
	// countedRows is how many queued jobs are counted of all queues together, and no fewer than
	// leastCounted nor more than window of each.
	countedRows, leastCounted = 40_000, 200
)

// queuesPage is what the page of queues shows.
type queuesPage struct {
	Queues []queueRow
	// Bound is where the counts of one queue stop.
	Bound int64
	// More: there may be queues that are not named.
	More bool
}

// A queueRow is a queue, and who serves it.
type queueRow struct {
	engine.QueueStatus

	// Shown is its name without secrets, and Whole that it has none: then it can be a part of a URL.
	Shown string
	Whole bool
	// Bounded: it has more queued jobs than were counted.
	Bounded bool
	// Oldest is for how long the oldest due job has been due, or empty.
	Oldest string
	// Workers is how many live workers serve it.
	Workers int
}

// Unserved reports whether jobs wait that no worker takes.
func (q queueRow) Unserved() bool {
	return q.Workers == 0 && q.PausedAt == nil && (q.Due > 0 || q.Scheduled > 0)
}

// byIndexSQL is for a transaction whose statements are bounded only as long as they use an index.
const byIndexSQL = `
select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true), set_config('jit', 'off', true)`

// byIndex reads in a transaction of its own, by indexes.
func (d *Dashboard) byIndex(ctx context.Context, read func(pgx.Tx) error) error {
	return pg.InTx(ctx, d.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, byIndexSQL); err != nil {
			return err
		}
		return read(tx)
	})
}

// queueNamesSQL lists queues: those with queued jobs by one look into the index of claims for each.
// Parameters: $1 how many of each kind, $2 how many running jobs are looked at.
const queueNamesSQL = `
with recursive queued (name) as (
  (select ` + pg.JobQueue + ` from public.soniq_jobs j where j.status = 'queued' order by ` + pg.JobQueue + ` limit 1)
  union all
  select (
    select ` + pg.JobQueue + `
    from public.soniq_jobs j
    where j.status = 'queued' and ` + pg.JobQueue + ` > queued.name
    order by ` + pg.JobQueue + `
    limit 1
  )
  from queued
  where queued.name is not null
)
select name
from (
  (select name from (select name from queued limit (select $1::int)) q where name is not null)
  union
  (
    select distinct w.name
    from (select unnest(w.queues) as name from public.soniq_workers w where w.status <> 'stopped' limit 10000) w
    where w.name is not null
      and octet_length(w.name) <= 2000
    limit (select $1::int)
  )
  union
  (select p.name from public.soniq_queues p where p.paused_at is not null limit (select $1::int))
  union
  (
    select distinct r.name
    from (select ` + pg.JobQueue + ` as name from public.soniq_jobs j where j.status = 'processing' limit (select $2::int)) r
    limit (select $1::int)
  )
) named
order by 1`

// queueNames lists queues, at most mostQueues of each kind.
func queueNames(ctx context.Context, tx pgx.Tx) ([]string, error) {
	rows, _ := tx.Query(ctx, queueNamesSQL, mostQueues, window)
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// queueCountsSQL counts the jobs of queues. The oldest one that is due heads one of the first 500
// priorities. Parameters: $1 queues, $2 how many queued jobs of each, $3 how many running ones.
var queueCountsSQL = `
select
  named.queue, counted.due, counted.scheduled, coalesce(running.n, 0), coalesce(oldest.age, 0)::float8,
  case when p.paused_at is not null then coalesce(` + pg.FiniteTime("p.paused_at") + `, now()) end, coalesce(p.paused_by, '')
from unnest((select $1::text[])) as named (queue)
cross join lateral (
  select count(*) filter (where q.due <= now()) as due, count(*) filter (where q.due > now()) as scheduled
  from (
    select ` + pg.JobDue + ` as due
    from public.soniq_jobs j
    where j.status = 'queued' and ` + pg.JobQueue + ` = named.queue
    limit (select $2::int)
  ) q
) counted
cross join lateral (
  with recursive walk (priority, due) as (
    (
      select ` + pg.JobPriority + `, ` + pg.JobDue + `
      from public.soniq_jobs j
      where j.status = 'queued' and ` + pg.JobQueue + ` = named.queue
      order by ` + pg.JobPriority + `, ` + pg.JobDue + `
      limit 1
    )
    union all
    select head.priority, head.due
    from walk
    cross join lateral (
      select ` + pg.JobPriority + ` as priority, ` + pg.JobDue + ` as due
      from public.soniq_jobs j
      where j.status = 'queued' and ` + pg.JobQueue + ` = named.queue and ` + pg.JobPriority + ` > walk.priority
      order by ` + pg.JobPriority + `, ` + pg.JobDue + `
      limit 1
    ) head
  )
  select extract(epoch from now() - min(w.due)) as age
  from (select walk.due from walk limit 500) w
  where w.due <= now()
    and isfinite(w.due)
) oldest
left join (
  select r.queue, count(*) as n
  from (select ` + pg.JobQueue + ` as queue from public.soniq_jobs j where j.status = 'processing' limit (select $3::int)) r
  group by 1
) running on running.queue = named.queue
left join public.soniq_queues p on p.name = named.queue
order by 1`

// readQueues counts the jobs of each queue, to a bound: whatever the table holds.
func (d *Dashboard) readQueues(ctx context.Context) (page queuesPage, err error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	workers, err := d.client.Workers(ctx)
	if err != nil {
		return page, err
	}
	err = d.byIndex(ctx, func(tx pgx.Tx) error {
		page = queuesPage{}
		names, err := queueNames(ctx, tx)
		if err != nil {
			return err
		}
		bound := min(max(countedRows/max(len(names), 1), leastCounted), window)
		page.Bound, page.More = int64(bound), len(names) >= mostQueues
		rows, _ := tx.Query(ctx, queueCountsSQL, names, bound, window)
		var q queueRow
		_, err = pgx.ForEachRow(rows, []any{&q.Queue, &q.Due, &q.Scheduled, &q.Processing, &q.OldestDue, &q.PausedAt, &q.PausedBy}, func() error {
			page.Queues = append(page.Queues, newQueueRow(q, workers, page.Bound))
			return nil
		})
		return err
	})
	return page, err
}

func newQueueRow(q queueRow, workers []engine.WorkerStatus, bound int64) queueRow {
	q.Shown, q.PausedBy = deadletter.RedactText(q.Queue), deadletter.RedactText(q.PausedBy)
	q.Whole, q.Bounded = q.Shown == q.Queue, q.Due+q.Scheduled >= bound
	if q.Due > 0 {
		q.Oldest = chart.Duration(q.OldestDue)
	}
	for _, w := range workers {
		// A Python worker without queues serves them all.
		if w.Live && w.Status == engine.WorkerActive && (len(w.Queues) == 0 || slices.Contains(w.Queues, q.Queue)) {
			q.Workers++
		}
	}
	return q
}

func (d *Dashboard) queues(v *visit) error {
	page, err := d.readQueues(v.Context())
	if err != nil {
		return err
	}
	return v.show("queues", view{Title: "Queues", Nav: "/queues", Data: page})
}

func (d *Dashboard) pauseQueue(v *visit) error {
	return v.changeQueue("paused", (*engine.Client).PauseQueue)
}

func (d *Dashboard) resumeQueue(v *visit) error {
	return v.changeQueue("resumed", (*engine.Client).ResumeQueue)
}

// changeQueue pauses or resumes the queue of a form. That it was so already is no mistake.
func (v *visit) changeQueue(done string, change func(*engine.Client, context.Context, string) (bool, error)) error {
	if err := v.r.ParseForm(); err != nil {
		return err
	}
	// The table of queues has who paused one.
	client, err := engine.NewClient(v.d.db.Raw(), engine.ClientConfig{
		Schema: v.d.schema.Name(), ProducerID: pg.Storable(v.user.Name, mostName),
	})
	if err != nil {
		return err
	}
	queue := v.r.Form.Get("queue")
	if queue == "" {
		return badInput("name the queue")
	}
	changed, err := change(client, v.Context(), queue)
	var argument *engine.ArgumentError
	if errors.As(err, &argument) {
		return badInput("%s", argument)
	}
	if err != nil {
		return err
	}
	if changed {
		v.log("a queue was "+done, "queue", queue)
	}
	return v.redirect("/queues?done=" + done)
}

// mostName is how many bytes of the visitor's name are kept.
const mostName = 200

// log logs what the visitor did that no table records.
func (v *visit) log(what string, args ...any) {
	v.d.log.InfoContext(v.Context(), what+" on the dashboard", append(args, "by", v.user.Name)...)
}

func (d *Dashboard) workers(v *visit) error {
	ctx, cancel := context.WithTimeout(v.Context(), pageTimeout)
	defer cancel()
	t, err := d.team(ctx)
	if err != nil {
		return err
	}
	return v.show("workers", view{Title: "Workers", Nav: "/workers", Data: t})
}
