-- Why somebody did something, which 0.1.0 writes to the column because. Programs write both, and read
-- because where comment is NULL, until no program of 0.1.0 is left.
alter table public.soniq_dead_letter_operations add column if not exists comment text;
alter table public.soniq_dead_letter_audit add column if not exists comment text;
