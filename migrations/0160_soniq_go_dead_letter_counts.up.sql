-- Few dead letters are of a replay; the others cost nothing here.
create index if not exists idx_soniq_dead_letter_jobs_replay_of
  on public.soniq_dead_letter_jobs (replay_of) where replay_of is not null;

-- How many days there are. Without it the planner takes each time of death for a day of its own, and
-- uses no parallel plan to count them.
create statistics if not exists public.soniq_dead_letter_days
  on ((moved_to_dead_letter_at at time zone 'utc')::date) from public.soniq_dead_letter_jobs;
