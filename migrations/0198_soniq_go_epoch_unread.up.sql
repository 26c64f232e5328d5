-- A dead letter is written where the sequence of epochs can't be read: PostgreSQL 15.18 leaves zeros in the place of
-- an unlogged sequence on a standby that is promoted before its first restartpoint after setup.
-- The epoch of this run of the server. It is a sequence, which is not undone with a transaction and looks
-- the same from all of them: the first death after a start makes it, whatever its isolation level, and
-- others wait a moment and not for that transaction's end.
--
-- A standby that is promoted before its first restartpoint after setup can't read it ("bad magic number"), and
-- neither can a recovery that ends so: until 'soniq setup' has made it anew, all sessions use the one epoch that
-- follows from the start of the server and from the rows of others.
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
  begin
    perform set_config('soniq.epoch_unread', '', true);
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
  exception when internal_error then
    perform set_config('soniq.epoch_unread', 'on', true);
    raise warning 'soniq: the sequence of epochs can''t be read; run ''soniq setup'': %', sqlerrm;
    if latest & 1048575 = run then
      return latest;
    end if;
    return greatest(
        (date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint >> 20,
        (coalesce(latest, 0) >> 20) + 1
      ) << 20 | run;
  end;
end
$$;
revoke all on function public.soniq_begin_epoch() from public;

-- Hands the epoch to the default of moved_epoch, once for each statement: a function for each row would make
-- a bulk insert a fifth slower. A session lives in one run of the server, so it keeps the epoch until another
-- session has begun a later one. Rows of a dump, or of a publisher, may have a later one than this run: a
-- session looks for those once a second, since the look is a twentieth of a death, and begins another epoch,
-- which is later still. The sequence is read outside a subtransaction only where the session has read it in this
-- second already.
create or replace function public.soniq_dead_letter_epoch() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
declare
  epoch bigint;
begin
  if tg_relid = 'public.soniq_dead_letter_jobs'::regclass
    and (case
      when current_setting('soniq.epoch_second', true) is distinct from date_part('epoch', clock_timestamp())::bigint::text then true
      else current_setting('soniq.epoch', true) is distinct from coalesce(pg_sequence_last_value(to_regclass('public.soniq_epochs'))::text, '-')
    end)
  then
    -- The subtransaction is begun only here: for each death it would be another twentieth.
    begin
      epoch := public.soniq_begin_epoch();
    exception
    when serialization_failure or deadlock_detected then
      raise; -- whoever is at serializable, or was ended for a deadlock, runs it again
    when others then
      select max(d.moved_epoch) into epoch
      from public.soniq_dead_letter_jobs d;
      raise warning 'soniq: a dead letter has no epoch of its own: %', sqlerrm;
    end;
    perform set_config('soniq.epoch', coalesce(epoch::text, ''), false),
      set_config('soniq.epoch_second', case when current_setting('soniq.epoch_unread', true) = 'on' then '' else date_part('epoch', clock_timestamp())::bigint::text end, false);
  end if;
  return null;
end
$$;
revoke all on function public.soniq_dead_letter_epoch() from public;
