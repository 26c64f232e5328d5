-- Loses: the error of each attempt but the last.
drop function if exists public.soniq_add_errors(jsonb, jsonb);
alter table public.soniq_dead_letter_jobs drop column if exists errors;
alter table public.soniq_jobs drop column if exists errors;
