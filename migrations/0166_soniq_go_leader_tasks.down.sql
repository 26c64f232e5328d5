drop view if exists public.soniq_chores;
alter table public.soniq_leader_tasks rename to soniq_chores;
alter index public.soniq_leader_tasks_pkey rename to soniq_chores_pkey;
