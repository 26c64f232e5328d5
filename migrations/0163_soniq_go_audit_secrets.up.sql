-- Records of 0.1.0 that have the arguments of a replay with their secrets. Workers remove the secrets;
-- then the index is empty.
create index if not exists idx_soniq_dead_letter_audit_raw
  on public.soniq_dead_letter_audit (id) where detail ? 'args' and not detail ? 'changed';
