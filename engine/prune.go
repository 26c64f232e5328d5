package engine

import (
	"context"
	"fmt"
	"time"

	"soniq/deadletter"
)

// What is forgotten, and when. A worker of ours that was away for longer
// registers anew; Python's can't, and its names are written only once, when it
// starts.
const (
	pruneInterval     = time.Hour
	workerMemory      = 24 * time.Hour
	pythonMemory      = 30 * 24 * time.Hour
	namesMemory       = 30 * 24 * time.Hour
	choresMemory      = 30 * 24 * time.Hour
	pruneBatch        = 100
	pruneBatchesATurn = 20
)

// A worker with jobs to recover is kept, and so is one whose jobs are kept where
// Python's foreign key is: deleting it would write to each of them. Parameters: $1 the lock, $2 batch, $3 and $4 the memory of our workers
// and of Python's.
const pruneWorkersSQL = `
with leader as materialized (
  select pg_try_advisory_xact_lock($1) as elected
)
delete from soniq_workers
where id in (
  select o.id
  from soniq_workers o
  where (select elected from leader)
    and o.last_heartbeat < now() - case when o.version like 'go/%' then $3::interval else $4::interval end
    and not exists (select from soniq_jobs j where j.worker_id = o.id and j.status = 'processing')
    and (
      not exists (
        select from pg_constraint c
        where c.conrelid = 'soniq_jobs'::regclass
          and c.conname = 'soniq_jobs_worker_id_fkey'
      )
      or not exists (select from soniq_jobs j where j.worker_id = o.id)
    )
  limit $2
  for update skip locked
)`

const pruneNamesSQL = `
with leader as materialized (
  select pg_try_advisory_xact_lock($1) as elected
)
delete from soniq_task_registry
where (task_name, worker_id) in (
  select r.task_name, r.worker_id
  from soniq_task_registry r
  where (select elected from leader)
    and r.last_seen_at < now() - $3::interval
  limit $2
  for update skip locked
)`

// Hunger goes with its worker. What a worker sent before it was gone may have
// arrived after that.
const pruneHungerSQL = `
with leader as materialized (
  select pg_try_advisory_xact_lock($1) as elected
)
delete from soniq_hunger
where (queue, worker_id) in (
  select h.queue, h.worker_id
  from soniq_hunger h
  where (select elected from leader)
    and not exists (
      select from soniq_workers o
      where o.id = h.worker_id
        and (o.status <> 'stopped' or o.last_heartbeat > now() - $3::interval)
    )
  limit $2
  for update skip locked
)`

// An alarm whose limit nobody has any more.
const pruneChoresSQL = `
with leader as materialized (
  select pg_try_advisory_xact_lock($1) as elected
)
delete from soniq_chores
where name in (
  select c.name
  from soniq_chores c
  where (select elected from leader)
    and c.begun_at < now() - $3::interval
  limit $2
  for update skip locked
)`

// prune deletes, in small batches, the rows of workers, of registered names and
// of chores that nobody has heard of for long, hunger that nobody has, and the
// old history of dead letters. Names are kept for any grace.
func (w *Worker) prune(ctx context.Context) error {
	names := max(namesMemory, plus(w.config.UnknownGrace, registryWindow))
	for _, p := range []struct {
		what, sql string
		args      []any
	}{
		{"workers", pruneWorkersSQL, []any{maintenanceLock, pruneBatch, workerMemory, pythonMemory}},
		{"hunger", pruneHungerSQL, []any{maintenanceLock, pruneBatch, pythonDeadAfter}},
		{"job names", pruneNamesSQL, []any{maintenanceLock, pruneBatch, names}},
		{"chores", pruneChoresSQL, []any{maintenanceLock, pruneBatch, choresMemory}},
	} {
		for range pruneBatchesATurn {
			tag, err := w.pool.Exec(ctx, p.sql, p.args...)
			if err != nil {
				return fmt.Errorf("prune %s: %w", p.what, err)
			}
			if tag.RowsAffected() < pruneBatch {
				break
			}
		}
	}
	return deadletter.NewQueue(w.pool).Forget(ctx, maintenanceLock)
}
