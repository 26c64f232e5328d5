-- When a dispatcher last said that its configuration has the hook; NULL where
-- none ever did: such a hook was made by the command line or by SQL.
alter table public.soniq_hooks add column if not exists declared_at timestamptz;

-- A hook that may go on, or has been mended, wakes the dispatchers: something
-- may wait for it. What they write themselves is not among the columns. A new
-- hook has nothing yet; the first death tells.
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
