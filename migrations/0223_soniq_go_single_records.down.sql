-- Loses nothing.
drop index if exists public.idx_soniq_dead_letter_audit_single;
