-- When the process of a running operation last showed that it lives: one that was killed is not 'running'
-- for ever. NULL for the operations of 0.1.0.
alter table public.soniq_dead_letter_operations add column if not exists heartbeat_at timestamptz;
