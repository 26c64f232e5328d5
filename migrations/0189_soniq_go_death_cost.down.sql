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
exception
when serialization_failure then
  raise; -- the transaction may commit all the same: whoever is at serializable runs it again
when others then
  raise warning 'soniq: dead letters were not handed to the hooks: %', sqlerrm;
  return null;
end
$$;
revoke all on function public.soniq_hook_deaths() from public;

create or replace trigger soniq_hook_deaths
  after insert on public.soniq_dead_letter_jobs
  referencing new table as soniq_new_rows
  for each statement execute function public.soniq_hook_deaths();
