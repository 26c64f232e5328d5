drop statistics if exists public.soniq_dead_letter_days;
drop index if exists public.idx_soniq_dead_letter_jobs_replay_of;
