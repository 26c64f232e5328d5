-- The workers that wait for jobs of a queue and have to be told of them; '' is
-- any queue. A NOTIFYing commit takes a lock of the whole server, so the
-- triggers on soniq_jobs notify only where somebody has a row here. Apart from
-- the heartbeat, and written only when a worker begins or ends to wait: each
-- INSERT of a job reads it, and an old snapshot keeps all that was ever here
-- in its way. Whoever takes rows away says up to which epoch: a late DELETE
-- spares what was declared since. Why nobody sleeps through a job is told in
-- engine/hunger.go.
create table if not exists public.soniq_hunger (
  queue text not null,
  worker_id uuid not null,
  epoch bigint not null default 0,
  primary key (queue, worker_id)
);

-- Changes when the worker was stopped, forgotten or silent before it beat
-- again: its hunger did not count then. NULL where a worker knows nothing of
-- hunger.
alter table public.soniq_workers add column if not exists tenure bigint;

-- The row of a worker that has been silent for five minutes, the patience with
-- Python's, no longer counts: where nobody is left to bury it, producers would
-- notify for ever.
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

-- Each worker that begins is hungry: Python's, and those of older releases,
-- for as long as they live, and ours until they say otherwise. A queue whose
-- name is too long for the index counts as any.
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

-- Whoever is gone, by its own word or another's, is not hungry. One of Python's
-- that was taken for dead goes on beating as 'stopped', and works.
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

create or replace trigger soniq_worker_came_or_went
  after insert or delete on public.soniq_workers
  for each row execute function public.soniq_worker_changed();

create or replace trigger soniq_worker_changed
  after update on public.soniq_workers
  for each row
  when (
    old.status is distinct from new.status
    or old.queues is distinct from new.queues
    or (new.version is null and new.status = 'stopped' and old.last_heartbeat < new.last_heartbeat)
  )
  execute function public.soniq_worker_changed();

-- The triggers on soniq_jobs notify only where somebody is hungry for the queue.
-- VOLATILE: the function reads hunger as it is now, not as it was when the INSERT
-- began. A transaction that is stricter than read committed can't do that, so it
-- always notifies; so does one that can't read hunger. The first question is cheap
-- where everybody is busy.
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

-- Those that were there before the table, which is ours then: the triggers of
-- one that somebody else made at the last moment would run here.
do $$
begin
  perform public.soniq_begin_hunger(w.id, w.queues)
  from public.soniq_workers w
  where w.status <> 'stopped'
    and w.tenure is null
    and exists (
      select from pg_catalog.pg_class c
      where c.oid = 'public.soniq_hunger'::regclass::oid
        and pg_catalog.pg_get_userbyid(c.relowner) = current_user
    );
end
$$;
