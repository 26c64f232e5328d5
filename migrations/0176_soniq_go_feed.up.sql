-- After a crash PostgreSQL uses transaction numbers again that it gave to commits which were not yet on disk
-- (synchronous_commit = off), and a reader may have seen those. A crash, a base backup and a promotion reset an
-- unlogged sequence, and a clean restart does not: so each of these begins an epoch. PostgreSQL 14 has none.
do $$
begin
  if current_setting('server_version_num')::integer >= 150000 then
    alter sequence public.soniq_epochs set unlogged;
  end if;
end
$$;

-- What can be read in order, without missing or repeating a row: docs/channel.md says how. A row of this run
-- of the server is in it when no transaction before it is open; one of an earlier run or of another server at
-- once. Nothing is in it while a transaction is prepared that may write an earlier epoch: one that is older
-- than the latest epoch, or any before the first death of this run. Rows without a transaction number, such as
-- imported ones, are no news. A standby has another start than its primary: there the latest epoch is the
-- primary's.
create or replace view public.soniq_dead_letter_feed with (security_barrier) as
select d.moved_epoch, d.moved_xid, d.id, d.job_name, d.queue, d.dead_letter_reason, d.last_error, d.attempts,
  d.moved_to_dead_letter_at, d.error_kind, d.error_type, d.error_code, d.fingerprint, d.state, d.tags, d.replay_of
from public.soniq_dead_letter_jobs d
where d.moved_xid is not null
  and (
    d.moved_xid < pg_snapshot_xmin(pg_current_snapshot())
    or case
      when pg_is_in_recovery() then d.moved_epoch < (select max(m.moved_epoch) from public.soniq_dead_letter_jobs m)
      else d.moved_epoch & 1048575 <> (date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint & 1048575
    end
  )
  and not exists (
    select from pg_prepared_xacts p
    cross join (select max(m.moved_epoch) as epoch from public.soniq_dead_letter_jobs m) latest
    where p.database = current_database()
      and (
        latest.epoch & 1048575 <> (date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint & 1048575
        or (date_part('epoch', p.prepared) * 1000000)::bigint < latest.epoch + 1048576
      )
  );

-- Whoever may read the table may read this.
do $$
declare
  reader record;
begin
  for reader in
    select case when a.grantee = 0 then 'PUBLIC' else a.grantee::regrole::text end as name
    from pg_class c
    cross join lateral aclexplode(c.relacl) a
    where c.oid = 'public.soniq_dead_letter_jobs'::regclass
      and a.privilege_type = 'SELECT'
      and a.grantee <> c.relowner
  loop
    execute format('grant select on %s to %s', 'public.soniq_dead_letter_feed'::regclass, reader.name);
  end loop;
end
$$;

-- Hands the epoch to the default of moved_epoch, once for each statement: a function for each row would make
-- a bulk insert a fifth slower. Rows of a dump, or of a publisher, may have a later one than this run: then the
-- next death begins another, which is later still.
create or replace function public.soniq_dead_letter_epoch() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
declare
  epoch bigint;
  latest bigint;
begin
  if tg_relid <> 'public.soniq_dead_letter_jobs'::regclass then
    return null;
  end if;
  epoch := pg_sequence_last_value(to_regclass('public.soniq_epochs'));
  select max(d.moved_epoch) into latest
  from public.soniq_dead_letter_jobs d;
  if (epoch & 1048575 = (date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint & 1048575) is not true
    or epoch < latest
  then
    -- The subtransaction is begun only here: for each death it would be a twentieth of its cost.
    begin
      epoch := public.soniq_begin_epoch();
    exception when others then
      epoch := latest;
      raise warning 'soniq: a dead letter has no epoch of its own: %', sqlerrm;
    end;
  end if;
  perform set_config('soniq.epoch', coalesce(epoch::text, ''), true);
  return null;
end
$$;
revoke all on function public.soniq_dead_letter_epoch() from public;

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
  -- Rows of a dump or of a publisher may have a later one than the sequence.
  select max(d.moved_epoch) into latest
  from public.soniq_dead_letter_jobs d;
  for try in 1..100 loop
    epoch := pg_sequence_last_value('public.soniq_epochs'::regclass);
    if epoch & 1048575 = run and epoch >= coalesce(latest, 0) then
      return epoch;
    end if;
    exit when pg_try_advisory_xact_lock(hashtextextended('public.soniq_epochs', 0));
    perform pg_sleep(0.005);
  end loop;
  epoch := pg_sequence_last_value('public.soniq_epochs'::regclass);
  if epoch & 1048575 = run and epoch >= coalesce(latest, 0) then
    return epoch;
  end if;
  return setval('public.soniq_epochs', greatest(
      (date_part('epoch', clock_timestamp()) * 1000000)::bigint >> 20,
      (coalesce(epoch, 0) >> 20) + 1,
      (coalesce(latest, 0) >> 20) + 1
    ) << 20 | run);
end
$$;
revoke all on function public.soniq_begin_epoch() from public;
