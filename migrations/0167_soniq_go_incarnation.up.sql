-- What tenure is for workers of 0.1.0, each of which reads only its own row.
alter table public.soniq_workers add column if not exists incarnation bigint;
