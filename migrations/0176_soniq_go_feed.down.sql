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

do $$
begin
  if current_setting('server_version_num')::integer >= 150000 then
    alter sequence public.soniq_epochs set logged;
  end if;
end
$$;
