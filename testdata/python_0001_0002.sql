-- The tables of Python Soniq 0.0.3 as its migrations 0001 and 0002 leave them,
-- with its record of having run them. May be run again, as Python's can.

create table if not exists soniq_migrations (
  id serial primary key, version varchar(255) not null unique, name text not null,
  applied_at timestamp default now(), checksum text
);
create index if not exists idx_soniq_migrations_version on soniq_migrations (version);
insert into soniq_migrations (version, name)
values ('0001', 'core'), ('0002', 'dead_letter')
on conflict do nothing;

create table if not exists soniq_jobs (
  id uuid primary key,
  job_name text not null, args jsonb not null, args_hash text,
  status text default 'queued' not null check (status in ('queued', 'processing', 'done', 'cancelled')),
  attempts int default 0, max_attempts int default 3,
  queue text default 'default', priority int default 100,
  unique_job bool default false, dedup_key text,
  scheduled_at timestamptz, expires_at timestamptz,
  last_error text, result jsonb, producer_id text,
  created_at timestamptz default now(), updated_at timestamptz default now()
);

create table if not exists soniq_workers (
  id uuid primary key,
  hostname text not null, pid int not null,
  queues text[] default '{}', concurrency int default 1 not null,
  status text default 'active' not null check (status in ('active', 'stopping', 'stopped')),
  last_heartbeat timestamptz default now() not null, started_at timestamptz default now() not null,
  version text, metadata jsonb default '{}'
);

alter table soniq_jobs add column if not exists worker_id uuid;
do $$ begin
  if not exists (select from pg_constraint where conname = 'soniq_jobs_worker_id_fkey') then
    alter table soniq_jobs add constraint soniq_jobs_worker_id_fkey
      foreign key (worker_id) references soniq_workers on delete set null;
  end if;
end $$;

create table if not exists soniq_task_registry (
  task_name text, worker_id text, last_seen_at timestamptz not null, args_model_repr text,
  primary key (task_name, worker_id)
);

create table if not exists soniq_dead_letter_jobs (
  id uuid primary key,
  job_name text not null, args jsonb not null, queue text not null, priority int not null,
  max_attempts int not null, attempts int not null,
  last_error text, dead_letter_reason text not null,
  original_created_at timestamptz not null, moved_to_dead_letter_at timestamptz not null,
  resurrection_count int default 0, last_resurrection_at timestamptz,
  tags jsonb, created_at timestamptz default now()
);

-- The claim's, of which Optimize drops five.
create index if not exists idx_soniq_jobs_status_priority on soniq_jobs (status, priority) where status = 'queued';
create index if not exists idx_soniq_jobs_queue_status on soniq_jobs (queue, status);
create index if not exists idx_soniq_jobs_queue_status_priority
  on soniq_jobs (queue, status, priority, scheduled_at) where status = 'queued';
create index if not exists idx_soniq_jobs_scheduled_at on soniq_jobs (scheduled_at) where scheduled_at is not null;
create index if not exists idx_soniq_jobs_args_hash on soniq_jobs (args_hash) where unique_job = true;
-- Those that both programs need.
create index if not exists idx_soniq_jobs_expires_at on soniq_jobs (expires_at) where expires_at is not null;
create index if not exists idx_soniq_jobs_worker_id on soniq_jobs (worker_id) where worker_id is not null;
create unique index if not exists idx_soniq_jobs_unique_queued
  on soniq_jobs (job_name, args_hash) where status = 'queued' and unique_job = true;
create unique index if not exists idx_soniq_jobs_dedup_key
  on soniq_jobs (dedup_key) where status = 'queued' and dedup_key is not null;

create index if not exists idx_soniq_workers_last_heartbeat on soniq_workers (last_heartbeat);
create index if not exists idx_soniq_workers_status on soniq_workers (status);
create unique index if not exists idx_soniq_workers_host_pid on soniq_workers (hostname, pid);
create index if not exists idx_soniq_task_registry_task_name on soniq_task_registry (task_name);
create index if not exists idx_soniq_dead_letter_jobs_job_name on soniq_dead_letter_jobs (job_name);
create index if not exists idx_soniq_dead_letter_jobs_queue on soniq_dead_letter_jobs (queue);
create index if not exists idx_soniq_dead_letter_jobs_reason on soniq_dead_letter_jobs (dead_letter_reason);
create index if not exists idx_soniq_dead_letter_jobs_moved_at on soniq_dead_letter_jobs (moved_to_dead_letter_at);
