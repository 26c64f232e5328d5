-- The servers that this database has been on: the one that it belongs on has replaced_at NULL, and no other.
-- Where another one is marked so, the database was copied, restored or moved, and hooks wait until somebody
-- says that it is the one: 'soniq adopt'. Programs write it; system_identifier is '' where the server doesn't
-- tell, and timeline 0.
create table if not exists public.soniq_incarnations (
  system_identifier text not null,
  database_oid bigint not null,
  timeline bigint not null,
  -- first, promotion or adopt.
  how text not null,
  adopted_at timestamptz not null default now(),
  adopted_by text,
  replaced_at timestamptz,
  primary key (system_identifier, database_oid, timeline)
);
