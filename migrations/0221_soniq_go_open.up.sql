-- Those that may need attention, for workers and monitors. Resolved ones are kept as a record, and would be in the way
-- in the other indexes; superseded ones are passed over without a look at the table. It must not have a column
-- that a replay changes.
create index if not exists idx_soniq_dead_letter_jobs_open
  on public.soniq_dead_letter_jobs (moved_to_dead_letter_at, id, closed) where closed is distinct from 'resolved';
