-- Loses: which workers wait for jobs. They say it again when the table is back.
create or replace function public.soniq_jobs_inserted() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'public.soniq_jobs'::regclass
    or coalesce(current_setting('soniq.notify', true), '') = 'off'
  then
    return null;
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
  perform public.soniq_notify_queue(coalesce(new.queue, 'default'));
  return null;
end
$$;
revoke all on function public.soniq_jobs_requeued() from public;

drop trigger if exists soniq_worker_changed on public.soniq_workers;
drop trigger if exists soniq_worker_came_or_went on public.soniq_workers;
drop function if exists public.soniq_worker_changed();
drop function if exists public.soniq_begin_hunger(uuid, text[]);
drop function if exists public.soniq_hungry(text);
alter table public.soniq_workers drop column if exists tenure;
drop table if exists public.soniq_hunger;
