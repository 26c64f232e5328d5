-- Loses: all hooks, their secrets, and their deliveries, those that wait too.
drop trigger if exists soniq_hook_changes on public.soniq_dead_letter_jobs;
drop trigger if exists soniq_hook_deaths on public.soniq_dead_letter_jobs;
drop function if exists public.soniq_hook_changes();
drop function if exists public.soniq_hook_deaths();
drop function if exists public.soniq_hook_group(text, text, text);
drop function if exists public.soniq_hook_matches(text[], text[], text[], jsonb, text, text, text, jsonb);
drop function if exists public.soniq_hook_glob(text, text);
drop table if exists public.soniq_hook_groups;
drop table if exists public.soniq_hook_deliveries;
drop table if exists public.soniq_hooks;
