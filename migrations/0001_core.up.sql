create table if not exists public.soniq_workers (
  id uuid primary key,
  hostname text not null,
  pid integer not null,
  queues text[] default '{}',
  concurrency integer not null default 1,
  status text not null default 'active'
    check (status in ('active', 'stopping', 'stopped')),
  last_heartbeat timestamptz not null default now(),
  started_at timestamptz not null default now(),
  version text,
  metadata jsonb default '{}'
);

create unique index if not exists idx_soniq_workers_host_pid
  on public.soniq_workers (hostname, pid);

create table if not exists public.soniq_jobs (
  id uuid primary key,
  job_name text not null,
  args jsonb not null,
  args_hash text,
  status text not null default 'queued'
    check (status in ('queued', 'processing', 'done', 'cancelled')),
  attempts integer default 0,
  max_attempts integer default 3,
  queue text default 'default',
  priority integer default 100,
  unique_job boolean default false,
  dedup_key text,
  scheduled_at timestamptz,
  expires_at timestamptz,
  last_error text,
  result jsonb,
  producer_id text,
  created_at timestamptz default now(),
  updated_at timestamptz default now()
);

-- Python adds this column after the table, so it is last in its databases.
alter table public.soniq_jobs add column if not exists worker_id uuid;

-- Python's foreign key from there to soniq_workers is not made here, nor the
-- index that it needs: each claim locks its worker's row once more for each of
-- its jobs, which is a fifth of the server's time for a job, and a worker whose
-- row someone replaced can't claim any more. A job whose worker is in no row is
-- taken for one without a worker. Where Python made them they stay, until
-- 'soniq setup --optimize'.

-- The arbiters of ON CONFLICT, here and in Python Soniq. A job is unique only while it is queued.
create unique index if not exists idx_soniq_jobs_unique_queued
  on public.soniq_jobs (job_name, args_hash)
  where status = 'queued' and unique_job = true;
create unique index if not exists idx_soniq_jobs_dedup_key
  on public.soniq_jobs (dedup_key)
  where status = 'queued' and dedup_key is not null;

-- Expiry of results.
create index if not exists idx_soniq_jobs_expires_at
  on public.soniq_jobs (expires_at) where expires_at is not null;

-- Python's five other indexes on soniq_jobs are not made here: with all nine
-- a claim costs four times as much. Where Python made them they stay, until
-- 'soniq setup --optimize'.

create table if not exists public.soniq_task_registry (
  task_name text not null,
  worker_id text not null,
  last_seen_at timestamptz not null,
  args_model_repr text,
  primary key (task_name, worker_id)
);
