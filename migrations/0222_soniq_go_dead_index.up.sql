-- Programs of 0.1.0 read the index of the dead, and a replay changes it. 'soniq setup --optimize' drops it where
-- there are dead letters.
do $$
begin
  if not exists (select from public.soniq_dead_letter_jobs) then
    drop index if exists public.idx_soniq_dead_letter_jobs_dead;
  end if;
end
$$;
