-- Loses: outcomes that were refused and not written yet; their jobs run again.
drop table if exists public.soniq_kept_outcomes;
