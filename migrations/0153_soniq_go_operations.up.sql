-- 'set local soniq.silent = on' keeps a dead letter from being announced that
-- is no news: one that an import restores.

-- Pages of one job, queue, reason or group, the newest or the oldest first. An index on the first
-- column alone, such as Python Soniq's, would read and sort all of it.
create index if not exists idx_soniq_dead_letter_jobs_job_name_moved
  on public.soniq_dead_letter_jobs (job_name, moved_to_dead_letter_at, id);
create index if not exists idx_soniq_dead_letter_jobs_queue_moved
  on public.soniq_dead_letter_jobs (queue, moved_to_dead_letter_at, id);
create index if not exists idx_soniq_dead_letter_jobs_reason_moved
  on public.soniq_dead_letter_jobs (dead_letter_reason, moved_to_dead_letter_at, id);

-- The group of a dead letter: its fingerprint or, if another program wrote none, a digest of the job,
-- the reason and the first line of the error without numbers and ids. The expression must be the same
-- as groupKey in the package deadletter.
create index if not exists idx_soniq_dead_letter_jobs_group_moved
  on public.soniq_dead_letter_jobs (
    coalesce(fingerprint, pg_catalog.lpad(pg_catalog.to_hex(pg_catalog.hashtextextended(job_name || '|' || dead_letter_reason || '|' || pg_catalog.regexp_replace(pg_catalog.left(pg_catalog.split_part(coalesce(last_error, ''), pg_catalog.chr(10), 1), 200), '[0-9a-f]*[0-9][0-9a-f-]*', '#', 'gi'), 0)), 16, '0')),
    moved_to_dead_letter_at, id
  );

-- Bulk operations on dead letters. 'options' has what a replay needs to be resumed; 'stopped_by' says
-- why one is not done.
create table if not exists public.soniq_dead_letter_operations (
  id uuid primary key,
  action text not null,
  state text not null default 'running'
    check (state in ('running', 'done', 'stopped')),
  stopped_by text,
  actor text,
  because text,
  filter jsonb,
  options jsonb,
  total bigint not null default 0,
  done bigint not null default 0,
  skipped bigint not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create index if not exists idx_soniq_dead_letter_operations_created_at
  on public.soniq_dead_letter_operations (created_at);

-- What an operation has still to do, in order. It is filled when the operation starts; each batch
-- deletes what it has done.
create table if not exists public.soniq_dead_letter_selections (
  operation_id uuid not null
    references public.soniq_dead_letter_operations (id) on delete cascade,
  place bigint not null,
  dead_letter_id uuid not null,
  primary key (operation_id, place)
);

-- Who did what to a dead letter, and why. Records outlive the dead letter.
create table if not exists public.soniq_dead_letter_audit (
  id bigint generated always as identity primary key,
  dead_letter_id uuid not null,
  operation_id uuid,
  action text not null,
  actor text,
  because text,
  job_id uuid,
  detail jsonb,
  at timestamptz not null default clock_timestamp()
);

create index if not exists idx_soniq_dead_letter_audit_dead_letter
  on public.soniq_dead_letter_audit (dead_letter_id, id);
create index if not exists idx_soniq_dead_letter_audit_operation
  on public.soniq_dead_letter_audit (operation_id, id) where operation_id is not null;

-- How often a dead letter, and those that it is a replay of, were replayed. Rows that were written by
-- hand may form a circle. For programs of 0.1.0, like soniq_add_errors.
create or replace function public.soniq_dead_letter_replays(letter uuid) returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
declare
  replays integer := 0;
  row_count integer;
  row_parent uuid;
begin
  for step in 1..100 loop
    exit when letter is null;
    select coalesce(d.resurrection_count, 0), d.replay_of
    into row_count, row_parent
    from public.soniq_dead_letter_jobs d
    where d.id = letter;
    exit when not found;
    replays := least(replays::bigint + row_count, 1000000);
    letter := row_parent;
  end loop;
  return replays;
end
$$;
revoke all on function public.soniq_dead_letter_replays(uuid) from public;
