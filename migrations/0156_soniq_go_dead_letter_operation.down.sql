-- Loses: which alarms are raised, and when each periodic task last ran.
drop table if exists public.soniq_chores;
drop index if exists public.idx_soniq_dead_letter_jobs_dead;
