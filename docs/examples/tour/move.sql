-- Moves the jobs of a queue to the dead letters by hand.
with moved as (
  delete from soniq_jobs
  where queue = 'ledger' and status = 'queued'
  returning *
)
insert into soniq_dead_letter_jobs (
  id, job_name, args, queue, priority, max_attempts, attempts, last_error,
  dead_letter_reason, original_created_at, moved_to_dead_letter_at
)
select
  id, job_name, args, coalesce(queue, 'default'), coalesce(priority, 100), greatest(coalesce(max_attempts, 4), 1), coalesce(attempts, 0),
  'the ledger has moved to another system', 'manual_move', coalesce(created_at, now()), now()
from moved;
