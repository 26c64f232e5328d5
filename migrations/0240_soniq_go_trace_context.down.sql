-- Loses: to which traces the jobs and dead letters belong.
alter table public.soniq_dead_letter_jobs drop column if exists trace_context;
alter table public.soniq_jobs drop column if exists trace_context;
