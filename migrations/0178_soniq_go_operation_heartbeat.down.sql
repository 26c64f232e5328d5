-- Loses: which of the running operations have a process.
alter table public.soniq_dead_letter_operations drop column if exists heartbeat_at;
