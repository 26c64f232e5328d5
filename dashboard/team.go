package dashboard

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/deadletter"
	"soniq/engine"
	"soniq/internal/pg"
)

// A team is the workers, and what they run.
type team struct {
	Workers []worker
	// Orphans are jobs that run on no worker of the list.
	Orphans int64
	// Whole is false if more jobs run than were counted.
	Whole bool
}

// A worker is one of the team.
type worker struct {
	engine.WorkerStatus

	Running []running
	Total   int64
}

// running is how many jobs of a name a worker runs, and since when the oldest.
type running struct {
	Name   string
	Count  int64
	Oldest time.Time
}

// runningRows bounds how many running jobs are counted.
const runningRows = 10_000

// runningSQL reads what runs. Parameter: $1 how many jobs.
const runningSQL = `
select j.worker_id, left(j.job_name, 200), count(*), min(least(j.at, now())), (select count(*) from page)
from page j
group by 1, 2
order by 3 desc, 2`

const pageSQL = `
with page as materialized (
  select j.worker_id, j.job_name, ` + "coalesce(j.updated_at, now())" + ` as at
  from public.soniq_jobs j
  where j.status = 'processing'
  limit $1
)`

// team reads the workers and what they run.
func (d *Dashboard) team(ctx context.Context) (t team, err error) {
	all, err := d.client.Workers(ctx)
	if err != nil {
		return t, err
	}
	for _, w := range all {
		t.Workers = append(t.Workers, worker{WorkerStatus: w})
	}
	t.Whole = true
	err = pg.InTx(ctx, d.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)`); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, pageSQL+runningSQL, runningRows)
		var id *uuid.UUID
		var r running
		var counted int64
		_, err := pgx.ForEachRow(rows, []any{&id, &r.Name, &r.Count, &r.Oldest, &counted}, func() error {
			t.Whole = counted < runningRows
			i := slices.IndexFunc(t.Workers, func(w worker) bool { return id != nil && w.ID == *id })
			if i < 0 {
				t.Orphans += r.Count
				return nil
			}
			t.Workers[i].Total += r.Count
			r.Name = deadletter.RedactText(r.Name)
			t.Workers[i].Running = append(t.Workers[i].Running, r)
			return nil
		})
		return err
	})
	return t, err
}
