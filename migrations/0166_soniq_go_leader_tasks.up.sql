-- soniq_chores becomes soniq_leader_tasks. Programs of 0.1.0 go on with the old name, which is a view.
alter table public.soniq_chores rename to soniq_leader_tasks;
alter index public.soniq_chores_pkey rename to soniq_leader_tasks_pkey;

create or replace view public.soniq_chores with (security_barrier) as
select name, begun_at, raised_at
from public.soniq_leader_tasks;

-- 0.1.0 uses the old name as the roles that may use the table.
do $$
declare
  granted text;
begin
  for granted in
    select pg_catalog.format('grant %s on %s to %s', a.privilege_type, 'public.soniq_chores'::regclass,
      case a.grantee when 0 then 'PUBLIC' else a.grantee::regrole::text end)
    from pg_catalog.pg_class c
    cross join lateral pg_catalog.aclexplode(c.relacl) a
    where c.oid = 'public.soniq_leader_tasks'::regclass::oid
      and a.grantee <> c.relowner
    union all
    select pg_catalog.format('grant %s (%I) on %s to %s', a.privilege_type, t.attname, 'public.soniq_chores'::regclass,
      case a.grantee when 0 then 'PUBLIC' else a.grantee::regrole::text end)
    from pg_catalog.pg_attribute t
    cross join lateral pg_catalog.aclexplode(t.attacl) a
    where t.attrelid = 'public.soniq_leader_tasks'::regclass::oid
  loop
    execute granted;
  end loop;
end
$$;
