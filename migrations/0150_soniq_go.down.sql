-- Loses: of each dead letter its state, its last error's kind, type and code, its fingerprint,
-- what it was a replay of, and what Python Soniq doesn't keep of a job. Jobs that run for workers
-- of Go can't be told from those of Python any more: stop the workers first.
drop trigger if exists soniq_replay_deleted on public.soniq_jobs;
drop trigger if exists soniq_replay_ended on public.soniq_jobs;
drop function if exists public.soniq_replay_ended();
drop trigger if exists soniq_dead_letter_died_again on public.soniq_dead_letter_jobs;
drop function if exists public.soniq_dead_letter_died_again();
drop trigger if exists soniq_dead_letters_inserted on public.soniq_dead_letter_jobs;
drop function if exists public.soniq_dead_letters_inserted();
drop function if exists public.soniq_dead_letter_payload(uuid, text, text, text, text, text, int4, timestamptz, uuid);
drop trigger if exists soniq_jobs_requeued on public.soniq_jobs;
drop function if exists public.soniq_jobs_requeued();
drop trigger if exists soniq_jobs_inserted on public.soniq_jobs;
drop function if exists public.soniq_jobs_inserted();
drop function if exists public.soniq_notify_queue(text);
drop index if exists public.idx_soniq_dead_letter_jobs_cursor;
drop index if exists public.idx_soniq_jobs_claim;
alter table public.soniq_dead_letter_jobs
  drop column if exists state,
  drop column if exists replay_job_id,
  drop column if exists replay_of,
  drop column if exists moved_xid,
  drop column if exists error_kind,
  drop column if exists error_type,
  drop column if exists error_code,
  drop column if exists decided_by,
  drop column if exists fingerprint,
  drop column if exists args_hash,
  drop column if exists unique_job,
  drop column if exists dedup_key,
  drop column if exists producer_id,
  drop column if exists worker_id,
  drop column if exists scheduled_at;
alter table public.soniq_jobs
  drop column if exists claim_token,
  drop column if exists replay_of;
