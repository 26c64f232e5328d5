-- Why a dead letter needs no attention any more: resolved, or superseded by the dead letter of its replay. It is
-- in an index and says less than the state, which is in none: a replay changes no index. Others that need no
-- attention have it too, once workers have looked at them; so the state and the replays have the last word.
alter table public.soniq_dead_letter_jobs add column if not exists closed text;

-- A page has room for new versions of some of its rows: a replay then leaves them in it, and all indexes as
-- they are. Pages that are full stay as they are.
do $$
begin
  if not coalesce((select 'fillfactor=80' = any (c.reloptions) from pg_class c where c.oid = 'public.soniq_dead_letter_jobs'::regclass), false) then
    alter table public.soniq_dead_letter_jobs set (fillfactor = 80);
  end if;
end
$$;

-- Whoever changes the state need not know of 'closed'. It is true of those who know it that this does nothing.
create or replace function public.soniq_dead_letter_closes() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid = 'public.soniq_dead_letter_jobs'::regclass then
    update public.soniq_dead_letter_jobs d
    set closed = case d.state when 'resolved' then 'resolved' end
    where d.id = new.id
      and d.closed is distinct from case d.state when 'resolved' then 'resolved' end;
  end if;
  return null;
end
$$;
revoke all on function public.soniq_dead_letter_closes() from public;

create or replace trigger soniq_dead_letter_closes
  after update on public.soniq_dead_letter_jobs
  for each row
  when (
    old.state is distinct from new.state
    and (new.state = 'resolved') is distinct from (new.closed is not distinct from 'resolved')
    or new.state = 'replaying' and new.closed is not null
  )
  execute function public.soniq_dead_letter_closes();

-- A dead letter whose replay's dead letter is deleted needs attention again.
create or replace function public.soniq_dead_letter_reopens() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid = 'public.soniq_dead_letter_jobs'::regclass then
    update public.soniq_dead_letter_jobs d
    set closed = null
    where d.id = old.replay_of
      and d.replay_job_id = old.id
      and d.closed = 'superseded';
  end if;
  return null;
end
$$;
revoke all on function public.soniq_dead_letter_reopens() from public;

create or replace trigger soniq_dead_letter_reopens
  after delete on public.soniq_dead_letter_jobs
  for each row
  when (old.replay_of is not null)
  execute function public.soniq_dead_letter_reopens();

-- Follows a replay to its end, whoever ran or deleted the job. Success resolves the dead letter and
-- those that it is a replay of; anything else makes it dead again. The dead letter names the job that
-- replays it. A job's own replay_of is not enough: whoever may enqueue can write it. In the same way, a
-- dead letter counts as a replay of another one only if that one's last replay is the job that died.
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
    set state = 'resolved', closed = 'resolved'
    from chain
    where d.id = chain.id;
  else
    update public.soniq_dead_letter_jobs d
    set
      state = 'dead',
      closed = case
        when (select s.replay_of from public.soniq_dead_letter_jobs s where s.id = old.id) = d.id then 'superseded'
      end
    where d.id = old.replay_of
      and d.state = 'replaying'
      and d.replay_job_id = old.id;
  end if;
  return null;
end
$$;
revoke all on function public.soniq_replay_ended() from public;
