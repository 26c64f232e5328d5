-- Rows of the history came from elsewhere and its sequence did not, by logical replication or by a restore of
-- the data alone: each record would be refused until the sequence had passed those rows. So whoever writes
-- records sets it right first. It only goes forward, and under a lock: whoever waits for that looks again.
create or replace function public.soniq_audit_written() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
declare
  counter regclass;
begin
  if tg_relid <> 'public.soniq_dead_letter_audit'::regclass then
    return null;
  end if;
  -- At serializable the look would be a conflict with all who write records.
  if current_setting('transaction_isolation') = 'serializable' then
    return null;
  end if;
  counter := pg_get_serial_sequence('public.soniq_dead_letter_audit', 'id');
  if coalesce(pg_sequence_last_value(counter), 0) < (select max(a.id) from public.soniq_dead_letter_audit a) then
    perform pg_advisory_xact_lock(hashtextextended('public.soniq_dead_letter_audit', 0));
    perform setval(counter, a.greatest)
    from (select max(id) as greatest from public.soniq_dead_letter_audit) a
    where a.greatest > coalesce(pg_sequence_last_value(counter), 0);
  end if;
  return null;
end
$$;
revoke all on function public.soniq_audit_written() from public;

create or replace trigger soniq_audit_written
  before insert on public.soniq_dead_letter_audit
  for each statement execute function public.soniq_audit_written();
