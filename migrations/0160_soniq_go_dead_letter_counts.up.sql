-- Hardly any row is one: the others pay nothing.
create index if not exists idx_soniq_dead_letter_jobs_replay_of
  on public.soniq_dead_letter_jobs (replay_of) where replay_of is not null;

-- How many days there are. Without it the server takes each time of death for a
-- day of its own, and would not count them by several processes at once.
create statistics if not exists public.soniq_dead_letter_days
  on ((moved_to_dead_letter_at at time zone 'utc')::date) from public.soniq_dead_letter_jobs;
