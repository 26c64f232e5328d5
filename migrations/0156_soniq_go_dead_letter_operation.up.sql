-- Counts the dead ones and finds the oldest, each minute, for workers and monitors. Resolved ones are
-- kept as a record, and would be in the way in the other indexes.
create index if not exists idx_soniq_dead_letter_jobs_dead
  on public.soniq_dead_letter_jobs (moved_to_dead_letter_at, id) where state = 'dead';

-- Periodic tasks that one worker does for all: when the last turn began and, for an alarm, since when
-- it is raised.
create table if not exists public.soniq_chores (
  name text primary key,
  begun_at timestamptz not null,
  raised_at timestamptz
);
