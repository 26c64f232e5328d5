-- Workers that wait for jobs of a queue; '' is any queue. A commit that notifies takes a lock of the
-- whole server, so the triggers on soniq_jobs notify only if a worker has a row here. Each INSERT of a
-- job reads the table. It is not part of the heartbeat, since dead row versions would make that read
-- slower; workers write only when they begin or stop waiting. A DELETE names the epoch up to which it
-- deletes: a late one spares rows that were written since.
create table if not exists public.soniq_hunger (
  queue text not null,
  worker_id uuid not null,
  epoch bigint not null default 0,
  primary key (queue, worker_id)
);

-- A new number if the worker was stopped, forgotten or silent before this heartbeat: its rows in
-- soniq_hunger did not count meanwhile. NULL if the worker writes no such rows.
alter table public.soniq_workers add column if not exists tenure bigint;

-- Whether a worker waits for a queue. A worker that has been silent for five minutes, which is how long
-- Python's may be, no longer counts. Otherwise producers would notify for ever if no worker is left to
-- remove its row.
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

-- A worker that starts counts as waiting. Python's do as long as they live, Go's until they write
-- otherwise. If a queue's name is too long for the index, the worker waits for any queue.
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

-- A worker that was stopped or deleted no longer waits. One of Python's that was taken for dead goes on
-- working, and its heartbeat keeps the status 'stopped'.
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

-- The triggers on soniq_jobs notify only if a worker waits for the queue. The functions are VOLATILE, so
-- that they read soniq_hunger as it is now and not as it was when the statement began. In a transaction
-- above read committed that is not possible, so there they always notify; also if they can't read the
-- table. The first query is cheap when all workers are busy.
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

-- Workers that were there before the table. It must be the role's own: the triggers of a table that
-- somebody else made in the same moment would run here.
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
