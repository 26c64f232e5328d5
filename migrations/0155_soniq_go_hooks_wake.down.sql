-- Loses: which hooks a configuration declares.
drop trigger if exists soniq_hook_changed on public.soniq_hooks;
drop function if exists public.soniq_hook_changed();
alter table public.soniq_hooks drop column if exists declared_at;
