-- What becomes of jobs whose outcomes the database refuses for now. If a worker ends before it has written
-- one, whoever recovers the job writes it, and the job does not run again. A row counts for the claim with
-- its token alone.
create table if not exists public.soniq_kept_outcomes (
  job_id uuid not null,
  token bigint not null,
  outcome jsonb not null,
  kept_at timestamptz not null default now(),
  primary key (job_id, token)
);
