-- How many wait, and since when: asked each minute by workers and monitors. The
-- resolved ones, which are kept as a record, are in the way of the other
-- indexes.
create index if not exists idx_soniq_dead_letter_jobs_dead
  on public.soniq_dead_letter_jobs (moved_to_dead_letter_at, id) where state = 'dead';

-- What one worker does for the whole fleet: when it was last begun and, of an
-- alarm, since when it is raised.
create table if not exists public.soniq_chores (
  name text primary key,
  begun_at timestamptz not null,
  raised_at timestamptz
);
