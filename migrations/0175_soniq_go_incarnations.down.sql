-- Loses: which server the database belongs on; hooks are sent from any copy of it.
drop table if exists public.soniq_incarnations;
