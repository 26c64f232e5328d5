-- Loses: the incarnation of workers, which they write again when they start.
alter table public.soniq_workers drop column if exists incarnation;
