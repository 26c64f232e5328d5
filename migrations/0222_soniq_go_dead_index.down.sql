-- Loses nothing.
create index if not exists idx_soniq_dead_letter_jobs_dead
  on public.soniq_dead_letter_jobs (moved_to_dead_letter_at, id) where state = 'dead';
