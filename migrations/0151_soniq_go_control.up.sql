-- The key of the session advisory lock that a worker holds on its listener connection, and the server
-- process that holds it. NULL if the worker has no lock: one of Python's, or one behind a pooler.
alter table public.soniq_workers
  add column if not exists lock_key bigint,
  add column if not exists backend_pid integer;

-- Finds the workers that hold processing jobs, twice a second, and processing jobs without a worker. A
-- claim takes no longer with it; a job's WAL grows by 7 %.
create index if not exists idx_soniq_jobs_processing
  on public.soniq_jobs (worker_id) where status = 'processing';

-- When cancelling a running job was requested. The worker gets a notification, and finds it here if
-- that is lost. Unless the attempt succeeds, the job does not go back to its queue.
alter table public.soniq_jobs
  add column if not exists cancel_requested_at timestamptz;

-- Cancels a job that goes back to its queue although cancelling it was requested, and announces each
-- request for a running job. It is an AFTER trigger that updates the row again: a BEFORE trigger would
-- lock each row of every claim and outcome once more. It runs as its owner, since whoever requeues may
-- have no right to the other columns. The day is cancelledTTL in the engine. It cuts the last error,
-- which could otherwise exceed 1 GB with the text before it.
create or replace function public.soniq_job_cancelled() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'public.soniq_jobs'::regclass then
    return null;
  end if;
  if new.status = 'queued' then
    update public.soniq_jobs j
    set status = 'cancelled',
      last_error = 'cancelled by request' || coalesce('; the last error was: ' || left(j.last_error, 16384), ''),
      expires_at = now() + interval '1 day',
      updated_at = now()
    where j.id = new.id
      and j.status = 'queued';
  elsif coalesce(current_setting('soniq.notify', true), '') <> 'off' then
    perform pg_notify('soniq_control', jsonb_build_object('v', 1, 'cancel', new.id)::text);
  end if;
  return null;
end
$$;
revoke all on function public.soniq_job_cancelled() from public;

create or replace trigger soniq_job_cancelled
  after update on public.soniq_jobs
  for each row
  when (
    new.cancel_requested_at is not null
    and old.status = 'processing'
    and (
      new.status = 'queued'
      or (new.status = 'processing' and old.cancel_requested_at is distinct from new.cancel_requested_at)
    )
  )
  execute function public.soniq_job_cancelled();

-- Settings of a queue. A queue without a row is not paused.
create table if not exists public.soniq_queues (
  name text primary key,
  paused_at timestamptz,
  paused_by text
);

-- Wakes the workers of a queue that is resumed: they don't poll.
create or replace function public.soniq_queue_resumed() returns trigger
language plpgsql volatile
set search_path = pg_catalog, pg_temp as $$
begin
  if coalesce(current_setting('soniq.notify', true), '') <> 'off' then
    perform pg_notify('soniq_new_job', case when octet_length(old.name) < 8000 then old.name else '' end);
  end if;
  return null;
end
$$;
revoke all on function public.soniq_queue_resumed() from public;

create or replace trigger soniq_queue_resumed
  after update on public.soniq_queues
  for each row
  when (old.paused_at is not null and (new.paused_at is null or old.name <> new.name))
  execute function public.soniq_queue_resumed();

create or replace trigger soniq_queue_deleted
  after delete on public.soniq_queues
  for each row
  when (old.paused_at is not null)
  execute function public.soniq_queue_resumed();
