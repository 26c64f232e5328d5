-- Loses: the latest reading of the gauges. The next one comes within seconds.
alter table public.soniq_leader_tasks drop column if exists result;
