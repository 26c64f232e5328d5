-- Records of single dead letters, which 'dead-letter history' lists. A bulk replay writes one for each of its own, and
-- all of them were read.
create index if not exists idx_soniq_dead_letter_audit_single
  on public.soniq_dead_letter_audit (id) where operation_id is null;
