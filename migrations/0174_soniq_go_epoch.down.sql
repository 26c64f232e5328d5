-- Loses: which run of which server wrote a dead letter, and with it the place of readers that use moved_epoch.
drop view if exists public.soniq_dead_letter_feed;
drop trigger if exists soniq_dead_letter_epoch on public.soniq_dead_letter_jobs;
drop function if exists public.soniq_dead_letter_epoch();

-- 'set local soniq.silent = on' turns the announcement off, for dead letters that an import restores.
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

-- A dead letter whose job dies again keeps its row, and is announced again.
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

-- Writes the outbox, in the transaction of the death. If it fails, the move goes on, and the server's log
-- has a warning.
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

drop function if exists public.soniq_begin_epoch();
create index if not exists idx_soniq_dead_letter_jobs_cursor
  on public.soniq_dead_letter_jobs (moved_xid, id);
alter table public.soniq_dead_letter_jobs drop column if exists moved_epoch;
drop sequence if exists public.soniq_epochs;
