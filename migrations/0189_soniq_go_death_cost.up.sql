-- A death costs what it did before there were epochs. The payload of short texts, which most are, is put
-- together without jsonb: for a hundred deaths in a statement that is a sixth of all.
create or replace function public.soniq_dead_letter_payload(
  id uuid, job_name text, queue text, reason text, kind text, fingerprint text, attempts int4, moved_at timestamptz, replay_of uuid
) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp as $$
declare
  room integer;
  payload text;
begin
  -- 120 bytes can't become 1,000. The order and the spaces are those of jsonb.
  if octet_length(job_name) + octet_length(queue) + octet_length(reason) + octet_length(concat(kind, fingerprint)) <= 120 then
    return '{"v": 1, "id": "' || id || coalesce('", "kind": ' || to_json(kind)::text, '"') || ', "queue": ' || to_json(queue)::text
      || ', "reason": ' || to_json(reason)::text || ', "attempts": ' || attempts || ', "job_name": ' || to_json(job_name)::text
      || ', "moved_at": "' || to_char(moved_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
      || coalesce('", "replay_of": "' || replay_of, '') || coalesce('", "fingerprint": ' || to_json(fingerprint)::text || '}', '"}');
  end if;
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

-- Hands the epoch to the default of moved_epoch, once for each statement: a function for each row would make
-- a bulk insert a fifth slower. A session lives in one run of the server, so it keeps the epoch until another
-- session has begun a later one. Rows of a dump, or of a publisher, may have a later one than this run: a
-- session looks for those once a second, since the look is a twentieth of a death, and begins another epoch,
-- which is later still.
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
    exception when others then
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

-- Only deaths of this very transaction are news: the rows of a dump have another transaction or epoch.
-- 'set local soniq.silent = on' turns the announcement off, for dead letters that an import restores.
--
-- Hooks get them through the outbox, in the transaction of the death. If that fails, the move goes on, and the
-- server's log has a warning. It is no trigger of its own, which was a tenth of a death, and it begins a
-- subtransaction only where there are hooks, or where whether there are can't be read.
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
  when serialization_failure then
    raise; -- the transaction may commit all the same: whoever is at serializable runs it again
  when others then
    raise warning 'soniq: dead letters were not handed to the hooks: %', sqlerrm;
  end;
  return null;
end
$$;
revoke all on function public.soniq_dead_letters_inserted() from public;

drop trigger if exists soniq_hook_deaths on public.soniq_dead_letter_jobs;
drop function if exists public.soniq_hook_deaths();
