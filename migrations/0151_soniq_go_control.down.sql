-- Loses: which queues are paused, and the requests to cancel jobs that run.
drop trigger if exists soniq_queue_deleted on public.soniq_queues;
drop trigger if exists soniq_queue_resumed on public.soniq_queues;
drop function if exists public.soniq_queue_resumed();
drop table if exists public.soniq_queues;
drop trigger if exists soniq_job_cancelled on public.soniq_jobs;
drop function if exists public.soniq_job_cancelled();
alter table public.soniq_jobs drop column if exists cancel_requested_at;
drop index if exists public.idx_soniq_jobs_processing;
alter table public.soniq_workers
  drop column if exists lock_key,
  drop column if exists backend_pid;
