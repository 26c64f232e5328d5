-- Loses: the whole name and queue of dead letters whose name or queue is over 2,000 bytes.
alter table public.soniq_dead_letter_jobs
  drop column if exists whole_job_name,
  drop column if exists whole_queue;
