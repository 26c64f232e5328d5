-- The functions that 0.1.0 made can be executed by every role, and look names up
-- under a search_path of the caller's schemas. This makes each of them anew: under
-- a search_path of built-ins alone, with every name written in full, executable by
-- their owner alone. On a database that a later release set up it changes nothing.

create or replace function public.soniq_notify_queue(queue text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_notify('soniq_new_job', case when octet_length(queue) < 8000 then queue else '' end);
end
$$;
revoke all on function public.soniq_notify_queue(text) from public;

create or replace function public.soniq_jobs_inserted() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'public.soniq_jobs'::regclass
    or coalesce(current_setting('soniq.notify', true), '') = 'off'
  then
    return null;
  end if;
  if current_setting('transaction_isolation') = 'read committed' then
    begin
      perform from public.soniq_hunger limit 1;
      if not found then
        return null;
      end if;
      perform public.soniq_notify_queue(q.queue)
      from (
        select distinct coalesce(n.queue, 'default') as queue
        from soniq_new_rows n
        where n.status = 'queued'
          and (n.scheduled_at is null or n.scheduled_at <= now() + interval '10 minutes')
      ) q
      where public.soniq_hungry(q.queue);
      return null;
    exception when others then
      null;
    end;
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

create or replace function public.soniq_jobs_requeued() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'public.soniq_jobs'::regclass
    or coalesce(current_setting('soniq.notify', true), '') = 'off'
  then
    return null;
  end if;
  if current_setting('transaction_isolation') = 'read committed' then
    begin
      if not public.soniq_hungry(coalesce(new.queue, 'default')) then
        return null;
      end if;
    exception when others then
      null;
    end;
  end if;
  perform public.soniq_notify_queue(coalesce(new.queue, 'default'));
  return null;
end
$$;
revoke all on function public.soniq_jobs_requeued() from public;

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

create or replace function public.soniq_add_errors(history jsonb, more jsonb) returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp as $$
  select case
    when jsonb_array_length(w.whole) = 0 then null
    when jsonb_array_length(w.whole) <= 10 then w.whole
    else jsonb_build_array(w.whole -> 0) || jsonb_path_query_array(w.whole, '$[last - 8 to last]')
  end
  from (
    select
      case jsonb_typeof(history) when 'array' then history else '[]' end
      || case jsonb_typeof(more) when 'array' then more when 'object' then jsonb_build_array(more) else '[]' end
      as whole
  ) w
$$;
revoke all on function public.soniq_add_errors(jsonb, jsonb) from public;

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

create or replace function public.soniq_hook_glob(glob text, job_name text) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp as $$
  select job_name like translate(
    replace(replace(replace(glob, chr(92), repeat(chr(92), 2)), '%', chr(92) || '%'), '_', chr(92) || '_'), '*?', '%_')
$$;
revoke all on function public.soniq_hook_glob(text, text) from public;

create or replace function public.soniq_hook_matches(
  jobs text[], queues text[], reasons text[], tags jsonb, job_name text, queue text, reason text, letter_tags jsonb
) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
begin
  if tags is not null and jsonb_typeof(letter_tags) = 'string' then
    letter_tags := (letter_tags #>> '{}')::jsonb;
  end if;
  return (jobs is null or exists (select from unnest(jobs) g where public.soniq_hook_glob(g, job_name)))
    and (queues is null or queue = any (queues))
    and (reasons is null or reason = any (reasons))
    and (tags is null or coalesce(letter_tags @> tags, false));
exception when others then
  return true;
end
$$;
revoke all on function public.soniq_hook_matches(text[], text[], text[], jsonb, text, text, text, jsonb) from public;

create or replace function public.soniq_hook_group(job_name text, reason text, fingerprint text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp as $$
  select md5(concat_ws('|', job_name, reason, fingerprint))
$$;
revoke all on function public.soniq_hook_group(text, text, text) from public;

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
  join public.soniq_hooks h on h.enabled
    and 'job.dead_lettered' = any (h.events)
    and public.soniq_hook_matches(h.jobs, h.queues, h.reasons, h.tags, n.job_name, n.queue, n.dead_letter_reason, n.tags);
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
  join public.soniq_hooks h on h.enabled
    and e.event = any (h.events)
    and public.soniq_hook_matches(h.jobs, h.queues, h.reasons, h.tags, n.job_name, n.queue, n.dead_letter_reason, n.tags);
  if found and coalesce(current_setting('soniq.notify', true), '') <> 'off' then
    perform pg_notify('soniq_hook', '');
  end if;
  return null;
exception when others then
  raise warning 'soniq: dead letters were not handed to the hooks: %', sqlerrm;
  return null;
end
$$;
revoke all on function public.soniq_hook_changes() from public;

create or replace function public.soniq_hook_changed() returns trigger
language plpgsql volatile
set search_path = pg_catalog, pg_temp as $$
begin
  if coalesce(current_setting('soniq.notify', true), '') <> 'off' then
    perform pg_notify('soniq_hook', '');
  end if;
  return null;
end
$$;
revoke all on function public.soniq_hook_changed() from public;

create or replace function public.soniq_hungry(queue text) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp as $$
begin
  return exists (
    select from public.soniq_hunger h
    where h.queue in (soniq_hungry.queue, '')
      and exists (
        select from public.soniq_workers w
        where w.id = h.worker_id
          and w.last_heartbeat > now() - interval '5 minutes'
      )
  );
end
$$;
revoke all on function public.soniq_hungry(text) from public;

create or replace function public.soniq_begin_hunger(worker uuid, queues text[]) returns void
language sql volatile
set search_path = pg_catalog, pg_temp as $$
  insert into public.soniq_hunger (queue, worker_id)
  select distinct case when octet_length(q) <= 1000 then q else '' end, worker
  from unnest(case when cardinality(queues) > 0 then queues else array[''] end) q
  where q is not null
  on conflict do nothing
$$;
revoke all on function public.soniq_begin_hunger(uuid, text[]) from public;

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
    delete from public.soniq_hunger h where h.worker_id = old.id;
  end if;
  if works then
    perform public.soniq_begin_hunger(new.id, new.queues);
  end if;
  return null;
exception when others then
  raise warning 'soniq: the hunger of a worker was not noted: %', sqlerrm;
  return null;
end
$$;
revoke all on function public.soniq_worker_changed() from public;

-- Functions of 0.1.0 that take whole rows. To pass one, the server makes one value
-- of all that it holds, and fails where that is over 1 GB.
drop function if exists public.soniq_dead_letter_payload(public.soniq_dead_letter_jobs);
drop function if exists public.soniq_hook_matches(public.soniq_hooks, public.soniq_dead_letter_jobs);
drop function if exists public.soniq_hook_group(public.soniq_dead_letter_jobs);

-- Workers and commands of 0.1.0 call two of the functions in their own statements,
-- as the role that runs them. Whoever has the rights on the tables that go with such
-- a statement may execute the function too: who writes the history of errors, and
-- who reads dead letters. Members of two predefined roles have such rights without
-- any entry of their own.
do $$
declare
  granted text;
begin
  for granted in
    with entry (tab, col, role, privilege) as (
      select c.relname, null, a.grantee, a.privilege_type
      from pg_catalog.pg_class c
      cross join lateral pg_catalog.aclexplode(c.relacl) a
      where c.oid in ('public.soniq_jobs'::regclass::oid, 'public.soniq_dead_letter_jobs'::regclass::oid)
      union
      select c.relname, t.attname, a.grantee, a.privilege_type
      from pg_catalog.pg_class c
      join pg_catalog.pg_attribute t on t.attrelid = c.oid
      cross join lateral pg_catalog.aclexplode(t.attacl) a
      where c.oid in ('public.soniq_jobs'::regclass::oid, 'public.soniq_dead_letter_jobs'::regclass::oid)
    ), holder (function, role) as (
      select 'public.soniq_add_errors(jsonb, jsonb)'::regprocedure, e.role
      from entry e
      where coalesce(e.col, 'errors') = 'errors'
        and (e.tab, e.privilege) in (('soniq_jobs', 'UPDATE'), ('soniq_dead_letter_jobs', 'INSERT'))
      union
      select 'public.soniq_dead_letter_replays(uuid)'::regprocedure, e.role
      from entry e
      where coalesce(e.col, 'resurrection_count') = 'resurrection_count'
        and (e.tab, e.privilege) = ('soniq_dead_letter_jobs', 'SELECT')
      union
      select f.function, r.oid
      from (values
        ('public.soniq_add_errors(jsonb, jsonb)'::regprocedure, 'pg_write_all_data'),
        ('public.soniq_dead_letter_replays(uuid)'::regprocedure, 'pg_read_all_data')
      ) f (function, role)
      join pg_catalog.pg_roles r on r.rolname = f.role
      where exists (select from pg_catalog.pg_auth_members m where m.roleid = r.oid)
    )
    select pg_catalog.format('grant execute on function %s to %I', h.function, r.rolname)
    from holder h
    join pg_catalog.pg_roles r on r.oid = h.role
    where r.oid <> (select c.relowner from pg_catalog.pg_class c where c.oid = 'public.soniq_jobs'::regclass::oid)
  loop
    execute granted;
  end loop;
end
$$;
