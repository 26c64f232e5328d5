-- Loses: the copies of the comments; the column "because" keeps the texts.
alter table public.soniq_dead_letter_audit drop column if exists comment;
alter table public.soniq_dead_letter_operations drop column if exists comment;
