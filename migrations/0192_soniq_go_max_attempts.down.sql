-- Loses nothing. A job that plain SQL inserts without max_attempts has three attempts.
alter table public.soniq_jobs alter column max_attempts set default 3;
