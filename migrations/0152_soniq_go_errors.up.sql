-- An array of objects, one for each failed attempt; see docs/dead-letters.md.
-- NULL while none has failed.
alter table public.soniq_jobs
  add column if not exists errors jsonb;
alter table public.soniq_dead_letter_jobs
  add column if not exists errors jsonb;

-- Appends one error or an array of them to a history. It keeps the first, which shows how it began, and
-- the last nine. The result is an array, or NULL if there is no error.
--
-- For workers of 0.1.0, whose roles get EXECUTE by migration 0161. Later workers have the expression in
-- their statements (internal/history).
create or replace function public.soniq_add_errors(history jsonb, more jsonb) returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp as $$
  select case
    when jsonb_array_length(w.whole) = 0 then null
    when jsonb_array_length(w.whole) <= 10 then w.whole
    else jsonb_build_array(w.whole -> 0) || jsonb_path_query_array(w.whole, '$[last - 8 to last]')
  end
  from (
    select
      case jsonb_typeof(history) when 'array' then history else '[]' end
      || case jsonb_typeof(more) when 'array' then more when 'object' then jsonb_build_array(more) else '[]' end
      as whole
  ) w
$$;
revoke all on function public.soniq_add_errors(jsonb, jsonb) from public;
