package deadletter

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Outcome is what became of a replay.
type Outcome string

// The outcomes of a replay.
const (
	// OutcomeQueued: it waits for a worker.
	OutcomeQueued Outcome = "queued"
	// OutcomeProcessing: it runs.
	OutcomeProcessing Outcome = "processing"
	// OutcomeDone: it succeeded.
	OutcomeDone Outcome = "done"
	// OutcomeDied: it has a dead letter of its own.
	OutcomeDied Outcome = "died"
	// OutcomeCancelled: it was cancelled.
	OutcomeCancelled Outcome = "cancelled"
	// OutcomeGone: its row was deleted, and how it ended is not known.
	OutcomeGone Outcome = "gone"
)

// A Replay is a job that was made of a dead letter.
type Replay struct {
	// JobID is the job.
	JobID uuid.UUID `json:"job_id"`
	// At is when it was made, in UTC, or nil if that is not known.
	At *time.Time `json:"at"`
	// Outcome is what became of it.
	Outcome Outcome `json:"outcome"`
}

// A Lineage is what a dead letter came from and what was made of it.
type Lineage struct {
	// Ancestors are the dead letters that it is a replay of, the nearest first. At
	// most 100.
	Ancestors []uuid.UUID `json:"ancestors"`
	// Replays are the jobs that replays of it made, the oldest first. The last 100
	// that are known.
	Replays []Replay `json:"replays"`
}

// The row links its latest replay only. Earlier ones are in the records. $1 the
// dead letter.
const replaysSQL = `
with replays as (
  select job_id, at
  from public.soniq_dead_letter_audit
  where dead_letter_id = $1
    and job_id is not null
  union all
  select replay_job_id, last_resurrection_at
  from public.soniq_dead_letter_jobs
  where id = $1
    and replay_job_id is not null
), latest as (
  select job_id, min(at) filter (where at` + between + `) as at
  from replays
  group by job_id
  order by at desc nulls last, job_id desc
  limit 100
)
select
  l.job_id, l.at,
  case
    when x.id is not null then 'died'
    when j.id is not null then j.status
    when d.state = 'resolved' and d.replay_job_id = l.job_id then 'done'
    else 'gone'
  end
from latest l
left join public.soniq_dead_letter_jobs x on x.id = l.job_id
left join public.soniq_jobs j on j.id = l.job_id
left join public.soniq_dead_letter_jobs d on d.id = $1
order by l.at nulls first, l.job_id`

// Rows made by hand can form a circle. $1 the dead letter.
const ancestorsSQL = `
with recursive line as (
  select d.replay_of as id, 1 as depth
  from public.soniq_dead_letter_jobs d
  where d.id = $1
  union all
  select d.replay_of, l.depth + 1
  from line l
  join public.soniq_dead_letter_jobs d on d.id = l.id
  where l.depth < 100
)
select id
from line
where id is not null
order by depth`

// Lineage returns what the dead letter came from and what became of its replays.
// If it was deleted, that is what the records know.
//
// Errors: those of the database.
func (q *Queue) Lineage(ctx context.Context, id uuid.UUID) (l Lineage, err error) {
	rows, _ := q.pool.Query(ctx, ancestorsSQL, id)
	if l.Ancestors, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID]); err != nil {
		return Lineage{}, fmt.Errorf("lineage of dead letter %s: %w", id, err)
	}
	rows, _ = q.pool.Query(ctx, replaysSQL, id)
	if l.Replays, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Replay]); err != nil {
		return Lineage{}, fmt.Errorf("lineage of dead letter %s: %w", id, err)
	}
	for _, r := range l.Replays {
		if r.At != nil {
			*r.At = r.At.UTC()
		}
	}
	return l, nil
}
