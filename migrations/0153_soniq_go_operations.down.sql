-- Loses: the audit records of dead letters, and the bulk operations, those under way too.
drop function if exists public.soniq_dead_letter_replays(uuid);
drop table if exists public.soniq_dead_letter_audit;
drop table if exists public.soniq_dead_letter_selections;
drop table if exists public.soniq_dead_letter_operations;
drop index if exists public.idx_soniq_dead_letter_jobs_group_moved;
drop index if exists public.idx_soniq_dead_letter_jobs_reason_moved;
drop index if exists public.idx_soniq_dead_letter_jobs_queue_moved;
drop index if exists public.idx_soniq_dead_letter_jobs_job_name_moved;
