-- The views that older releases and readers use got the rights on their tables, and not the right to give them on.
do $$
declare
  granted text;
begin
  for granted in
    select format('grant %s on %s to %s with grant option', a.privilege_type, c.view::regclass, a.grantee::regrole)
    from (
      values
        (to_regclass('public.soniq_hunger')::oid, to_regclass('public.soniq_waiters')::oid),
        (to_regclass('public.soniq_chores')::oid, to_regclass('public.soniq_leader_tasks')::oid),
        (to_regclass('public.soniq_dead_letter_feed')::oid, to_regclass('public.soniq_dead_letter_jobs')::oid)
    ) c (view, source)
    join pg_class t on t.oid = c.source
    join pg_class v on v.oid = c.view
    cross join lateral aclexplode(t.relacl) a
    join lateral aclexplode(v.relacl) g on g.grantee = a.grantee and g.privilege_type = a.privilege_type
    where a.is_grantable
      and a.grantee <> 0
      and a.grantee <> t.relowner
    union all
    select format('grant %s (%I) on %s to %s with grant option', a.privilege_type, s.attname, c.view::regclass, a.grantee::regrole)
    from (
      values
        (to_regclass('public.soniq_hunger')::oid, to_regclass('public.soniq_waiters')::oid),
        (to_regclass('public.soniq_chores')::oid, to_regclass('public.soniq_leader_tasks')::oid)
    ) c (view, source)
    join pg_attribute s on s.attrelid = c.source
    join pg_attribute w on w.attrelid = c.view and w.attname = s.attname
    cross join lateral aclexplode(s.attacl) a
    join lateral aclexplode(w.attacl) g on g.grantee = a.grantee and g.privilege_type = a.privilege_type
    where a.is_grantable
      and a.grantee <> 0
  loop
    execute granted;
  end loop;
end
$$;
