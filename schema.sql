-- The whole schema of Soniq in one file: what the files in migrations/ add up to, which a
-- test proves. Run it on a database without Soniq's tables: 'psql -f schema.sql'. It makes
-- everything in one transaction, or nothing, and records the migrations, so that a worker
-- starts. 'soniq setup' needs this file for nothing; it also upgrades a database that an older
-- release or Python Soniq made, and checks who owns what is there already.
--
-- The tables are in the schema 'public'. 'soniq migrate sql --schema NAME' prints the migrations
-- for another schema.
--
-- Rules of this file and of migrations/:
--
-- Whoever may create objects in a schema of the caller's search_path must not have them used
-- here. So everything of ours is written with its schema. Outside of function bodies, a built-in
-- function with arguments, of which there may be a better match elsewhere, is written with
-- pg_catalog. A body runs under the search_path that its function sets: there a built-in needs no
-- schema, since functions and operators are never looked up in pg_temp.
--
-- Each function is followed by a REVOKE: none of them is for PUBLIC. Triggers need no EXECUTE
-- to fire.
--
-- Tables that Python Soniq has too have the names, types and defaults of its migrations 0001 and
-- 0002: both programs serve one database. What Soniq for Go adds to them is nullable or has a
-- default, so that Python's INSERTs, which know nothing of it, go on working.

begin;

-- Nothing is picked up that somebody made in a schema of the session's path.
select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

---------------------------------------------------------------------------
-- Migrations
---------------------------------------------------------------------------

-- The migrations that the database has. Python Soniq has the same table and records its own,
-- 0001 to 0005. checksum is of the text that was applied; Python writes none.
create table public.soniq_migrations (
  id serial primary key,
  version varchar(255) not null unique,
  name text not null,
  applied_at timestamp default now(),
  checksum text
);
create index idx_soniq_migrations_version on public.soniq_migrations (version);

---------------------------------------------------------------------------
-- Jobs and workers
---------------------------------------------------------------------------

create table public.soniq_workers (
  id uuid primary key,
  hostname text not null,
  pid integer not null,
  queues text[] default '{}',
  concurrency integer not null default 1,
  status text not null default 'active'
    check (status in ('active', 'stopping', 'stopped')),
  last_heartbeat timestamptz not null default now(),
  started_at timestamptz not null default now(),
  version text,
  metadata jsonb default '{}',
  -- The session advisory lock that a worker holds on its listener connection, and the server
  -- process that holds it. NULL where a worker has none: Python's, and ours behind a pooler.
  lock_key bigint,
  backend_pid integer,
  -- What 0.1.0 has instead of incarnation.
  tenure bigint,
  -- Changes when the worker was stopped, forgotten or silent before it beat again: its rows in
  -- soniq_waiters did not count then. NULL where a worker writes no such rows.
  incarnation bigint
);

create unique index idx_soniq_workers_host_pid
  on public.soniq_workers (hostname, pid);

create table public.soniq_jobs (
  id uuid primary key,
  job_name text not null,
  args jsonb not null,
  args_hash text,
  status text not null default 'queued'
    check (status in ('queued', 'processing', 'done', 'cancelled')),
  attempts integer default 0,
  max_attempts integer default 3,
  queue text default 'default',
  priority integer default 100,
  unique_job boolean default false,
  dedup_key text,
  scheduled_at timestamptz,
  expires_at timestamptz,
  last_error text,
  result jsonb,
  producer_id text,
  created_at timestamptz default now(),
  updated_at timestamptz default now(),
  worker_id uuid,
  -- Fresh for each claim; every outcome is written under it.
  claim_token bigint,
  -- The dead letter that this job replays.
  replay_of uuid,
  -- A request to cancel a running job. Its worker is told, and finds it here if that is lost.
  -- Whatever ends the attempt but for success, the job does not go back to its queue.
  cancel_requested_at timestamptz,
  -- An array of objects, one for each failed attempt; see docs/dead-letters.md. NULL while none
  -- has failed.
  errors jsonb
);

-- worker_id has no foreign key to soniq_workers, and no index for one: each claim would lock its
-- worker's row once more for each job, a fifth of the server's time for a job, and a worker whose
-- row was replaced could claim no more. A job whose worker is in no row is taken for one without a
-- worker. Python Soniq makes both, and five more indexes with which a claim costs four times as
-- much; 'soniq setup --optimize' drops them.

-- The two arbiters of ON CONFLICT, here and in Python Soniq: a job is unique only while it is
-- queued.
create unique index idx_soniq_jobs_unique_queued
  on public.soniq_jobs (job_name, args_hash)
  where status = 'queued' and unique_job = true;
create unique index idx_soniq_jobs_dedup_key
  on public.soniq_jobs (dedup_key)
  where status = 'queued' and dedup_key is not null;

-- Expiry of results.
create index idx_soniq_jobs_expires_at
  on public.soniq_jobs (expires_at) where expires_at is not null;

-- The claim's order: queue, priority, due time. NULLs, which Python's schema allows, are read as
-- the defaults. A row without any time is due at once.
create index idx_soniq_jobs_claim
  on public.soniq_jobs (
    coalesce(queue, 'default'),
    coalesce(priority, 100),
    coalesce(scheduled_at, created_at, timestamptz '-infinity')
  )
  where status = 'queued';

-- Who holds processing jobs, asked twice a second, and the jobs that have no worker. A claim takes
-- as long with it as without, and a job's WAL is 7 % more.
create index idx_soniq_jobs_processing
  on public.soniq_jobs (worker_id) where status = 'processing';

create table public.soniq_task_registry (
  task_name text not null,
  worker_id text not null,
  last_seen_at timestamptz not null,
  args_model_repr text,
  primary key (task_name, worker_id)
);

-- What is known of a queue beside its jobs. A queue without a row is not paused.
create table public.soniq_queues (
  name text primary key,
  paused_at timestamptz,
  paused_by text
);

-- The workers that wait for jobs of a queue and must be notified of them; '' is any queue. A commit
-- that notifies takes a lock of the whole server, so the triggers on soniq_jobs notify only where
-- somebody has a row here. The table is apart from the heartbeat, and written only when a worker
-- begins or ends to wait: each INSERT of a job reads it, and an old snapshot makes that slower for
-- each row that ever was here. Whoever deletes rows says up to which epoch: a late DELETE spares
-- what was declared since. engine/ tells why nobody sleeps through a job.
create table public.soniq_waiters (
  queue text not null,
  worker_id uuid not null,
  epoch bigint not null default 0,
  primary key (queue, worker_id)
);

-- The periodic tasks that one worker does for all: when the last turn began and, of an alarm, since
-- when it is raised.
create table public.soniq_leader_tasks (
  name text primary key,
  begun_at timestamptz not null,
  raised_at timestamptz
);

---------------------------------------------------------------------------
-- Dead letters
---------------------------------------------------------------------------

create table public.soniq_dead_letter_jobs (
  id uuid primary key,
  job_name text not null,
  args jsonb not null,
  queue text not null,
  priority integer not null,
  max_attempts integer not null,
  attempts integer not null,
  last_error text,
  dead_letter_reason text not null,
  original_created_at timestamptz not null,
  moved_to_dead_letter_at timestamptz not null,
  resurrection_count integer default 0,
  last_resurrection_at timestamptz,
  tags jsonb,
  created_at timestamptz default now(),
  -- dead, replaying (replay_job_id is the latest try) or resolved (a replay succeeded).
  state text not null default 'dead'
    check (state in ('dead', 'replaying', 'resolved')),
  replay_job_id uuid,
  replay_of uuid,
  -- The cursor of those who read after a disconnect; see docs/channel.md.
  moved_xid xid8 default pg_current_xact_id(),
  -- What happened last, and who called it final.
  error_kind text,
  error_type text,
  error_code text,
  decided_by text,
  fingerprint text,
  -- What Python's move loses of the job.
  args_hash text,
  unique_job boolean,
  dedup_key text,
  producer_id text,
  worker_id uuid,
  scheduled_at timestamptz,
  -- The error of each attempt, as in soniq_jobs.
  errors jsonb,
  -- The name and the queue where they are over 2,000 bytes, which the indexes may not hold: job_name
  -- and queue then have their beginning and a digest. No index is on these.
  whole_job_name text,
  whole_queue text
);

create index idx_soniq_dead_letter_jobs_moved_at
  on public.soniq_dead_letter_jobs (moved_to_dead_letter_at);

create index idx_soniq_dead_letter_jobs_cursor
  on public.soniq_dead_letter_jobs (moved_xid, id);

-- A page of one job, queue, reason or group, the newest or the oldest first. One on the first
-- column alone, such as Python Soniq's, would have all of it read and sorted.
create index idx_soniq_dead_letter_jobs_job_name_moved
  on public.soniq_dead_letter_jobs (job_name, moved_to_dead_letter_at, id);
create index idx_soniq_dead_letter_jobs_queue_moved
  on public.soniq_dead_letter_jobs (queue, moved_to_dead_letter_at, id);
create index idx_soniq_dead_letter_jobs_reason_moved
  on public.soniq_dead_letter_jobs (dead_letter_reason, moved_to_dead_letter_at, id);

-- The group of a dead letter: its fingerprint or, where another program has
-- written none, a digest of the job, the reason and the error's first line
-- without its numbers and ids. The expression is groupKey in the package
-- deadletter, to the letter.
create index idx_soniq_dead_letter_jobs_group_moved
  on public.soniq_dead_letter_jobs (
    coalesce(fingerprint, pg_catalog.lpad(pg_catalog.to_hex(pg_catalog.hashtextextended(job_name || '|' || dead_letter_reason || '|' || pg_catalog.regexp_replace(pg_catalog.left(pg_catalog.split_part(coalesce(last_error, ''), pg_catalog.chr(10), 1), 200), '[0-9a-f]*[0-9][0-9a-f-]*', '#', 'gi'), 0)), 16, '0')),
    moved_to_dead_letter_at, id
  );

-- How many wait, and since when: asked each minute by workers and monitors. The resolved ones, which
-- are kept as a record, are in the way of the other indexes.
create index idx_soniq_dead_letter_jobs_dead
  on public.soniq_dead_letter_jobs (moved_to_dead_letter_at, id) where state = 'dead';

-- Hardly any row is one: the others pay nothing.
create index idx_soniq_dead_letter_jobs_replay_of
  on public.soniq_dead_letter_jobs (replay_of) where replay_of is not null;

-- How many days there are. Without it the server takes each time of death for a
-- day of its own, and would not count them by several processes at once.
create statistics public.soniq_dead_letter_days
  on ((moved_to_dead_letter_at at time zone 'utc')::date) from public.soniq_dead_letter_jobs;

-- What somebody did to many dead letters at once. 'options' is what a replay
-- needs to be resumed; 'stopped_by' tells why one is not done.
create table public.soniq_dead_letter_operations (
  id uuid primary key,
  action text not null,
  state text not null default 'running'
    check (state in ('running', 'done', 'stopped')),
  stopped_by text,
  actor text,
  because text,
  filter jsonb,
  options jsonb,
  total bigint not null default 0,
  done bigint not null default 0,
  skipped bigint not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  -- Why; 0.1.0 has the column because instead, so both are written.
  comment text
);

create index idx_soniq_dead_letter_operations_created_at
  on public.soniq_dead_letter_operations (created_at);

-- What an operation has still to do, in its order: picked at its start, and
-- taken away with each batch that is done.
create table public.soniq_dead_letter_selections (
  operation_id uuid not null
    references public.soniq_dead_letter_operations (id) on delete cascade,
  place bigint not null,
  dead_letter_id uuid not null,
  primary key (operation_id, place)
);

-- Who did what to one dead letter, and why. It outlives the dead letter.
create table public.soniq_dead_letter_audit (
  id bigint generated always as identity primary key,
  dead_letter_id uuid not null,
  operation_id uuid,
  action text not null,
  actor text,
  because text,
  job_id uuid,
  detail jsonb,
  at timestamptz not null default clock_timestamp(),
  -- Why; 0.1.0 has the column because instead, so both are written.
  comment text
);

create index idx_soniq_dead_letter_audit_dead_letter
  on public.soniq_dead_letter_audit (dead_letter_id, id);
create index idx_soniq_dead_letter_audit_operation
  on public.soniq_dead_letter_audit (operation_id, id) where operation_id is not null;

-- The records in which 0.1.0 left the arguments of a replay as they are. Workers take the secrets out,
-- and the index is empty from then on.
create index idx_soniq_dead_letter_audit_raw
  on public.soniq_dead_letter_audit (id) where detail ? 'args' and not detail ? 'changed';

---------------------------------------------------------------------------
-- Hooks
---------------------------------------------------------------------------

-- Who is told of dead letters, and how. url, secrets and the values of
-- settings' headers may be 'env:NAME', so that the table holds no secret.
create table public.soniq_hooks (
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
  -- failures in a row, since when, and until when nothing is sent: the
  -- breaker's pause, the other side's Retry-After, or the pace of digests.
  failures integer not null default 0,
  failing_since timestamptz,
  blocked_until timestamptz,
  -- Who is sending a digest, until blocked_until.
  sender uuid,
  -- Digests sent in the minute that began at burst_at.
  burst integer not null default 0,
  burst_at timestamptz,
  created_at timestamptz not null default now(),
  -- When a dispatcher last said that its configuration has the hook; NULL where none ever did: such
  -- a hook was made by the command line or by SQL.
  declared_at timestamptz,
  -- How many deliveries were dropped because too many waited.
  dropped bigint not null default 0,
  -- Why the hook's deliveries wait, as a dispatcher that may not send them has noted.
  lacks text,
  lacks_at timestamptz
);

-- The outbox: one row an event a hook, for the whole fleet. next_attempt_at is
-- when it is due or, while one sends it, when its lease ends. A row outlives
-- its dead letter, which facts is the beginning of; it has no foreign key, as
-- checking one could fail the move.
create table public.soniq_hook_deliveries (
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
create index idx_soniq_hook_deliveries_due
  on public.soniq_hook_deliveries (hook_id, next_attempt_at) where state = 'pending';
create index idx_soniq_hook_deliveries_made
  on public.soniq_hook_deliveries (created_at);

-- When a digest last told of a group, and how long the next one waits.
create table public.soniq_hook_groups (
  hook_id uuid not null,
  group_key text not null,
  sent_at timestamptz not null,
  hold interval not null,
  primary key (hook_id, group_key)
);

-- What a viewer may know of the hooks: no secret, and of an address its host alone. Who may read it
-- needs no right to the tables. Whatever a row holds, it costs the others nothing: what has the wrong
-- type is left out.
create view public.soniq_hook_status with (security_barrier) as
select
  h.id,
  h.name,
  h.kind,
  case
    when h.kind = 'exec' or h.url is null then ''
    when h.url like 'env:sealed:%' then
      coalesce(substring(left(h.url, 100000) from '^env:sealed:v1:[0-9a-f]+:[A-Za-z0-9+/]+:(https?://[][A-Za-z0-9._~:-]+)$'), '(sealed)')
    when h.url ~ '^env:[A-Za-z_][A-Za-z0-9_]{0,199}$' then h.url
    else coalesce(substring(left(h.url, 1000) from '^(https?://[][A-Za-z0-9._~:-]+)(?:[/?#]|$)'), '(unreadable)')
  end as target,
  h.secrets is not null as signed,
  case
    when h.secrets is null then ''
    when h.secrets like 'env:sealed:%' then 'sealed'
    when h.secrets ~ '^env:[A-Za-z_][A-Za-z0-9_]{0,199}$' then h.secrets
    when h.secrets = '(configuration)' then 'configuration'
    else 'database'
  end as secret_from,
  case
    when h.secrets like 'env:sealed:%' then coalesce(substring(left(h.secrets, 100000) from ':([0-9]{1,4})$')::integer, 0)
    when h.secrets like 'env:%' or h.secrets = '(configuration)' then 0
    else coalesce(array_length(string_to_array(left(h.secrets, 100000), ' '), 1), 0)
  end as secrets,
  (
    select coalesce(jsonb_object_agg(
      left(e.key, 200),
      case
        when e.value like 'env:sealed:%' then '(sealed)'
        when e.value ~ '^env:[A-Za-z_][A-Za-z0-9_]{0,199}$' then e.value
        else '(hidden)'
      end
    ), '{}')
    from jsonb_each_text(case when jsonb_typeof(s.settings -> 'headers') = 'object' then s.settings -> 'headers' else '{}' end) e
  ) as headers,
  coalesce(s.settings -> 'args' = 'true', false) as include_args,
  array(
    select left(a.value, 100)
    from jsonb_array_elements_text(case when jsonb_typeof(s.settings -> 'allow') = 'array' then s.settings -> 'allow' else '[]' end) a
    limit 100
  ) as allow,
  coalesce(substring(left(s.settings ->> 'base_url', 4096) from '^https?://[^@[:space:]]+$'), '') as base_url,
  h.events,
  h.jobs,
  h.queues,
  h.reasons,
  h.tags,
  h.enabled,
  coalesce(h.disabled_reason, '') as disabled_reason,
  h.failures,
  h.failing_since,
  h.blocked_until,
  h.created_at,
  h.declared_at,
  coalesce(h.lacks, '') as lacks,
  h.lacks_at,
  h.dropped,
  (select count(*) from public.soniq_hook_deliveries d where d.hook_id = h.id and d.state = 'pending') as pending,
  (select count(*) from public.soniq_hook_deliveries d where d.hook_id = h.id and d.state = 'delivered') as delivered,
  (select count(*) from public.soniq_hook_deliveries d where d.hook_id = h.id and d.state = 'failed') as failed
from public.soniq_hooks h
cross join lateral (
  select case when jsonb_typeof(h.settings) = 'object' and pg_column_size(h.settings) <= 524288 then h.settings else '{}' end as settings
) s;

---------------------------------------------------------------------------
-- Old names, for programs of 0.1.0
---------------------------------------------------------------------------

create view public.soniq_hunger with (security_barrier) as
select queue, worker_id, epoch
from public.soniq_waiters;

create view public.soniq_chores with (security_barrier) as
select name, begun_at, raised_at
from public.soniq_leader_tasks;

---------------------------------------------------------------------------
-- Who waits for jobs
---------------------------------------------------------------------------

-- Whether anybody waits for a queue. The row of a worker that has been silent for five minutes, as
-- long as Python's may be, no longer counts: where no worker is left to remove it, producers would
-- notify for ever.
create or replace function public.soniq_waiting(queue text) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp as $$
begin
  return exists (
    select from public.soniq_waiters h
    where h.queue in (soniq_waiting.queue, '')
      and exists (
        select from public.soniq_workers w
        where w.id = h.worker_id
          and w.last_heartbeat > now() - interval '5 minutes'
      )
  );
end
$$;
revoke all on function public.soniq_waiting(text) from public;

-- Each worker that begins waits: Python's as long as they live, ours until they say otherwise. A
-- queue whose name is too long for the index counts as any.
create or replace function public.soniq_begin_waiting(worker uuid, queues text[]) returns void
language sql volatile
set search_path = pg_catalog, pg_temp as $$
  insert into public.soniq_waiters (queue, worker_id)
  select distinct case when octet_length(q) <= 1000 then q else '' end, worker
  from unnest(case when cardinality(queues) > 0 then queues else array[''] end) q
  where q is not null
  on conflict do nothing
$$;
revoke all on function public.soniq_begin_waiting(uuid, text[]) from public;

-- A worker that is gone, by its own word or another's, waits no more. One of Python's that was taken
-- for dead goes on beating as 'stopped', and works.
create or replace function public.soniq_worker_changed() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
declare
  works boolean;
begin
  if tg_relid <> 'public.soniq_workers'::regclass then
    return null;
  end if;
  works := tg_op <> 'DELETE' and (
    new.status <> 'stopped'
    or tg_op = 'UPDATE' and old.status = 'stopped' and new.version is null
  );
  if not works or tg_op = 'UPDATE' and old.queues is distinct from new.queues then
    delete from public.soniq_waiters h where h.worker_id = old.id;
  end if;
  if works then
    perform public.soniq_begin_waiting(new.id, new.queues);
  end if;
  return null;
exception when others then
  raise warning 'soniq: that a worker waits was not noted: %', sqlerrm;
  return null;
end
$$;
revoke all on function public.soniq_worker_changed() from public;

create or replace trigger soniq_worker_came_or_went
  after insert or delete on public.soniq_workers
  for each row execute function public.soniq_worker_changed();

create or replace trigger soniq_worker_changed
  after update on public.soniq_workers
  for each row
  when (
    old.status is distinct from new.status
    or old.queues is distinct from new.queues
    or (new.version is null and new.status = 'stopped' and old.last_heartbeat < new.last_heartbeat)
  )
  execute function public.soniq_worker_changed();

---------------------------------------------------------------------------
-- New jobs
---------------------------------------------------------------------------

-- Trigger functions never hurt the application: they are total, nothing that a
-- row can hold makes them fail. 'set local soniq.notify = off' silences them,
-- for two-phase commit, which refuses NOTIFY.
--
-- Those run as their owner (SECURITY DEFINER) that use a table or a function
-- which the writer of the row may have no right to: a role with rights on
-- soniq_jobs alone can enqueue. They do nothing for any table but their own,
-- whose columns have the built-in types: a trigger that somebody made for a
-- table of his, with types and casts of his, would run his code as the owner.

-- A payload is under 8,000 bytes; a queue with a longer name sends the empty
-- one, which means 'all'.
create or replace function public.soniq_notify_queue(queue text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_notify('soniq_new_job', case when octet_length(queue) < 8000 then queue else '' end);
end
$$;
revoke all on function public.soniq_notify_queue(text) from public;

-- Workers look at least every 30 s, so a job that is due in over ten minutes wakes nobody now. Nor
-- does one whose queue no worker waits for: who works finds it without being notified. VOLATILE, so
-- that soniq_waiters is read as it is now and not as it was when the INSERT began. A transaction that
-- is stricter than read committed can't do that and always notifies; so does one that can't read the
-- table. The first question is cheap where everybody is busy.
create or replace function public.soniq_jobs_inserted() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'public.soniq_jobs'::regclass
    or coalesce(current_setting('soniq.notify', true), '') = 'off'
  then
    return null;
  end if;
  if current_setting('transaction_isolation') = 'read committed' then
    begin
      perform from public.soniq_waiters limit 1;
      if not found then
        return null;
      end if;
      perform public.soniq_notify_queue(q.queue)
      from (
        select distinct coalesce(n.queue, 'default') as queue
        from soniq_new_rows n
        where n.status = 'queued'
          and (n.scheduled_at is null or n.scheduled_at <= now() + interval '10 minutes')
      ) q
      where public.soniq_waiting(q.queue);
      return null;
    exception when others then
      null;
    end;
  end if;
  perform public.soniq_notify_queue(q.queue)
  from (
    select distinct coalesce(n.queue, 'default') as queue
    from soniq_new_rows n
    where n.status = 'queued'
      and (n.scheduled_at is null or n.scheduled_at <= now() + interval '10 minutes')
  ) q;
  return null;
end
$$;
revoke all on function public.soniq_jobs_inserted() from public;

create or replace trigger soniq_jobs_inserted
  after insert on public.soniq_jobs
  referencing new table as soniq_new_rows
  for each statement execute function public.soniq_jobs_inserted();

-- Rows that become runnable without an INSERT: a retry, a snooze, Python's
-- sweep, an UPDATE in psql. For each row, under a WHEN: a statement trigger
-- would copy every claimed and finished row into its transition tables. The
-- server merges equal payloads of one transaction.
create or replace function public.soniq_jobs_requeued() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'public.soniq_jobs'::regclass
    or coalesce(current_setting('soniq.notify', true), '') = 'off'
  then
    return null;
  end if;
  if current_setting('transaction_isolation') = 'read committed' then
    begin
      if not public.soniq_waiting(coalesce(new.queue, 'default')) then
        return null;
      end if;
    exception when others then
      null;
    end;
  end if;
  perform public.soniq_notify_queue(coalesce(new.queue, 'default'));
  return null;
end
$$;
revoke all on function public.soniq_jobs_requeued() from public;

create or replace trigger soniq_jobs_requeued
  after update on public.soniq_jobs
  for each row
  when (
    new.status = 'queued'
    and (
      old.status is distinct from new.status
      or old.scheduled_at is distinct from new.scheduled_at
      or old.queue is distinct from new.queue
      or old.job_name is distinct from new.job_name
    )
    and (new.scheduled_at is null or new.scheduled_at <= now() + interval '10 minutes')
  )
  execute function public.soniq_jobs_requeued();

-- The workers of a queue that goes on are woken: they don't poll.
create or replace function public.soniq_queue_resumed() returns trigger
language plpgsql volatile
set search_path = pg_catalog, pg_temp as $$
begin
  if coalesce(current_setting('soniq.notify', true), '') <> 'off' then
    perform pg_notify('soniq_new_job', case when octet_length(old.name) < 8000 then old.name else '' end);
  end if;
  return null;
end
$$;
revoke all on function public.soniq_queue_resumed() from public;

create or replace trigger soniq_queue_resumed
  after update on public.soniq_queues
  for each row
  when (old.paused_at is not null and (new.paused_at is null or old.name <> new.name))
  execute function public.soniq_queue_resumed();

create or replace trigger soniq_queue_deleted
  after delete on public.soniq_queues
  for each row
  when (old.paused_at is not null)
  execute function public.soniq_queue_resumed();

---------------------------------------------------------------------------
-- Cancellation
---------------------------------------------------------------------------

-- AFTER, and again an UPDATE of the one row: a BEFORE trigger would lock each
-- row of every claim and outcome once more. As its owner: who may requeue may
-- have no right to the other columns. The day is cancelledTTL in the
-- engine. Of the last error it takes what an error of ours has at the most: a text
-- of 1 GB, and a word more, is none. The request of a job that is running is announced, each time that it
-- is made.
create or replace function public.soniq_job_cancelled() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'public.soniq_jobs'::regclass then
    return null;
  end if;
  if new.status = 'queued' then
    update public.soniq_jobs j
    set status = 'cancelled',
      last_error = 'cancelled by request' || coalesce('; the last error was: ' || left(j.last_error, 16384), ''),
      expires_at = now() + interval '1 day',
      updated_at = now()
    where j.id = new.id
      and j.status = 'queued';
  elsif coalesce(current_setting('soniq.notify', true), '') <> 'off' then
    perform pg_notify('soniq_control', jsonb_build_object('v', 1, 'cancel', new.id)::text);
  end if;
  return null;
end
$$;
revoke all on function public.soniq_job_cancelled() from public;

create or replace trigger soniq_job_cancelled
  after update on public.soniq_jobs
  for each row
  when (
    new.cancel_requested_at is not null
    and old.status = 'processing'
    and (
      new.status = 'queued'
      or (new.status = 'processing' and old.cancel_requested_at is distinct from new.cancel_requested_at)
    )
  )
  execute function public.soniq_job_cancelled();

---------------------------------------------------------------------------
-- Deaths and replays
---------------------------------------------------------------------------

-- The public notification; its fields are documented in docs/channel.md.
-- Under 1,000 bytes whatever the row holds: a character is at most six bytes
-- in JSON, so 24 of each of the five texts always fit. It takes what it needs of the
-- row, as the functions of hooks do: to pass a whole row, the server puts all that it
-- holds into one value, and fails where that is over 1 GB.
create or replace function public.soniq_dead_letter_payload(
  id uuid, job_name text, queue text, reason text, kind text, fingerprint text, attempts int4, moved_at timestamptz, replay_of uuid
) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp as $$
declare
  room integer;
  payload text;
begin
  foreach room in array array[120, 24] loop
    payload := jsonb_strip_nulls(jsonb_build_object(
      'v', 1,
      'id', id,
      'job_name', left(job_name, room),
      'queue', left(queue, room),
      'reason', left(reason, room),
      'kind', left(kind, room),
      'fingerprint', left(fingerprint, room),
      'attempts', attempts,
      'moved_at', to_char(moved_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
      'replay_of', replay_of,
      'truncated', case when greatest(
        length(job_name), length(queue), length(reason), length(kind), length(fingerprint)) > room then true end
    ))::text;
    exit when octet_length(payload) < 1000;
  end loop;
  return payload;
end
$$;
revoke all on function public.soniq_dead_letter_payload(uuid, text, text, text, text, text, int4, timestamptz, uuid) from public;

-- 'set local soniq.silent = on' keeps a dead letter from being announced that is no news: one that an
-- import restores.
create or replace function public.soniq_dead_letters_inserted() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid = 'public.soniq_dead_letter_jobs'::regclass
    and coalesce(current_setting('soniq.notify', true), '') <> 'off'
    and coalesce(current_setting('soniq.silent', true), '') <> 'on'
  then
    perform pg_notify('soniq_dead_letter', public.soniq_dead_letter_payload(
      n.id, n.job_name, n.queue, n.dead_letter_reason, n.error_kind, n.fingerprint,
      n.attempts, n.moved_to_dead_letter_at, n.replay_of))
    from soniq_new_rows n;
  end if;
  return null;
end
$$;
revoke all on function public.soniq_dead_letters_inserted() from public;

create or replace trigger soniq_dead_letters_inserted
  after insert on public.soniq_dead_letter_jobs
  referencing new table as soniq_new_rows
  for each statement execute function public.soniq_dead_letters_inserted();

-- An id that dies again keeps its row, and is announced again.
create or replace function public.soniq_dead_letter_died_again() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid = 'public.soniq_dead_letter_jobs'::regclass
    and coalesce(current_setting('soniq.notify', true), '') <> 'off'
    and coalesce(current_setting('soniq.silent', true), '') <> 'on'
  then
    perform pg_notify('soniq_dead_letter', public.soniq_dead_letter_payload(
      new.id, new.job_name, new.queue, new.dead_letter_reason, new.error_kind, new.fingerprint,
      new.attempts, new.moved_to_dead_letter_at, new.replay_of));
  end if;
  return null;
end
$$;
revoke all on function public.soniq_dead_letter_died_again() from public;

create or replace trigger soniq_dead_letter_died_again
  after update on public.soniq_dead_letter_jobs
  for each row
  when (old.moved_to_dead_letter_at is distinct from new.moved_to_dead_letter_at)
  execute function public.soniq_dead_letter_died_again();

-- What became of a replay, whoever ran or removed it. Success resolves the
-- dead letter, and those that it came from; anything else makes it dead again.
-- The dead letter tells which job is its replay: replay_of is what a job says
-- of itself, and whoever may enqueue can say it. A dead letter came from
-- another one where that says so too: its last replay is the job that died.
create or replace function public.soniq_replay_ended() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'public.soniq_jobs'::regclass then
    return null;
  end if;
  if tg_op = 'UPDATE' and new.status = 'done' then
    with recursive chain (id, parent) as (
      select d.id, d.replay_of
      from public.soniq_dead_letter_jobs d
      where d.id = old.replay_of
        and d.state = 'replaying'
        and d.replay_job_id = old.id
      union
      select d.id, d.replay_of
      from public.soniq_dead_letter_jobs d
      join chain c on d.id = c.parent
        and d.replay_job_id = c.id
    )
    update public.soniq_dead_letter_jobs d
    set state = 'resolved'
    from chain
    where d.id = chain.id;
  else
    update public.soniq_dead_letter_jobs d
    set state = 'dead'
    where d.id = old.replay_of
      and d.state = 'replaying'
      and d.replay_job_id = old.id;
  end if;
  return null;
end
$$;
revoke all on function public.soniq_replay_ended() from public;

create or replace trigger soniq_replay_ended
  after update on public.soniq_jobs
  for each row
  when (
    old.replay_of is not null
    and old.status is distinct from new.status
    and new.status in ('done', 'cancelled')
  )
  execute function public.soniq_replay_ended();

create or replace trigger soniq_replay_deleted
  after delete on public.soniq_jobs
  for each row
  when (old.replay_of is not null and old.status in ('queued', 'processing'))
  execute function public.soniq_replay_ended();

-- A history with more at its end: an object, or an array of them. It keeps the
-- first, which is how it all began, and the last nine. Whatever either holds,
-- it is an array, or NULL where there is nothing to tell.
--
-- For workers of 0.1.0, whose roles Setup lets execute it. Later ones have the
-- expression in their statements (internal/history), and need no EXECUTE.
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

-- How often the work of a dead letter has been replayed: itself, and those that
-- it is a replay of. Hand-made rows may go in a circle. For programs of 0.1.0, as
-- soniq_add_errors is.
create or replace function public.soniq_dead_letter_replays(letter uuid) returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
declare
  replays integer := 0;
  row_count integer;
  row_parent uuid;
begin
  for step in 1..100 loop
    exit when letter is null;
    select coalesce(d.resurrection_count, 0), d.replay_of
    into row_count, row_parent
    from public.soniq_dead_letter_jobs d
    where d.id = letter;
    exit when not found;
    replays := least(replays::bigint + row_count, 1000000);
    letter := row_parent;
  end loop;
  return replays;
end
$$;
revoke all on function public.soniq_dead_letter_replays(uuid) from public;

---------------------------------------------------------------------------
-- Deliveries
---------------------------------------------------------------------------

-- A name, or a glob with * and ?, that job_name matches as a whole. chr(92) is
-- the backslash: as a literal it would depend on standard_conforming_strings.
create or replace function public.soniq_hook_glob(glob text, job_name text) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp as $$
  select job_name like translate(
    replace(replace(replace(glob, chr(92), repeat(chr(92), 2)), '%', chr(92) || '%'), '_', chr(92) || '_'), '*?', '%_')
$$;
revoke all on function public.soniq_hook_glob(text, text) from public;

-- Whether a hook wants to hear of a dead letter. Python stores tags as a JSON
-- string that holds the object. A filter that can't be told counts as a match:
-- better a message too many.
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

-- What an outbox row is grouped by in a digest: a line for each kind of death.
create or replace function public.soniq_hook_group(job_name text, reason text, fingerprint text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp as $$
  select md5(concat_ws('|', job_name, reason, fingerprint))
$$;
revoke all on function public.soniq_hook_group(text, text, text) from public;

-- The hooks that are told of what happens now. Called in the transaction of
-- each death, so its cost is bounded: 1,000 hooks, the oldest, of those whose
-- filters aren't larger than what 'hooks add' takes; dispatchers bound the
-- number of deliveries, where nothing is counted. Where no dispatcher has taken
-- what a hook had due for 30 days, nobody runs one, and nothing more is kept.
-- plpgsql keeps the plan: SQL would plan it anew for each death.
create or replace function public.soniq_hook_listeners() returns setof public.soniq_hooks
language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select h.*
    from public.soniq_hooks h
    where h.enabled
      and coalesce(pg_column_size(h.jobs), 0) + coalesce(pg_column_size(h.queues), 0) + coalesce(pg_column_size(h.reasons), 0)
        + coalesce(pg_column_size(h.events), 0) + coalesce(pg_column_size(h.tags), 0) <= 1000000
      -- The first entry of the index, whatever the statistics say.
      and coalesce((
        select d.next_attempt_at
        from public.soniq_hook_deliveries d
        where d.hook_id = h.id
          and d.state = 'pending'
        order by d.next_attempt_at
        limit 1
      ) >= now() - interval '30 days', true)
    order by h.created_at, h.id
    limit 1000;
end
$$;
revoke all on function public.soniq_hook_listeners() from public;

-- Writes the outbox, in the transaction of the death. Whatever goes wrong
-- here, the move goes on; the server's log tells.
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
  join public.soniq_hook_listeners() h on 'job.dead_lettered' = any (h.events)
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

-- Another death of the same id, its replay and its resolution.
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
  join public.soniq_hook_listeners() h on e.event = any (h.events)
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

-- A hook that may go on, or has been mended, wakes the dispatchers: something
-- may wait for it. What they write themselves is not among the columns. A new
-- hook has nothing yet; the first death tells.
create or replace function public.soniq_hook_changed() returns trigger
language plpgsql volatile
set search_path = pg_catalog, pg_temp as $$
begin
  if coalesce(current_setting('soniq.notify', true), '') <> 'off' then
    perform pg_notify('soniq_hook', '');
  end if;
  return null;
end
$$;
revoke all on function public.soniq_hook_changed() from public;

create or replace trigger soniq_hook_changed
  after update on public.soniq_hooks
  for each row
  when (
    new.enabled and (
      not old.enabled
      or (new.kind, new.url, new.secrets, new.settings) is distinct from (old.kind, old.url, old.secrets, old.settings)
    )
  )
  execute function public.soniq_hook_changed();

---------------------------------------------------------------------------
-- What this database has
---------------------------------------------------------------------------

insert into public.soniq_migrations (version, name, applied_at)
select m.version, m.name, now() at time zone 'utc'
from (values
  ('0001', 'core'),
  ('0002', 'dead_letter'),
  ('0150', 'soniq_go'),
  ('0151', 'soniq_go_control'),
  ('0152', 'soniq_go_errors'),
  ('0153', 'soniq_go_operations'),
  ('0154', 'soniq_go_hooks'),
  ('0155', 'soniq_go_hooks_wake'),
  ('0156', 'soniq_go_dead_letter_operation'),
  ('0157', 'soniq_go_hunger'),
  ('0160', 'soniq_go_dead_letter_counts'),
  ('0161', 'soniq_go_trust'),
  ('0162', 'soniq_go_long_names'),
  ('0163', 'soniq_go_audit_secrets'),
  ('0164', 'soniq_go_hook_status'),
  ('0165', 'soniq_go_waiters'),
  ('0166', 'soniq_go_leader_tasks'),
  ('0167', 'soniq_go_incarnation'),
  ('0168', 'soniq_go_comment')
) m (version, name);

commit;
