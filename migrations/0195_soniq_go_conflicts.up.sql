-- Triggers took a conflict with another transaction, or a deadlock that the server ended, for any other error, and
-- went on: a worker's wait was not noted, a dead letter got no epoch of its own, and no hook was told of it. They
-- pass it on: the statement is run again.
create or replace function public.soniq_worker_changed() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
declare
  works boolean;
begin
  if tg_relid <> 'public.soniq_workers'::regclass then
    return null;
  end if;
  works := tg_op <> 'DELETE' and (
    new.status <> 'stopped'
    or tg_op = 'UPDATE' and old.status = 'stopped' and new.version is null
  );
  if not works or tg_op = 'UPDATE' and old.queues is distinct from new.queues then
    delete from public.soniq_waiters h where h.worker_id = old.id;
  end if;
  if works then
    perform public.soniq_begin_waiting(new.id, new.queues);
  end if;
  return null;
exception
when serialization_failure or deadlock_detected then
  raise; -- whoever is at serializable, or was ended for a deadlock, runs it again
when others then
  raise warning 'soniq: that a worker waits was not noted: %', sqlerrm;
  return null;
end
$$;
revoke all on function public.soniq_worker_changed() from public;

create or replace function public.soniq_dead_letter_epoch() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
declare
  epoch bigint;
begin
  if tg_relid = 'public.soniq_dead_letter_jobs'::regclass
    and (
      current_setting('soniq.epoch', true) is distinct from coalesce(pg_sequence_last_value(to_regclass('public.soniq_epochs'))::text, '-')
      or current_setting('soniq.epoch_second', true) is distinct from date_part('epoch', clock_timestamp())::bigint::text
    )
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
      set_config('soniq.epoch_second', date_part('epoch', clock_timestamp())::bigint::text, false);
  end if;
  return null;
end
$$;
revoke all on function public.soniq_dead_letter_epoch() from public;

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
    exception
    when serialization_failure or deadlock_detected then
      raise; -- whoever is at serializable, or was ended for a deadlock, runs it again
    when others then
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

create or replace function public.soniq_dead_letters_inserted() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'public.soniq_dead_letter_jobs'::regclass
    or current_setting('soniq.silent', true) = 'on'
  then
    return null;
  end if;
  if current_setting('soniq.notify', true) is distinct from 'off' then
    -- No variable: with one, the server would plan this anew for each statement.
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
  if has_table_privilege(to_regclass('public.soniq_hooks'), 'select') then
    if not exists (select from public.soniq_hooks where enabled) then
      return null;
    end if;
  end if;
  begin
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
    if found and current_setting('soniq.notify', true) is distinct from 'off' then
      perform pg_notify('soniq_hook', '');
    end if;
  exception
  when serialization_failure or deadlock_detected then
    raise; -- whoever is at serializable, or was ended for a deadlock, runs it again
  when others then
    raise warning 'soniq: dead letters were not handed to the hooks: %', sqlerrm;
  end;
  return null;
end
$$;
revoke all on function public.soniq_dead_letters_inserted() from public;

create or replace function public.soniq_hook_changes() returns trigger
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
  select h.id, e.event, n.id, public.soniq_dead_letter_payload(
      n.id, n.job_name, n.queue, n.dead_letter_reason, n.error_kind, n.fingerprint,
      n.attempts, n.moved_to_dead_letter_at, n.replay_of)::jsonb,
    public.soniq_hook_group(n.job_name, n.dead_letter_reason, n.fingerprint)
  from soniq_new_rows n
  join soniq_old_rows o on o.id = n.id
  cross join lateral (
    select 'job.dead_lettered' as event
    where n.moved_to_dead_letter_at is distinct from o.moved_to_dead_letter_at
    union all
    select 'job.resurrected'
    where coalesce(n.resurrection_count, 0) > coalesce(o.resurrection_count, 0)
    union all
    select 'job.resolved'
    where n.state = 'resolved' and o.state <> 'resolved'
  ) e
  join public.soniq_hook_listeners() h on e.event = any (h.events)
    and public.soniq_hook_matches(h.jobs, h.queues, h.reasons, h.tags, n.job_name, n.queue, n.dead_letter_reason, n.tags);
  if found and coalesce(current_setting('soniq.notify', true), '') <> 'off' then
    perform pg_notify('soniq_hook', '');
  end if;
  return null;
exception
when serialization_failure or deadlock_detected then
  raise; -- whoever is at serializable, or was ended for a deadlock, runs it again
when others then
  raise warning 'soniq: dead letters were not handed to the hooks: %', sqlerrm;
  return null;
end
$$;
revoke all on function public.soniq_hook_changes() from public;
