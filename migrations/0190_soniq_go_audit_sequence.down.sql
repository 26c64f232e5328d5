drop trigger if exists soniq_audit_written on public.soniq_dead_letter_audit;
drop function if exists public.soniq_audit_written();
