-- How many deliveries were dropped because too many waited, and why deliveries wait: what the last
-- dispatcher that could not send them was lacking.
alter table public.soniq_hooks add column if not exists dropped bigint not null default 0;
alter table public.soniq_hooks add column if not exists lacks text;
alter table public.soniq_hooks add column if not exists lacks_at timestamptz;

-- The hooks that get events now. It runs in the transaction of each death, so its cost is bounded: at
-- most 1,000 hooks, the oldest, and none with a larger filter than 'hooks add' allows. A hook gets
-- nothing more if what it had due has waited for 30 days: no dispatcher runs. Dispatchers bound the
-- number of deliveries; counting them here would cost too much. It is plpgsql, which keeps the plan:
-- SQL would plan it again for each death.
create or replace function public.soniq_hook_listeners() returns setof public.soniq_hooks
language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select h.*
    from public.soniq_hooks h
    where h.enabled
      and coalesce(pg_column_size(h.jobs), 0) + coalesce(pg_column_size(h.queues), 0) + coalesce(pg_column_size(h.reasons), 0)
        + coalesce(pg_column_size(h.events), 0) + coalesce(pg_column_size(h.tags), 0) <= 1000000
      -- The first entry of the index, whatever the statistics say.
      and coalesce((
        select d.next_attempt_at
        from public.soniq_hook_deliveries d
        where d.hook_id = h.id
          and d.state = 'pending'
        order by d.next_attempt_at
        limit 1
      ) >= now() - interval '30 days', true)
    order by h.created_at, h.id
    limit 1000;
end
$$;
revoke all on function public.soniq_hook_listeners() from public;

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
  join public.soniq_hook_listeners() h on e.event = any (h.events)
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

-- What a viewer may know of the hooks: no secret, and only the host of an address. It needs no right to
-- the tables. A value of a wrong type is left out, so that no row makes the view fail.
-- Not replaced: a later migration adds columns.
drop view if exists public.soniq_hook_status;
create view public.soniq_hook_status with (security_barrier) as
select
  h.id,
  h.name,
  h.kind,
  case
    when h.kind = 'exec' or h.url is null then ''
    when h.url like 'env:sealed:%' then
      coalesce(substring(left(h.url, 100000) from '^env:sealed:v1:[0-9a-f]+:[A-Za-z0-9+/]+:(https?://[][A-Za-z0-9._~:-]+)$'), '(sealed)')
    when h.url ~ '^env:[A-Za-z_][A-Za-z0-9_]{0,199}$' then h.url
    else coalesce(substring(left(h.url, 1000) from '^(https?://[][A-Za-z0-9._~:-]+)(?:[/?#]|$)'), '(unreadable)')
  end as target,
  h.secrets is not null as signed,
  case
    when h.secrets is null then ''
    when h.secrets like 'env:sealed:%' then 'sealed'
    when h.secrets ~ '^env:[A-Za-z_][A-Za-z0-9_]{0,199}$' then h.secrets
    when h.secrets = '(configuration)' then 'configuration'
    else 'database'
  end as secret_from,
  case
    when h.secrets like 'env:sealed:%' then coalesce(substring(left(h.secrets, 100000) from ':([0-9]{1,4})$')::integer, 0)
    when h.secrets like 'env:%' or h.secrets = '(configuration)' then 0
    else coalesce(array_length(string_to_array(left(h.secrets, 100000), ' '), 1), 0)
  end as secrets,
  (
    select coalesce(jsonb_object_agg(
      left(e.key, 200),
      case
        when e.value like 'env:sealed:%' then '(sealed)'
        when e.value ~ '^env:[A-Za-z_][A-Za-z0-9_]{0,199}$' then e.value
        else '(hidden)'
      end
    ), '{}')
    from jsonb_each_text(case when jsonb_typeof(s.settings -> 'headers') = 'object' then s.settings -> 'headers' else '{}' end) e
  ) as headers,
  coalesce(s.settings -> 'args' = 'true', false) as include_args,
  array(
    select left(a.value, 100)
    from jsonb_array_elements_text(case when jsonb_typeof(s.settings -> 'allow') = 'array' then s.settings -> 'allow' else '[]' end) a
    limit 100
  ) as allow,
  coalesce(substring(left(s.settings ->> 'base_url', 4096) from '^https?://[^@[:space:]]+$'), '') as base_url,
  h.events,
  h.jobs,
  h.queues,
  h.reasons,
  h.tags,
  h.enabled,
  coalesce(h.disabled_reason, '') as disabled_reason,
  h.failures,
  h.failing_since,
  h.blocked_until,
  h.created_at,
  h.declared_at,
  coalesce(h.lacks, '') as lacks,
  h.lacks_at,
  h.dropped,
  (select count(*) from public.soniq_hook_deliveries d where d.hook_id = h.id and d.state = 'pending') as pending,
  (select count(*) from public.soniq_hook_deliveries d where d.hook_id = h.id and d.state = 'delivered') as delivered,
  (select count(*) from public.soniq_hook_deliveries d where d.hook_id = h.id and d.state = 'failed') as failed
from public.soniq_hooks h
cross join lateral (
  select case when jsonb_typeof(h.settings) = 'object' and pg_column_size(h.settings) <= 524288 then h.settings else '{}' end as settings
) s;
