-- What became of jobs, by minute and in coarser steps. The releases before don't know of it.
create table if not exists public.soniq_job_stats (
  step integer not null,
  at timestamptz not null,
  queue text not null,
  job_name text not null,
  reason text not null default '',
  completed bigint not null default 0,
  failed bigint not null default 0,
  resolved bigint not null default 0,
  dead bigint not null default 0,
  waited_ms bigint not null default 0,
  ran_ms bigint not null default 0,
  waits bigint[] not null default '{}',
  runs bigint[] not null default '{}',
  primary key (step, at, queue, job_name, reason)
)
with (fillfactor = 50);
