-- A job that plain SQL inserts without max_attempts has four attempts, as one of Soniq's programs has. It
-- had three. The lock that this takes is for the catalog alone: no row is read or written.
do $$
begin
  if coalesce((
    select pg_get_expr(d.adbin, d.adrelid)
    from pg_attrdef d
    join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
    where d.adrelid = 'public.soniq_jobs'::regclass and a.attname = 'max_attempts'), '') <> '4'
  then
    alter table public.soniq_jobs alter column max_attempts set default 4;
  end if;
end
$$;
