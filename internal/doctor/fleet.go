package doctor

import (
	"context"
	"fmt"
	"strings"

	"soniq/internal/liveness"
	"soniq/internal/pg"
)

// mostLines is how many of a kind are listed.
const mostLines = 10

var liveSQL = liveness.LiveSQL("w", "'30 s'", "'300 s'")

var workersSQL = `
select w.id::text, w.hostname, w.pid, coalesce(w.version, ''), extract(epoch from clock_timestamp() - w.last_heartbeat)::float8, ` + liveSQL + `
from public.soniq_workers w
where w.status <> 'stopped'
order by w.last_heartbeat
limit 1000`

func checkWorkers(ctx context.Context, e *Exam) error {
	var id, host, version string
	var pid, silent int
	var seconds float64
	var live bool
	versions := map[string]int{}
	err := e.rows(ctx, workersSQL, nil, []any{&id, &host, &pid, &version, &seconds, &live}, func() {
		if live {
			versions[version]++
			return
		}
		if silent++; silent <= mostLines {
			e.find(Warning, fmt.Sprintf("worker %s:%d has been silent for %s: it is killed, hangs, or is cut off from the database", said(strings.TrimSuffix(host, "/"+id)), pid, span(seconds)),
				"look at its host; another worker gives its jobs to others, once there is one")
		}
	})
	if silent > mostLines {
		e.find(Warning, fmt.Sprintf("%d more workers are silent", silent-mostLines), "soniq worker list")
	}
	delete(versions, "") // Python's
	if len(versions) > 1 {
		e.find(Note, fmt.Sprintf("live workers are of %d releases: a rolling upgrade has not ended", len(versions)), "soniq worker list")
	}
	return err
}

var orphansSQL = `
with live as materialized (
  select w.id
  from public.soniq_workers w
  where w.status <> 'stopped'
    and ` + liveSQL + `
)
select count(*), coalesce(extract(epoch from clock_timestamp() - min(j.updated_at))::float8, 0)
from public.soniq_jobs j
where j.status = 'processing'
  and not exists (select from live l where l.id = j.worker_id)`

const keptSQL = `
select count(*), coalesce(extract(epoch from clock_timestamp() - min(k.kept_at))::float8, 0)
from public.soniq_kept_outcomes k`

func checkJobs(ctx context.Context, e *Exam) error {
	var count int64
	var seconds float64
	if err := e.tx.QueryRow(ctx, orphansSQL).Scan(&count, &seconds); err != nil {
		return err
	}
	if count > 0 {
		severity := Warning
		if seconds >= e.limits.Waiting.Seconds() {
			severity = Critical
		}
		e.find(severity, fmt.Sprintf("%d jobs are processing without a live worker, one for %s: they run again when a worker finds them", count, span(seconds)),
			"start a worker, which recovers them; soniq job list --status processing")
	}
	if err := e.tx.QueryRow(ctx, keptSQL).Scan(&count, &seconds); err != nil {
		return err
	}
	if count > 0 && seconds >= e.limits.Waiting.Seconds() {
		e.find(Warning, fmt.Sprintf("%d outcomes could not be written, one for %s: the database refuses them", count, span(seconds)),
			"the workers' log says why; they are written when the cause is gone")
	}
	return nil
}

// $1 seconds. The first 10,000 due jobs are enough to find who waits.
var queuesSQL = `
with live as materialized (
  select w.id, coalesce(w.queues, '{}') as queues, w.version like 'go/%' as go
  from public.soniq_workers w
  where w.status <> 'stopped'
    and ` + liveSQL + `
), due as (
  select coalesce(j.queue, 'default') as queue, j.job_name, ` + pg.JobDue + ` as due_at
  from public.soniq_jobs j
  where j.status = 'queued'
    and ` + pg.JobDue + ` <= clock_timestamp() - make_interval(secs => $1::float8)
  limit 10000
), place as (
  select d.queue, d.job_name, count(*) as jobs, min(d.due_at) as oldest
  from due d
  group by 1, 2
)
select p.queue, p.job_name, p.jobs, coalesce(extract(epoch from clock_timestamp() - nullif(p.oldest, '-infinity'))::float8, 0),
  exists (select from public.soniq_queues q where q.name = p.queue and q.paused_at is not null),
  exists (select from live),
  exists (select from live l where l.queues = '{}' or p.queue = any (l.queues)),
  exists (
    select from live l
    where (l.queues = '{}' or p.queue = any (l.queues))
      and (l.go is not true or exists (
        select from public.soniq_task_registry r where r.worker_id = l.id::text and r.task_name = p.job_name
      ))
  )
from place p
order by p.jobs desc, 1, 2
limit 200`

// place is a queue and a name whose jobs wait.
type place struct {
	queue, name                     string
	jobs                            int64
	seconds                         float64
	paused, anyone, served, handled bool
}

func checkQueues(ctx context.Context, e *Exam) error {
	var p place
	queues := map[string]*place{}
	var order []string
	lines := 0
	err := e.rows(ctx, queuesSQL, []any{e.limits.Waiting.Seconds()},
		[]any{&p.queue, &p.name, &p.jobs, &p.seconds, &p.paused, &p.anyone, &p.served, &p.handled}, func() {
			if p.served && !p.handled && !p.paused {
				if lines++; lines <= mostLines {
					e.find(Warning, fmt.Sprintf("%d due jobs %s wait in queue %s, of which no live worker has a handler for them, the oldest for %s", p.jobs, said(p.name), said(p.queue), span(p.seconds)),
						"start a worker that has one, or correct the name where they are enqueued")
				}
				return
			}
			q := queues[p.queue]
			if q == nil {
				q = &place{queue: p.queue, paused: p.paused, anyone: p.anyone, served: p.served}
				queues[p.queue], order = q, append(order, p.queue)
			}
			q.jobs, q.seconds = q.jobs+p.jobs, max(q.seconds, p.seconds)
		})
	for i, name := range order {
		if i == mostLines {
			e.find(Warning, fmt.Sprintf("due jobs wait in %d more queues", len(order)-mostLines), "soniq queue list")
			break
		}
		e.waitingQueue(queues[name])
	}
	return err
}

func (e *Exam) waitingQueue(q *place) {
	what := fmt.Sprintf("%d due jobs wait in queue %s, the oldest for %s", q.jobs, said(q.queue), span(q.seconds))
	switch {
	case q.paused:
		e.find(Note, what+": the queue is paused", "soniq queue resume "+said(q.queue))
	case !q.anyone:
		e.find(Critical, what+": no worker is alive", "start a worker")
	case !q.served:
		e.find(Warning, what+": no live worker serves it", "start a worker with --queues "+said(q.queue)+", or correct the queue where they are enqueued")
	default:
		e.find(Warning, what+": its workers don't keep up, or are held back by limits", "start more workers, or raise --concurrency")
	}
}

const deadLettersSQL = `
select
  (select count(*) from (select from public.soniq_dead_letter_jobs d where d.state = 'dead' limit 1000000) n),
  (select count(*) from public.soniq_dead_letter_jobs d where d.moved_to_dead_letter_at > clock_timestamp() - interval '1 hour'),
  (
    select count(*)
    from public.soniq_dead_letter_jobs d
    where d.moved_to_dead_letter_at > clock_timestamp() - interval '25 hours'
      and d.moved_to_dead_letter_at <= clock_timestamp() - interval '1 hour'
  )`

func checkDeadLetters(ctx context.Context, e *Exam) error {
	var dead, lately, before int64
	if err := e.tx.QueryRow(ctx, deadLettersSQL).Scan(&dead, &lately, &before); err != nil {
		return err
	}
	if dead >= e.limits.Dead {
		e.find(Warning, fmt.Sprintf("%d dead letters wait for somebody", dead), "soniq dead-letter groups")
	}
	const day = 24
	if lately >= e.limits.Deaths && lately*day > 3*before {
		e.find(Warning, fmt.Sprintf("%d jobs died in the last hour, and %d in the 24 hours before it", lately, before), "soniq dead-letter groups --since 1h")
	}
	return nil
}

// $1 seconds.
const hooksSQL = `
select h.name, h.enabled, h.disabled_reason, h.failures,
  coalesce(extract(epoch from clock_timestamp() - h.failing_since)::float8, 0), h.lacks, h.pending, h.dropped,
  coalesce(extract(epoch from clock_timestamp() - h.oldest_pending_at)::float8, 0),
  h.oldest_pending_at <= clock_timestamp() - make_interval(secs => $1::float8)
    and coalesce(h.blocked_until <= clock_timestamp(), true)
from public.soniq_hook_status h
order by h.name
limit 200`

func checkHooks(ctx context.Context, e *Exam) error {
	var name, reason, lacks string
	var enabled bool
	var waiting *bool
	var failures, pending, dropped int64
	var failing, oldest float64
	return e.rows(ctx, hooksSQL, []any{e.limits.Waiting.Seconds()},
		[]any{&name, &enabled, &reason, &failures, &failing, &lacks, &pending, &dropped, &oldest, &waiting}, func() {
			hook := "hook " + said(name)
			switch {
			case !enabled && reason != "":
				e.find(Warning, hook+" is disabled: "+said(reason), "mend its endpoint, then: soniq hooks enable "+said(name))
			case !enabled:
				e.find(Note, hook+" is disabled", "soniq hooks enable "+said(name))
			case failures > 0:
				e.find(Warning, fmt.Sprintf("%s has failed %d times in a row, for %s, and %d deliveries wait", hook, failures, span(failing), pending), "soniq hooks deliveries "+said(name))
			case lacks != "" && pending > 0:
				e.find(Warning, fmt.Sprintf("%s: %d deliveries wait, because its dispatchers lack %s", hook, pending, said(lacks)), "soniq hooks show "+said(name))
			case waiting != nil && *waiting:
				e.find(Warning, fmt.Sprintf("%s: %d deliveries wait, the oldest for %s: nobody sends them", hook, pending, span(oldest)), "run a Go worker, or 'soniq hooks run'")
			}
			if dropped > 0 {
				e.find(Note, fmt.Sprintf("%s: %d deliveries were dropped, because too many waited", hook, dropped), "soniq hooks deliveries "+said(name))
			}
		})
}
