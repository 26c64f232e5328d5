-- soniq_hunger becomes soniq_waiters, and the functions that use it get new names and bodies. Programs of
-- 0.1.0 go on with the old name, which is a view.
alter table public.soniq_hunger rename to soniq_waiters;
alter index public.soniq_hunger_pkey rename to soniq_waiters_pkey;

create or replace view public.soniq_hunger with (security_barrier) as
select queue, worker_id, epoch
from public.soniq_waiters;

-- 0.1.0 uses the old name as the roles that may use the table.
do $$
declare
  granted text;
begin
  for granted in
    select pg_catalog.format('grant %s on %s to %s', a.privilege_type, 'public.soniq_hunger'::regclass,
      case a.grantee when 0 then 'PUBLIC' else a.grantee::regrole::text end)
    from pg_catalog.pg_class c
    cross join lateral pg_catalog.aclexplode(c.relacl) a
    where c.oid = 'public.soniq_waiters'::regclass::oid
      and a.grantee <> c.relowner
    union all
    select pg_catalog.format('grant %s (%I) on %s to %s', a.privilege_type, t.attname, 'public.soniq_hunger'::regclass,
      case a.grantee when 0 then 'PUBLIC' else a.grantee::regrole::text end)
    from pg_catalog.pg_attribute t
    cross join lateral pg_catalog.aclexplode(t.attacl) a
    where t.attrelid = 'public.soniq_waiters'::regclass::oid
  loop
    execute granted;
  end loop;
end
$$;

create or replace function public.soniq_waiting(queue text) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp as $$
begin
  return exists (
    select from public.soniq_waiters h
    where h.queue in (soniq_waiting.queue, '')
      and exists (
        select from public.soniq_workers w
        where w.id = h.worker_id
          and w.last_heartbeat > now() - interval '5 minutes'
      )
  );
end
$$;
revoke all on function public.soniq_waiting(text) from public;

create or replace function public.soniq_begin_waiting(worker uuid, queues text[]) returns void
language sql volatile
set search_path = pg_catalog, pg_temp as $$
  insert into public.soniq_waiters (queue, worker_id)
  select distinct case when octet_length(q) <= 1000 then q else '' end, worker
  from unnest(case when cardinality(queues) > 0 then queues else array[''] end) q
  where q is not null
  on conflict do nothing
$$;
revoke all on function public.soniq_begin_waiting(uuid, text[]) from public;

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
exception when others then
  raise warning 'soniq: that a worker waits was not noted: %', sqlerrm;
  return null;
end
$$;
revoke all on function public.soniq_worker_changed() from public;

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
      perform from public.soniq_waiters limit 1;
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
      where public.soniq_waiting(q.queue);
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
      if not public.soniq_waiting(coalesce(new.queue, 'default')) then
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

drop function if exists public.soniq_begin_hunger(uuid, text[]);
drop function if exists public.soniq_hungry(text);
