-- claim_token: new for each claim; every outcome is written under it.
-- replay_of: the dead letter that this job replays.
alter table public.soniq_jobs
  add column if not exists claim_token bigint,
  add column if not exists replay_of uuid;

-- The claim's order: queue, priority, due time. NULLs, which Python's schema
-- allows, are read as the defaults. A row without any time is due at once.
create index if not exists idx_soniq_jobs_claim
  on public.soniq_jobs (
    coalesce(queue, 'default'),
    coalesce(priority, 100),
    coalesce(scheduled_at, created_at, timestamptz '-infinity')
  )
  where status = 'queued';

-- state: dead, replaying (replay_job_id is the latest try) or resolved (a
-- replay succeeded).
-- moved_xid: the cursor of those who read after a disconnect; see
-- docs/channel.md.
-- error_*, decided_by, fingerprint: the last error, and what decided that it was
-- final.
-- The rest are fields of the job that Python's move does not keep.
alter table public.soniq_dead_letter_jobs
  add column if not exists state text not null default 'dead'
    check (state in ('dead', 'replaying', 'resolved')),
  add column if not exists replay_job_id uuid,
  add column if not exists replay_of uuid,
  add column if not exists moved_xid xid8,
  add column if not exists error_kind text,
  add column if not exists error_type text,
  add column if not exists error_code text,
  add column if not exists decided_by text,
  add column if not exists fingerprint text,
  add column if not exists args_hash text,
  add column if not exists unique_job boolean,
  add column if not exists dedup_key text,
  add column if not exists producer_id text,
  add column if not exists worker_id uuid,
  add column if not exists scheduled_at timestamptz;

-- Set apart from the column: a volatile default in ADD COLUMN would rewrite
-- the table.
alter table public.soniq_dead_letter_jobs
  alter column moved_xid set default pg_current_xact_id();

create index if not exists idx_soniq_dead_letter_jobs_cursor
  on public.soniq_dead_letter_jobs (moved_xid, id);

-- Trigger functions never make a statement of the application fail, whatever a row holds.
-- 'set local soniq.notify = off' turns notifications off, for two-phase commit, which refuses NOTIFY.
--
-- A function runs as its owner (SECURITY DEFINER) if it uses a table or function that whoever writes
-- the row may have no right to: a role with rights on soniq_jobs alone can enqueue. Such a function
-- does nothing for other tables than its own, whose columns have built-in types. On a table with types
-- and casts of its owner, it would run his code as Soniq's owner.

-- A payload has under 8,000 bytes. A longer name of a queue is sent as '', which means any queue.
create or replace function public.soniq_notify_queue(queue text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_notify('soniq_new_job', case when octet_length(queue) < 8000 then queue else '' end);
end
$$;
revoke all on function public.soniq_notify_queue(text) from public;

-- Workers look at least every 30 s, so a job that is due in over ten minutes notifies nobody now.
create or replace function public.soniq_jobs_inserted() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'public.soniq_jobs'::regclass
    or coalesce(current_setting('soniq.notify', true), '') = 'off'
  then
    return null;
  end if;
  perform public.soniq_notify_queue(q.queue)
  from (
    select distinct coalesce(n.queue, 'default') as queue
    from soniq_new_rows n
    where n.status = 'queued'
      and (n.scheduled_at is null or n.scheduled_at <= now() + interval '10 minutes')
  ) q;
  return null;
end
$$;
revoke all on function public.soniq_jobs_inserted() from public;

create or replace trigger soniq_jobs_inserted
  after insert on public.soniq_jobs
  referencing new table as soniq_new_rows
  for each statement execute function public.soniq_jobs_inserted();

-- Rows that become runnable without an INSERT: a retry, a snooze, Python's sweep, an UPDATE in psql.
-- It is a row trigger with a WHEN, since a statement trigger would copy every claimed and finished row
-- into its transition tables. The server merges equal payloads of a transaction.
create or replace function public.soniq_jobs_requeued() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'public.soniq_jobs'::regclass
    or coalesce(current_setting('soniq.notify', true), '') = 'off'
  then
    return null;
  end if;
  perform public.soniq_notify_queue(coalesce(new.queue, 'default'));
  return null;
end
$$;
revoke all on function public.soniq_jobs_requeued() from public;

create or replace trigger soniq_jobs_requeued
  after update on public.soniq_jobs
  for each row
  when (
    new.status = 'queued'
    and (
      old.status is distinct from new.status
      or old.scheduled_at is distinct from new.scheduled_at
      or old.queue is distinct from new.queue
      or old.job_name is distinct from new.job_name
    )
    and (new.scheduled_at is null or new.scheduled_at <= now() + interval '10 minutes')
  )
  execute function public.soniq_jobs_requeued();

-- The public notification. docs/channel.md describes its fields. It is under 1,000 bytes: a character
-- has at most six bytes in JSON, so 24 characters of each of the five texts always fit. It takes
-- columns and not the row: to pass a row, the server makes one value of it, which fails over 1 GB.
create or replace function public.soniq_dead_letter_payload(
  id uuid, job_name text, queue text, reason text, kind text, fingerprint text, attempts int4, moved_at timestamptz, replay_of uuid
) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp as $$
declare
  room integer;
  payload text;
begin
  foreach room in array array[120, 24] loop
    payload := jsonb_strip_nulls(jsonb_build_object(
      'v', 1,
      'id', id,
      'job_name', left(job_name, room),
      'queue', left(queue, room),
      'reason', left(reason, room),
      'kind', left(kind, room),
      'fingerprint', left(fingerprint, room),
      'attempts', attempts,
      'moved_at', to_char(moved_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
      'replay_of', replay_of,
      'truncated', case when greatest(
        length(job_name), length(queue), length(reason), length(kind), length(fingerprint)) > room then true end
    ))::text;
    exit when octet_length(payload) < 1000;
  end loop;
  return payload;
end
$$;
revoke all on function public.soniq_dead_letter_payload(uuid, text, text, text, text, text, int4, timestamptz, uuid) from public;

create or replace function public.soniq_dead_letters_inserted() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid = 'public.soniq_dead_letter_jobs'::regclass
    and coalesce(current_setting('soniq.notify', true), '') <> 'off'
    and coalesce(current_setting('soniq.silent', true), '') <> 'on'
  then
    perform pg_notify('soniq_dead_letter', public.soniq_dead_letter_payload(
      n.id, n.job_name, n.queue, n.dead_letter_reason, n.error_kind, n.fingerprint,
      n.attempts, n.moved_to_dead_letter_at, n.replay_of))
    from soniq_new_rows n;
  end if;
  return null;
end
$$;
revoke all on function public.soniq_dead_letters_inserted() from public;

create or replace trigger soniq_dead_letters_inserted
  after insert on public.soniq_dead_letter_jobs
  referencing new table as soniq_new_rows
  for each statement execute function public.soniq_dead_letters_inserted();

-- A dead letter whose job dies again keeps its row, and is announced again.
create or replace function public.soniq_dead_letter_died_again() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid = 'public.soniq_dead_letter_jobs'::regclass
    and coalesce(current_setting('soniq.notify', true), '') <> 'off'
    and coalesce(current_setting('soniq.silent', true), '') <> 'on'
  then
    perform pg_notify('soniq_dead_letter', public.soniq_dead_letter_payload(
      new.id, new.job_name, new.queue, new.dead_letter_reason, new.error_kind, new.fingerprint,
      new.attempts, new.moved_to_dead_letter_at, new.replay_of));
  end if;
  return null;
end
$$;
revoke all on function public.soniq_dead_letter_died_again() from public;

create or replace trigger soniq_dead_letter_died_again
  after update on public.soniq_dead_letter_jobs
  for each row
  when (old.moved_to_dead_letter_at is distinct from new.moved_to_dead_letter_at)
  execute function public.soniq_dead_letter_died_again();

-- Follows a replay to its end, whoever ran or deleted the job. Success resolves the dead letter and
-- those that it is a replay of; anything else makes it dead again. The dead letter names the job that
-- replays it. A job's own replay_of is not enough: whoever may enqueue can write it. In the same way, a
-- dead letter counts as a replay of another one only if that one's last replay is the job that died.
create or replace function public.soniq_replay_ended() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'public.soniq_jobs'::regclass then
    return null;
  end if;
  if tg_op = 'UPDATE' and new.status = 'done' then
    with recursive chain (id, parent) as (
      select d.id, d.replay_of
      from public.soniq_dead_letter_jobs d
      where d.id = old.replay_of
        and d.state = 'replaying'
        and d.replay_job_id = old.id
      union
      select d.id, d.replay_of
      from public.soniq_dead_letter_jobs d
      join chain c on d.id = c.parent
        and d.replay_job_id = c.id
    )
    update public.soniq_dead_letter_jobs d
    set state = 'resolved'
    from chain
    where d.id = chain.id;
  else
    update public.soniq_dead_letter_jobs d
    set state = 'dead'
    where d.id = old.replay_of
      and d.state = 'replaying'
      and d.replay_job_id = old.id;
  end if;
  return null;
end
$$;
revoke all on function public.soniq_replay_ended() from public;

create or replace trigger soniq_replay_ended
  after update on public.soniq_jobs
  for each row
  when (
    old.replay_of is not null
    and old.status is distinct from new.status
    and new.status in ('done', 'cancelled')
  )
  execute function public.soniq_replay_ended();

create or replace trigger soniq_replay_deleted
  after delete on public.soniq_jobs
  for each row
  when (old.replay_of is not null and old.status in ('queued', 'processing'))
  execute function public.soniq_replay_ended();
