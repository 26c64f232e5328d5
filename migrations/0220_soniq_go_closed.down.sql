-- Loses: why dead letters need no attention, which their states and replays say too.
drop trigger if exists soniq_dead_letter_closes on public.soniq_dead_letter_jobs;
drop trigger if exists soniq_dead_letter_reopens on public.soniq_dead_letter_jobs;
drop function if exists public.soniq_dead_letter_closes();
drop function if exists public.soniq_dead_letter_reopens();
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

alter table public.soniq_dead_letter_jobs
  drop column if exists closed,
  reset (fillfactor);
