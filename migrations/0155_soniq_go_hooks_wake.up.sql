-- When a dispatcher last had the hook in its configuration. NULL for a hook of the command line or of
-- SQL.
alter table public.soniq_hooks add column if not exists declared_at timestamptz;

-- Wakes the dispatchers when a hook is enabled or its settings change: deliveries may wait for it. The
-- WHEN has none of the columns that dispatchers write themselves. A new hook has no deliveries yet.
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

create or replace trigger soniq_hook_changed
  after update on public.soniq_hooks
  for each row
  when (
    new.enabled and (
      not old.enabled
      or (new.kind, new.url, new.secrets, new.settings) is distinct from (old.kind, old.url, old.secrets, old.settings)
    )
  )
  execute function public.soniq_hook_changed();
