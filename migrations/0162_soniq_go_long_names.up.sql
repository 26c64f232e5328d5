-- The name and the queue of a dead letter where they are over 2,000 bytes, which
-- the indexes may not hold: job_name and queue then have their beginning and a
-- digest. No index is on these.
alter table public.soniq_dead_letter_jobs
  add column if not exists whole_job_name text,
  add column if not exists whole_queue text;
