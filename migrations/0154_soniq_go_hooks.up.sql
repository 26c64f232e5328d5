-- Where dead letters are sent, and how. url, secrets and the values of headers in settings may be
-- 'env:NAME', so that the table holds no secret.
create table if not exists public.soniq_hooks (
  id uuid primary key default gen_random_uuid(),
  name text not null unique,
  kind text not null,
  url text,
  secrets text,
  settings jsonb not null default '{}',
  events text[] not null default '{job.dead_lettered}',
  -- The filter: NULL matches all. jobs are names or globs with * and ?.
  jobs text[],
  queues text[],
  reasons text[],
  tags jsonb,
  enabled boolean not null default true,
  disabled_reason text,
  -- How many deliveries failed in a row, and since when. Nothing is sent until blocked_until: because
  -- of the breaker, the receiver's Retry-After, or the pace of digests.
  failures integer not null default 0,
  failing_since timestamptz,
  blocked_until timestamptz,
  -- The dispatcher that sends a digest, until blocked_until.
  sender uuid,
  -- Digests sent in the minute that began at burst_at.
  burst integer not null default 0,
  burst_at timestamptz,
  created_at timestamptz not null default now()
);

-- The outbox: a row for each event and hook. next_attempt_at is when it is due or, while a dispatcher
-- sends it, when the lease ends. facts is a part of the dead letter, so the row outlives it. It has no
-- foreign key: checking one could make the move of a job fail.
create table if not exists public.soniq_hook_deliveries (
  id uuid primary key default gen_random_uuid(),
  seq bigint generated always as identity,
  hook_id uuid not null,
  event text not null,
  dead_letter_id uuid not null,
  facts jsonb not null,
  group_key text not null,
  occurred_at timestamptz not null default now(),
  state text not null default 'pending' check (state in ('pending', 'delivered', 'failed')),
  attempts integer not null default 0,
  next_attempt_at timestamptz not null default now(),
  lease uuid,
  message_id uuid,
  last_status integer,
  last_answer text,
  last_error text,
  delivered_at timestamptz,
  created_at timestamptz not null default now()
);
create index if not exists idx_soniq_hook_deliveries_due
  on public.soniq_hook_deliveries (hook_id, next_attempt_at) where state = 'pending';
create index if not exists idx_soniq_hook_deliveries_made
  on public.soniq_hook_deliveries (created_at);

-- When a digest last had a group, and how long the next one waits.
create table if not exists public.soniq_hook_groups (
  hook_id uuid not null,
  group_key text not null,
  sent_at timestamptz not null,
  hold interval not null,
  primary key (hook_id, group_key)
);

-- Whether job_name as a whole matches a name, or a glob with * and ?. chr(92) is the backslash: as a
-- literal it would depend on standard_conforming_strings.
create or replace function public.soniq_hook_glob(glob text, job_name text) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp as $$
  select job_name like translate(
    replace(replace(replace(glob, chr(92), repeat(chr(92), 2)), '%', chr(92) || '%'), '_', chr(92) || '_'), '*?', '%_')
$$;
revoke all on function public.soniq_hook_glob(text, text) from public;

-- Whether a hook's filter matches a dead letter. Python stores tags as a JSON string that holds the
-- object. A filter that fails counts as a match: a message too many is better than one too few.
create or replace function public.soniq_hook_matches(
  jobs text[], queues text[], reasons text[], tags jsonb, job_name text, queue text, reason text, letter_tags jsonb
) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
begin
  if tags is not null and jsonb_typeof(letter_tags) = 'string' then
    letter_tags := (letter_tags #>> '{}')::jsonb;
  end if;
  return (jobs is null or exists (select from unnest(jobs) g where public.soniq_hook_glob(g, job_name)))
    and (queues is null or queue = any (queues))
    and (reasons is null or reason = any (reasons))
    and (tags is null or coalesce(letter_tags @> tags, false));
exception when others then
  return true;
end
$$;
revoke all on function public.soniq_hook_matches(text[], text[], text[], jsonb, text, text, text, jsonb) from public;

-- The group of a delivery in a digest: a line for each kind of death.
create or replace function public.soniq_hook_group(job_name text, reason text, fingerprint text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp as $$
  select md5(concat_ws('|', job_name, reason, fingerprint))
$$;
revoke all on function public.soniq_hook_group(text, text, text) from public;

-- Writes the outbox, in the transaction of the death. If it fails, the move goes on, and the server's log
-- has a warning.
create or replace function public.soniq_hook_deaths() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'public.soniq_dead_letter_jobs'::regclass
    or coalesce(current_setting('soniq.silent', true), '') = 'on'
    or not exists (select from public.soniq_hooks where enabled)
  then
    return null;
  end if;
  insert into public.soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key)
  select h.id, 'job.dead_lettered', n.id, public.soniq_dead_letter_payload(
      n.id, n.job_name, n.queue, n.dead_letter_reason, n.error_kind, n.fingerprint,
      n.attempts, n.moved_to_dead_letter_at, n.replay_of)::jsonb,
    public.soniq_hook_group(n.job_name, n.dead_letter_reason, n.fingerprint)
  from soniq_new_rows n
  join public.soniq_hooks h on h.enabled
    and 'job.dead_lettered' = any (h.events)
    and public.soniq_hook_matches(h.jobs, h.queues, h.reasons, h.tags, n.job_name, n.queue, n.dead_letter_reason, n.tags);
  if found and coalesce(current_setting('soniq.notify', true), '') <> 'off' then
    perform pg_notify('soniq_hook', '');
  end if;
  return null;
exception when others then
  raise warning 'soniq: dead letters were not handed to the hooks: %', sqlerrm;
  return null;
end
$$;
revoke all on function public.soniq_hook_deaths() from public;

create or replace trigger soniq_hook_deaths
  after insert on public.soniq_dead_letter_jobs
  referencing new table as soniq_new_rows
  for each statement execute function public.soniq_hook_deaths();

-- Another death of the same id, a replay, or a resolution.
create or replace function public.soniq_hook_changes() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'public.soniq_dead_letter_jobs'::regclass
    or coalesce(current_setting('soniq.silent', true), '') = 'on'
    or not exists (select from public.soniq_hooks where enabled)
  then
    return null;
  end if;
  insert into public.soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key)
  select h.id, e.event, n.id, public.soniq_dead_letter_payload(
      n.id, n.job_name, n.queue, n.dead_letter_reason, n.error_kind, n.fingerprint,
      n.attempts, n.moved_to_dead_letter_at, n.replay_of)::jsonb,
    public.soniq_hook_group(n.job_name, n.dead_letter_reason, n.fingerprint)
  from soniq_new_rows n
  join soniq_old_rows o on o.id = n.id
  cross join lateral (
    select 'job.dead_lettered' as event
    where n.moved_to_dead_letter_at is distinct from o.moved_to_dead_letter_at
    union all
    select 'job.resurrected'
    where coalesce(n.resurrection_count, 0) > coalesce(o.resurrection_count, 0)
    union all
    select 'job.resolved'
    where n.state = 'resolved' and o.state <> 'resolved'
  ) e
  join public.soniq_hooks h on h.enabled
    and e.event = any (h.events)
    and public.soniq_hook_matches(h.jobs, h.queues, h.reasons, h.tags, n.job_name, n.queue, n.dead_letter_reason, n.tags);
  if found and coalesce(current_setting('soniq.notify', true), '') <> 'off' then
    perform pg_notify('soniq_hook', '');
  end if;
  return null;
exception when others then
  raise warning 'soniq: dead letters were not handed to the hooks: %', sqlerrm;
  return null;
end
$$;
revoke all on function public.soniq_hook_changes() from public;

create or replace trigger soniq_hook_changes
  after update on public.soniq_dead_letter_jobs
  referencing old table as soniq_old_rows new table as soniq_new_rows
  for each statement execute function public.soniq_hook_changes();
