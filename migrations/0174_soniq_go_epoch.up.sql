-- Which run of which server a dead letter was written by. A transaction number, moved_xid, says nothing
-- beside one of another server, and one server's go back when a backup or a snapshot of its disk is
-- restored, or a standby takes over that lacks the last of them. A later epoch has a greater number. The
-- last 20 bits are those of the start of the server in microseconds, so that a row tells whether this run
-- of the server wrote it; the rest is about when the epoch began, in microseconds since 1970.
create sequence if not exists public.soniq_epochs as bigint;

alter table public.soniq_dead_letter_jobs
  add column if not exists moved_epoch bigint not null default coalesce(nullif(pg_catalog.current_setting('soniq.epoch', true), ''), '0')::bigint;

create index if not exists idx_soniq_dead_letter_jobs_feed
  on public.soniq_dead_letter_jobs (moved_epoch, moved_xid, id);

-- Readers with a cursor of (moved_xid, id) need the old index, and there are none where nothing has died.
-- 'soniq setup --optimize' drops it elsewhere.
do $$
begin
  if not exists (select from public.soniq_dead_letter_jobs) then
    drop index if exists public.idx_soniq_dead_letter_jobs_cursor;
  end if;
end
$$;

-- What can be read in order, without missing or repeating a row: docs/channel.md says how. A row of this run
-- of the server is in it when no transaction before it is open; one of an earlier run or of another server at
-- once, unless a transaction that was prepared before the start may still add one. A standby has another start
-- than its primary: there the latest epoch is the primary's.
create or replace view public.soniq_dead_letter_feed with (security_barrier) as
select d.moved_epoch, d.moved_xid, d.id, d.job_name, d.queue, d.dead_letter_reason, d.last_error, d.attempts,
  d.moved_to_dead_letter_at, d.error_kind, d.error_type, d.error_code, d.fingerprint, d.state, d.tags, d.replay_of
from public.soniq_dead_letter_jobs d
where (
    d.moved_xid < pg_snapshot_xmin(pg_current_snapshot())
    or case
      when pg_is_in_recovery() then d.moved_epoch < (select max(m.moved_epoch) from public.soniq_dead_letter_jobs m)
      else d.moved_epoch & 1048575 <> (date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint & 1048575
    end
  )
  and not exists (select from pg_prepared_xacts p where p.prepared < pg_postmaster_start_time());

-- The epoch of this run of the server. It is a sequence, which is not undone with a transaction and looks
-- the same from all of them: the first death after a start makes it, whatever its isolation level, and
-- others wait a moment and not for that transaction's end.
create or replace function public.soniq_begin_epoch() returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp as $$
declare
  run constant bigint := (date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint & 1048575;
  epoch bigint;
  latest bigint;
begin
  for try in 1..100 loop
    epoch := pg_sequence_last_value('public.soniq_epochs'::regclass);
    if epoch & 1048575 = run then
      return epoch;
    end if;
    exit when pg_try_advisory_xact_lock(hashtextextended('public.soniq_epochs', 0));
    perform pg_sleep(0.005);
  end loop;
  epoch := pg_sequence_last_value('public.soniq_epochs'::regclass);
  if epoch & 1048575 = run then
    return epoch;
  end if;
  -- Rows of a dump or of a publisher may have a later one than the sequence.
  select max(d.moved_epoch) into latest
  from public.soniq_dead_letter_jobs d;
  return setval('public.soniq_epochs', greatest(
      (date_part('epoch', clock_timestamp()) * 1000000)::bigint >> 20,
      (coalesce(epoch, 0) >> 20) + 1,
      (coalesce(latest, 0) >> 20) + 1
    ) << 20 | run);
end
$$;
revoke all on function public.soniq_begin_epoch() from public;

-- Hands the epoch to the default of moved_epoch, once for each statement: a function for each row would make
-- a bulk insert a fifth slower.
create or replace function public.soniq_dead_letter_epoch() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
declare
  epoch bigint;
begin
  if tg_relid <> 'public.soniq_dead_letter_jobs'::regclass then
    return null;
  end if;
  epoch := pg_sequence_last_value(to_regclass('public.soniq_epochs'));
  if (epoch & 1048575 = (date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint & 1048575) is not true then
    -- The subtransaction is begun only here: for each death it would be a twentieth of its cost.
    begin
      epoch := public.soniq_begin_epoch();
    exception when others then
      epoch := null;
      raise warning 'soniq: a dead letter has no epoch: %', sqlerrm;
    end;
  end if;
  perform set_config('soniq.epoch', coalesce(epoch::text, ''), true);
  return null;
end
$$;
revoke all on function public.soniq_dead_letter_epoch() from public;

create or replace trigger soniq_dead_letter_epoch
  before insert on public.soniq_dead_letter_jobs
  for each statement execute function public.soniq_dead_letter_epoch();

-- Only deaths of this very transaction are news: the rows of a dump have another transaction or epoch.
-- 'set local soniq.silent = on' turns the announcement off, for dead letters that an import restores.
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
    from soniq_new_rows n
    where n.moved_xid = pg_current_xact_id()
      and (
        n.moved_epoch = 0
        or n.moved_epoch & 1048575 = (date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint & 1048575
      );
  end if;
  return null;
end
$$;
revoke all on function public.soniq_dead_letters_inserted() from public;

-- A dead letter whose job dies again keeps its row, and is announced again. Whoever wrote moved_xid, a worker
-- of 0.1.0, did not write the epoch.
create or replace function public.soniq_dead_letter_died_again() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid = 'public.soniq_dead_letter_jobs'::regclass
    and new.moved_xid = pg_current_xact_id()
  then
    begin
      update public.soniq_dead_letter_jobs d
      set moved_epoch = e.epoch
      from (select public.soniq_begin_epoch() as epoch) e
      where d.id = new.id
        and d.moved_epoch <> e.epoch;
    exception when others then
      raise warning 'soniq: a dead letter keeps an old epoch: %', sqlerrm;
    end;
  end if;
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

-- Writes the outbox, in the transaction of the death, for deaths of that very transaction. If it fails, the
-- move goes on, and the server's log has a warning.
create or replace function public.soniq_hook_deaths() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'public.soniq_dead_letter_jobs'::regclass
    or coalesce(current_setting('soniq.silent', true), '') = 'on'
    or not exists (select from public.soniq_hooks where enabled)
  then
    return null;
  end if;
  insert into public.soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key)
  select h.id, 'job.dead_lettered', n.id, public.soniq_dead_letter_payload(
      n.id, n.job_name, n.queue, n.dead_letter_reason, n.error_kind, n.fingerprint,
      n.attempts, n.moved_to_dead_letter_at, n.replay_of)::jsonb,
    public.soniq_hook_group(n.job_name, n.dead_letter_reason, n.fingerprint)
  from soniq_new_rows n
  join public.soniq_hook_listeners() h on 'job.dead_lettered' = any (h.events)
    and public.soniq_hook_matches(h.jobs, h.queues, h.reasons, h.tags, n.job_name, n.queue, n.dead_letter_reason, n.tags)
  where n.moved_xid = pg_current_xact_id()
    and (
      n.moved_epoch = 0
      or n.moved_epoch & 1048575 = (date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint & 1048575
    );
  if found and coalesce(current_setting('soniq.notify', true), '') <> 'off' then
    perform pg_notify('soniq_hook', '');
  end if;
  return null;
exception when others then
  raise warning 'soniq: dead letters were not handed to the hooks: %', sqlerrm;
  return null;
end
$$;
revoke all on function public.soniq_hook_deaths() from public;
