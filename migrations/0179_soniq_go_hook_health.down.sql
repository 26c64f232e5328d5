-- Loses: the rights that were granted on the view, since when a hook fails, and which configurations have it.
drop view if exists public.soniq_hook_status;

create or replace view public.soniq_hook_status with (security_barrier) as
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

alter table public.soniq_hooks drop column if exists declarations;
alter table public.soniq_hooks drop column if exists last_failed_at;
