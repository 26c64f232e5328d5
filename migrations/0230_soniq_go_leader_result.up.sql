-- What the last turn of a periodic task has found out for all: the reading of the gauges of metrics. The
-- releases before don't name the column.
alter table public.soniq_leader_tasks add column if not exists result jsonb;
