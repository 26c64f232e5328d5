-- The records in which 0.1.0 left the arguments of a replay as
-- they are. Workers take the secrets out, and the index is empty from then on.
create index if not exists idx_soniq_dead_letter_audit_raw
  on public.soniq_dead_letter_audit (id) where detail ? 'args' and not detail ? 'changed';
