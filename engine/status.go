package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/deadletter"
	"soniq/internal/deadwrite"
	"soniq/internal/liveness"
	"soniq/internal/pg"
)

// Status is a snapshot of the queues, the workers and the dead letters.
type Status struct {
	// Queues has an entry for each queue that has jobs or is paused, by name. Of
	// more than 1,000 queues, those that are paused, then those that are served, then
	// those with the most jobs have one; the last entry counts all others (see
	// [QueueStatus.Others]).
	Queues []QueueStatus `json:"queues"`
	// DeadLetters counts soniq_dead_letter_jobs by state: dead, replaying,
	// resolved.
	DeadLetters map[deadletter.State]int64 `json:"dead_letters"`
	// Workers are those that are not stopped, the one that runs longest first.
	Workers []WorkerStatus `json:"workers"`
}

// QueueStatus counts the jobs of one queue.
type QueueStatus struct {
	// Queue is the name, cut to 2,000 characters.
	Queue string `json:"queue"`
	// Others is how many queues the entry counts together: those without an entry
	// of their own. It is 0 except in the last entry of a long list, whose Queue is
	// empty.
	Others int64 `json:"others,omitempty"`
	// Due jobs are queued and may run now. Scheduled jobs are queued for later.
	Due        int64 `json:"due"`
	Scheduled  int64 `json:"scheduled"`
	Processing int64 `json:"processing"`
	Done       int64 `json:"done"`
	Cancelled  int64 `json:"cancelled"`
	// OldestDue is for how long the oldest due job has been due, in seconds. It is 0
	// if none is due.
	OldestDue float64 `json:"oldest_due_seconds"`
	// PausedAt is when the queue was paused, and PausedBy by whom. They are nil and
	// empty if it isn't.
	PausedAt *time.Time `json:"paused_at,omitempty"`
	PausedBy string     `json:"paused_by,omitempty"`
}

// WorkerState is what a worker says about itself, as text on the wire.
type WorkerState string

// The states of a worker.
const (
	WorkerActive WorkerState = "active"
	// WorkerStopping is of a Python worker that drains.
	WorkerStopping WorkerState = "stopping"
	// WorkerStopped workers have ended, or another worker has taken them for dead.
	WorkerStopped WorkerState = "stopped"
)

// WorkerStatus is one row of soniq_workers.
type WorkerStatus struct {
	ID       uuid.UUID `json:"id"`
	Hostname string    `json:"hostname"`
	PID      int       `json:"pid"`
	// Queues is empty for a Python worker that serves all queues.
	Queues      []string    `json:"queues"`
	Concurrency int         `json:"concurrency"`
	Status      WorkerState `json:"status"`
	// Version is empty for a Python worker.
	Version       string    `json:"version"`
	LastHeartbeat time.Time `json:"last_heartbeat"`
	StartedAt     time.Time `json:"started_at"`
	// Live is false if the heartbeat is overdue.
	Live bool `json:"live"`
}

var statusQueuesSQL = `
with counted as (
  select
    coalesce(queue, 'default') as name,
    count(*) filter (where status = 'queued' and ` + pg.JobDue + ` <= now()) as due,
    count(*) filter (where status = 'queued' and ` + pg.JobDue + ` > now()) as scheduled,
    count(*) filter (where status = 'processing') as processing,
    count(*) filter (where status = 'done') as done,
    count(*) filter (where status = 'cancelled') as cancelled,
    extract(epoch from now() - min(coalesce(scheduled_at, created_at)) filter (
      where status = 'queued' and ` + pg.JobDue + ` <= now()
        and isfinite(coalesce(scheduled_at, created_at)))) as oldest
  from public.soniq_jobs j
  group by 1
),
paused as (
  select name, coalesce(` + pg.FiniteTime("paused_at") + `, now()) as at, coalesce(paused_by, '') as by
  from public.soniq_queues
  where paused_at is not null
),
served as (
  select distinct q.queue
  from public.soniq_workers w
  cross join unnest(w.queues) as q (queue)
  where w.status <> 'stopped'
),
ranked as (
  select
    coalesce(counted.name, paused.name) as name, coalesce(due, 0) as due, coalesce(scheduled, 0) as scheduled,
    coalesce(processing, 0) as processing, coalesce(done, 0) as done, coalesce(cancelled, 0) as cancelled,
    coalesce(oldest, 0)::float8 as oldest, paused.at, coalesce(paused.by, '') as by,
    row_number() over (
      order by paused.at is null, served.queue is null, due + scheduled + processing + done + cancelled desc nulls last,
        coalesce(counted.name, paused.name)
    ) as place
  from counted
  full join paused on paused.name = counted.name
  left join served on served.queue = coalesce(counted.name, paused.name)
)
select ` + pg.BoundedText("name", 2000) + `, 0 as others, due, scheduled, processing, done, cancelled, oldest, at, by
from ranked
where place <= 1000
union all
select '', count(*), sum(due)::bigint, sum(scheduled)::bigint, sum(processing)::bigint, sum(done)::bigint, sum(cancelled)::bigint,
  max(oldest), null, ''
from ranked
where place > 1000
having count(*) > 0
order by 2, 1`

// A piece of work that died again counts once; see deadletter.Stats.
const statusDeadLettersSQL = `
select state, count(*)
from public.soniq_dead_letter_jobs
group by 1
union all
select 'superseded', count(*)
from (` + deadwrite.Recounted + `) r`

var statusWorkersSQL = `
select
  id, hostname, pid, array_remove(coalesce(queues, '{}'), null), concurrency, status, coalesce(version, ''),
  coalesce(` + pg.FiniteTime("last_heartbeat") + `, to_timestamp(0)),
  coalesce(` + pg.FiniteTime("started_at") + `, to_timestamp(0)),
  ` + liveness.LiveSQL("w", "$1", "$2") + `
from public.soniq_workers w
where status <> 'stopped'
order by started_at, id`

// Status reads the queues, the workers and the dead letters in one snapshot.
//
// Errors: those of the database.
func (c *Client) Status(ctx context.Context) (Status, error) {
	s := Status{DeadLetters: map[deadletter.State]int64{
		deadletter.StateDead: 0, deadletter.StateSuperseded: 0, deadletter.StateReplaying: 0, deadletter.StateResolved: 0,
	}}
	err := pg.InTxWith(ctx, c.pool, pgx.TxOptions{
		IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly,
	}, func(tx pgx.Tx) error {
		var err error
		if s.Queues, err = readQueues(ctx, tx); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, statusDeadLettersSQL)
		var state string
		var n int64
		if _, err := pgx.ForEachRow(rows, []any{&state, &n}, func() error {
			s.DeadLetters[deadletter.State(state)] = n
			return nil
		}); err != nil {
			return err
		}
		s.DeadLetters[deadletter.StateDead] -= s.DeadLetters[deadletter.StateSuperseded]
		s.Workers, err = readWorkers(ctx, tx)
		return err
	})
	if err != nil {
		return Status{}, fmt.Errorf("read status: %w", err)
	}
	return s, nil
}

// readQueues returns an empty list for none, never nil: JSON shows it as [].
func readQueues(ctx context.Context, db pg.Querier) ([]QueueStatus, error) {
	rows, _ := db.Query(ctx, statusQueuesSQL)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (q QueueStatus, err error) {
		err = row.Scan(&q.Queue, &q.Others, &q.Due, &q.Scheduled, &q.Processing, &q.Done, &q.Cancelled, &q.OldestDue,
			&q.PausedAt, &q.PausedBy)
		if q.PausedAt != nil {
			*q.PausedAt = q.PausedAt.UTC()
		}
		return q, err
	})
}

// readWorkers returns an empty list for none, as readQueues does.
func readWorkers(ctx context.Context, db pg.Querier) ([]WorkerStatus, error) {
	rows, _ := db.Query(ctx, statusWorkersSQL, liveness.DeadAfter, liveness.PythonDeadAfter)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (w WorkerStatus, err error) {
		err = row.Scan(&w.ID, &w.Hostname, &w.PID, &w.Queues, &w.Concurrency, &w.Status, &w.Version,
			&w.LastHeartbeat, &w.StartedAt, &w.Live)
		return w, err
	})
}
