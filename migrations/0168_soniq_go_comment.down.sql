-- Loses: nothing, since the column because has the same text.
alter table public.soniq_dead_letter_audit drop column if exists comment;
alter table public.soniq_dead_letter_operations drop column if exists comment;
