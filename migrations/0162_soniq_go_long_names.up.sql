-- The whole name and queue of a dead letter if they are over 2,000 bytes, too long for the indexes.
-- job_name and queue then hold the beginning and a digest. No index uses these two.
alter table public.soniq_dead_letter_jobs
  add column if not exists whole_job_name text,
  add column if not exists whole_queue text;
