-- The whole schema of Soniq in one file: what the files in migrations/ add up to, which a
-- test proves. Run it on a database without Soniq's tables: 'psql -f schema.sql'. It makes
-- everything in one transaction, or nothing, and records the migrations, so that a worker
-- starts. 'soniq setup' does the same in an empty database; it also upgrades one that an older
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

-- The migrations that were applied. Python Soniq has the same table and records its own, 0001 to
-- 0005. checksum is the SHA-256 of the text that was applied; Python and this file write none.
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
  -- The key of the session advisory lock that a worker holds on its listener connection, and the
  -- server process that holds it. NULL if the worker has no lock: one of Python's, or one behind a
  -- pooler.
  lock_key bigint,
  backend_pid integer,
  -- What 0.1.0 has instead of incarnation.
  tenure bigint,
  -- A new number if the worker was stopped, forgotten or silent before this heartbeat: its rows in
  -- soniq_waiters did not count meanwhile. NULL if the worker writes no such rows.
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
  max_attempts integer default 4,
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
  -- New for each claim. Every outcome is written under it.
  claim_token bigint,
  -- The dead letter that this job replays.
  replay_of uuid,
  -- When cancelling a running job was requested. The worker gets a notification, and finds it here
  -- if that is lost. Unless the attempt succeeds, the job does not go back to its queue.
  cancel_requested_at timestamptz,
  -- An array of objects, one for each failed attempt; see docs/dead-letters.md. NULL while none
  -- has failed.
  errors jsonb,
  -- To which trace the job belongs, as W3C's headers have it: traceparent and, where there is one, a
  -- space and tracestate. Whatever else stands there counts as nothing; see docs/traces.md.
  trace_context text
);

-- What becomes of jobs whose outcomes the database refuses for now. If a worker ends before it has written
-- one, whoever recovers the job writes it, and the job does not run again. A row counts for the claim with
-- its token alone.
create table public.soniq_kept_outcomes (
  job_id uuid not null,
  token bigint not null,
  outcome jsonb not null,
  kept_at timestamptz not null default now(),
  primary key (job_id, token)
);

-- worker_id has no foreign key to soniq_workers, and no index for one. With a foreign key each claim
-- locks its worker's row once more for each job, which is a fifth of the server's time for a job; and
-- a worker whose row was replaced can't claim. A job whose worker has no row counts as a job without a
-- worker. Python Soniq makes the key, its index, and five more indexes that make a claim four times as
-- expensive. 'soniq setup --optimize' drops them.

-- The arbiters of ON CONFLICT, here and in Python Soniq. A job is unique only while it is queued.
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

-- Finds the workers that hold processing jobs, twice a second, and processing jobs without a worker. A
-- claim takes no longer with it; a job's WAL grows by 7 %.
create index idx_soniq_jobs_processing
  on public.soniq_jobs (worker_id) where status = 'processing';

create table public.soniq_task_registry (
  task_name text not null,
  worker_id text not null,
  last_seen_at timestamptz not null,
  args_model_repr text,
  primary key (task_name, worker_id)
);

-- Settings of a queue. A queue without a row is not paused.
create table public.soniq_queues (
  name text primary key,
  paused_at timestamptz,
  paused_by text
);

-- Workers that wait for jobs of a queue; '' is any queue. A commit that notifies takes a lock of the
-- whole server, so the triggers on soniq_jobs notify only if a worker has a row here. Each INSERT of a
-- job reads the table. It is not part of the heartbeat, since dead row versions would make that read
-- slower; workers write only when they begin or stop waiting. A DELETE names the epoch up to which it
-- deletes: a late one spares rows that were written since. internal/waiters explains why no worker
-- sleeps through a job.
create table public.soniq_waiters (
  queue text not null,
  worker_id uuid not null,
  epoch bigint not null default 0,
  primary key (queue, worker_id)
);

-- Periodic tasks that one worker does for all: when the last turn began and, for an alarm, since when
-- it is raised.
create table public.soniq_leader_tasks (
  name text primary key,
  begun_at timestamptz not null,
  raised_at timestamptz,
  -- What the turn has found out for all: the gauges of metrics.
  result jsonb
);

-- What became of jobs, for charts of the past: internal/rollup explains it. A row is for the time from 'at' on, for
-- step seconds. With reason '' it is about attempts, which workers add once a minute; else about the jobs that
-- became dead letters for that reason, which one worker counts. waits and runs count how long jobs were due, and
-- how long their handlers ran, in buckets: below 1 ms, and then four to each doubling.
create table public.soniq_job_stats (
  step integer not null,
  at timestamptz not null,
  queue text not null,
  job_name text not null,
  reason text not null default '',
  completed bigint not null default 0,
  failed bigint not null default 0,
  resolved bigint not null default 0,
  dead bigint not null default 0,
  waited_ms bigint not null default 0,
  ran_ms bigint not null default 0,
  waits bigint[] not null default '{}',
  runs bigint[] not null default '{}',
  primary key (step, at, queue, job_name, reason)
)
-- The rows of now are written to again and again, and find room for that in their page.
with (fillfactor = 50);

---------------------------------------------------------------------------
-- Dead letters
---------------------------------------------------------------------------

-- Which run of which server a dead letter was written by. A transaction number, moved_xid, says nothing
-- beside one of another server, and one server's go back when a backup or a snapshot of its disk is
-- restored, or a standby takes over that lacks the last of them. A later epoch has a greater number. The
-- last 20 bits are those of the start of the server in microseconds, so that a row tells whether this run
-- of the server wrote it; the rest is about when the epoch began, in microseconds since 1970.
create sequence public.soniq_epochs as bigint;

-- After a crash PostgreSQL uses transaction numbers again that it gave to commits which were not yet on disk
-- (synchronous_commit = off), and a reader may have seen those. A crash, a base backup and a promotion reset an
-- unlogged sequence, and a clean restart does not: so each of these begins an epoch. PostgreSQL 14 has none.
do $$
begin
  if current_setting('server_version_num')::integer >= 150000 then
    alter sequence public.soniq_epochs set unlogged;
  end if;
end
$$;

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
  -- The last error, and what decided that it was final.
  error_kind text,
  error_type text,
  error_code text,
  decided_by text,
  fingerprint text,
  -- Fields of the job that Python's move does not keep.
  args_hash text,
  unique_job boolean,
  dedup_key text,
  producer_id text,
  worker_id uuid,
  scheduled_at timestamptz,
  -- The error of each attempt, as in soniq_jobs.
  errors jsonb,
  -- The whole name and queue if they are over 2,000 bytes, too long for the indexes. job_name and
  -- queue then hold the beginning and a digest. No index uses these two.
  whole_job_name text,
  whole_queue text,
  -- Comes before moved_xid in the cursor. 0 if no trigger has told it: rows from before the column, and of
  -- an old dump.
  moved_epoch bigint not null default coalesce(nullif(pg_catalog.current_setting('soniq.epoch', true), ''), '0')::bigint,
  -- Why it needs no attention any more: resolved, or superseded by the dead letter of its replay. It is in an index
  -- and says less than the state, which is in none: a replay changes no index. Others that need no attention
  -- have it too, once workers have looked at them; so the state and the replays have the last word.
  closed text,
  -- That of the job.
  trace_context text
)
-- A page has room for new versions of some of its rows: a replay then leaves them in it, and all indexes as
-- they are.
with (fillfactor = 80);

create index idx_soniq_dead_letter_jobs_moved_at
  on public.soniq_dead_letter_jobs (moved_to_dead_letter_at);

create index idx_soniq_dead_letter_jobs_feed
  on public.soniq_dead_letter_jobs (moved_epoch, moved_xid, id);

-- Pages of one job, queue, reason or group, the newest or the oldest first. An index on the first
-- column alone, such as Python Soniq's, would read and sort all of it.
create index idx_soniq_dead_letter_jobs_job_name_moved
  on public.soniq_dead_letter_jobs (job_name, moved_to_dead_letter_at, id);
create index idx_soniq_dead_letter_jobs_queue_moved
  on public.soniq_dead_letter_jobs (queue, moved_to_dead_letter_at, id);
create index idx_soniq_dead_letter_jobs_reason_moved
  on public.soniq_dead_letter_jobs (dead_letter_reason, moved_to_dead_letter_at, id);

-- The group of a dead letter: its fingerprint or, if another program wrote none, a digest of the job,
-- the reason and the first line of the error without numbers and ids. The expression must be the same
-- as Key in the package groupsql.
create index idx_soniq_dead_letter_jobs_group_moved
  on public.soniq_dead_letter_jobs (
    coalesce(fingerprint, pg_catalog.lpad(pg_catalog.to_hex(pg_catalog.hashtextextended(job_name || '|' || dead_letter_reason || '|' || pg_catalog.regexp_replace(pg_catalog.left(pg_catalog.split_part(coalesce(last_error, ''), pg_catalog.chr(10), 1), 200), '[0-9a-f]*[0-9][0-9a-f-]*', '#', 'gi'), 0)), 16, '0')),
    moved_to_dead_letter_at, id
  );

-- Those that may need attention, for workers and monitors. Resolved ones are kept as a record, and would be in the way
-- in the other indexes; superseded ones are passed over without a look at the table. It must not have a column
-- that a replay changes.
create index idx_soniq_dead_letter_jobs_open
  on public.soniq_dead_letter_jobs (moved_to_dead_letter_at, id, closed) where closed is distinct from 'resolved';

-- Few dead letters are of a replay; the others cost nothing here.
create index idx_soniq_dead_letter_jobs_replay_of
  on public.soniq_dead_letter_jobs (replay_of) where replay_of is not null;

-- How many days there are. Without it the planner takes each time of death for a day of its own, and
-- uses no parallel plan to count them.
create statistics public.soniq_dead_letter_days
  on ((moved_to_dead_letter_at at time zone 'utc')::date) from public.soniq_dead_letter_jobs;

-- Bulk operations on dead letters. 'options' has what a replay needs to be resumed; 'stopped_by' says
-- why one is not done.
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
  -- The reason that a person gave. 0.1.0 uses the column because, so programs write both.
  comment text,
  -- When the process of a running operation last showed that it lives. NULL for those of 0.1.0.
  heartbeat_at timestamptz
);

create index idx_soniq_dead_letter_operations_created_at
  on public.soniq_dead_letter_operations (created_at);

-- What an operation has still to do, in order. It is filled when the operation starts; each batch
-- deletes what it has done.
create table public.soniq_dead_letter_selections (
  operation_id uuid not null
    references public.soniq_dead_letter_operations (id) on delete cascade,
  place bigint not null,
  dead_letter_id uuid not null,
  primary key (operation_id, place)
);

-- Who did what to a dead letter, and why. Records outlive the dead letter.
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
  -- The reason that a person gave. 0.1.0 uses the column because, so programs write both.
  comment text
);

create index idx_soniq_dead_letter_audit_dead_letter
  on public.soniq_dead_letter_audit (dead_letter_id, id);
create index idx_soniq_dead_letter_audit_operation
  on public.soniq_dead_letter_audit (operation_id, id) where operation_id is not null;

-- Records of single dead letters, which 'dead-letter history' lists. A bulk replay writes one for each of its own, and
-- all of them were read.
create index idx_soniq_dead_letter_audit_single
  on public.soniq_dead_letter_audit (id) where operation_id is null;

-- Records of 0.1.0 that have the arguments of a replay with their secrets. Workers remove the secrets;
-- then the index is empty.
create index idx_soniq_dead_letter_audit_raw
  on public.soniq_dead_letter_audit (id) where detail ? 'args' and not detail ? 'changed';

---------------------------------------------------------------------------
-- Hooks
---------------------------------------------------------------------------

-- Where dead letters are sent, and how. url, secrets and the values of headers in settings may be
-- 'env:NAME', so that the table holds no secret.
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
  created_at timestamptz not null default now(),
  -- When a dispatcher last had the hook in its configuration. NULL for a hook of the command line or
  -- of SQL.
  declared_at timestamptz,
  -- How many deliveries were dropped because too many waited.
  dropped bigint not null default 0,
  -- Why deliveries wait: what the last dispatcher that could not send them was lacking.
  lacks text,
  lacks_at timestamptz,
  -- The latest of the failures since failing_since. NULL: only dispatchers of 0.1.0 have counted them.
  last_failed_at timestamptz,
  -- The configurations that have the hook, by a digest: where each is, what it says, and when one of its
  -- dispatchers last ran.
  declarations jsonb
);

-- The outbox: a row for each event and hook. next_attempt_at is when it is due or, while a dispatcher
-- sends it, when the lease ends. facts is a part of the dead letter, so the row outlives it. It has no
-- foreign key: checking one could make the move of a job fail.
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

-- When a digest last had a group, and how long the next one waits.
create table public.soniq_hook_groups (
  hook_id uuid not null,
  group_key text not null,
  sent_at timestamptz not null,
  hold interval not null,
  primary key (hook_id, group_key)
);

-- What a viewer may know of the hooks: no secret, and only the host of an address. It needs no right to
-- the tables. A value of a wrong type is left out, so that no row makes the view fail.
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
  (select count(*) from public.soniq_hook_deliveries d where d.hook_id = h.id and d.state = 'failed') as failed,
  (select min(d.created_at) from public.soniq_hook_deliveries d where d.hook_id = h.id and d.state = 'pending') as oldest_pending_at,
  p.next_attempt_at as due_at,
  coalesce(p.leased, false) as sending
from public.soniq_hooks h
cross join lateral (
  select case when jsonb_typeof(h.settings) = 'object' and pg_column_size(h.settings) <= 524288 then h.settings else '{}' end as settings
) s
left join lateral (
  -- The first entry of the index, whatever the statistics say.
  select d.next_attempt_at, d.lease is not null and d.next_attempt_at > clock_timestamp() as leased
  from public.soniq_hook_deliveries d
  where d.hook_id = h.id
    and d.state = 'pending'
  order by d.next_attempt_at
  limit 1
) p on true;

-- What can be read in order, without missing or repeating a row: docs/channel.md says how. A row of this run
-- of the server is in it when no transaction before it is open; one of an earlier run or of another server at
-- once. Nothing is in it while a transaction is prepared that may write an earlier epoch: one that is older
-- than the latest epoch, or any before the first death of this run. Rows without a transaction number, such as
-- imported ones, are no news. A standby has another start than its primary: there the latest epoch is the
-- primary's.
create view public.soniq_dead_letter_feed with (security_barrier) as
select d.moved_epoch, d.moved_xid, d.id, d.job_name, d.queue, d.dead_letter_reason, d.last_error, d.attempts,
  d.moved_to_dead_letter_at, d.error_kind, d.error_type, d.error_code, d.fingerprint, d.state, d.tags, d.replay_of
from public.soniq_dead_letter_jobs d
where d.moved_xid is not null
  and (
    d.moved_xid < pg_snapshot_xmin(pg_current_snapshot())
    or case
      when pg_is_in_recovery() then d.moved_epoch < (select max(m.moved_epoch) from public.soniq_dead_letter_jobs m)
      else d.moved_epoch & 1048575 <> (date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint & 1048575
    end
  )
  and not exists (
    select from pg_prepared_xacts p
    cross join (select max(m.moved_epoch) as epoch from public.soniq_dead_letter_jobs m) latest
    where p.database = current_database()
      and (
        latest.epoch & 1048575 <> (date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint & 1048575
        or (date_part('epoch', p.prepared) * 1000000)::bigint < latest.epoch + 1048576
      )
  );

---------------------------------------------------------------------------
-- Moved databases
---------------------------------------------------------------------------

-- The servers that this database has been on: the one that it belongs on has replaced_at NULL, and no other.
-- Where another one is marked so, the database was copied, restored or moved, and hooks wait until somebody
-- says that it is the one: 'soniq adopt'. Programs write it; system_identifier is '' where the server doesn't
-- tell, and timeline 0.
create table public.soniq_incarnations (
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

-- Whether a worker waits for a queue. A worker that has been silent for five minutes, which is how long
-- Python's may be, no longer counts. Otherwise producers would notify for ever if no worker is left to
-- remove its row. The triggers look by themselves, without a call; the function is for people, and for
-- releases before, which look whether it is there.
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

-- A worker that starts counts as waiting. Python's do as long as they live, Go's until they write
-- otherwise. If a queue's name is too long for the index, the worker waits for any queue.
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

-- A worker that was stopped or deleted no longer waits. One of Python's that was taken for dead goes on
-- working, and its heartbeat keeps the status 'stopped'.
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
exception
when serialization_failure or deadlock_detected then
  raise; -- whoever is at serializable, or was ended for a deadlock, runs it again
when others then
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

-- Trigger functions never make a statement of the application fail, whatever a row holds.
-- 'set local soniq.notify = off' turns notifications off, for two-phase commit, which refuses NOTIFY.
--
-- A function runs as its owner (SECURITY DEFINER) if it uses a table or function that whoever writes
-- the row may have no right to: a role with rights on soniq_jobs alone can enqueue. Such a function
-- does nothing for other tables than its own, whose columns have built-in types. On a table with types
-- and casts of its owner, it would run his code as Soniq's owner.

-- A payload has under 8,000 bytes. A longer name of a queue is sent as '', which means any queue.
create or replace function public.soniq_notify_queue(queue text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_notify('soniq_new_job', case when octet_length(queue) < 8000 then queue else '' end);
end
$$;
revoke all on function public.soniq_notify_queue(text) from public;

-- Workers look at least every 30 s, so a job that is due in over ten minutes notifies nobody now. Nor
-- does one in a queue that no worker waits for: a worker that is busy finds it anyway. The function is
-- VOLATILE, so that it reads soniq_waiters as it is now and not as it was when the INSERT began. In a
-- transaction above read committed that is not possible, so there it always notifies; also if it can't
-- read the table. The first query is cheap when all workers are busy.
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
      perform pg_notify('soniq_new_job', case when octet_length(q.queue) < 8000 then q.queue else '' end)
      from (
        select distinct coalesce(n.queue, 'default') as queue
        from soniq_new_rows n
        where n.status = 'queued'
          and (n.scheduled_at is null or n.scheduled_at <= now() + interval '10 minutes')
      ) q
      where (
        select exists (
          select from public.soniq_waiters h
          where h.queue in (q.queue, '')
            and exists (
              select from public.soniq_workers w
              where w.id = h.worker_id
                and w.last_heartbeat > now() - interval '5 minutes'
            )
        )
      );
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

-- Rows that become runnable without an INSERT: a retry, a snooze, Python's sweep, an UPDATE in psql.
-- It is a row trigger with a WHEN, since a statement trigger would copy every claimed and finished row
-- into its transition tables. The server merges equal payloads of a transaction.
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
      if not exists (
        select from public.soniq_waiters h
        where h.queue in (coalesce(new.queue, 'default'), '')
          and exists (
            select from public.soniq_workers w
            where w.id = h.worker_id
              and w.last_heartbeat > now() - interval '5 minutes'
          )
      ) then
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

-- Wakes the workers of a queue that is resumed: they don't poll.
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

-- Cancels a job that goes back to its queue although cancelling it was requested, and announces each
-- request for a running job. It is an AFTER trigger that updates the row again: a BEFORE trigger would
-- lock each row of every claim and outcome once more. It runs as its owner, since whoever requeues may
-- have no right to the other columns. The day is cancelledTTL in the engine. It cuts the last error,
-- which could otherwise exceed 1 GB with the text before it.
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

-- The public notification. docs/channel.md describes its fields. It is under 1,000 bytes: a character
-- has at most six bytes in JSON, so 24 characters of each of the five texts always fit. It takes
-- columns and not the row: to pass a row, the server makes one value of it, which fails over 1 GB.
create or replace function public.soniq_dead_letter_payload(
  id uuid, job_name text, queue text, reason text, kind text, fingerprint text, attempts int4, moved_at timestamptz, replay_of uuid
) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp as $$
declare
  room integer;
  payload text;
begin
  -- 120 bytes can't become 1,000. The order and the spaces are those of jsonb.
  if octet_length(job_name) + octet_length(queue) + octet_length(reason) + octet_length(concat(kind, fingerprint)) <= 120 then
    return '{"v": 1, "id": "' || id || coalesce('", "kind": ' || to_json(kind)::text, '"') || ', "queue": ' || to_json(queue)::text
      || ', "reason": ' || to_json(reason)::text || ', "attempts": ' || attempts || ', "job_name": ' || to_json(job_name)::text
      || ', "moved_at": "' || to_char(moved_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
      || coalesce('", "replay_of": "' || replay_of, '') || coalesce('", "fingerprint": ' || to_json(fingerprint)::text || '}', '"}');
  end if;
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

-- The epoch of this run of the server. It is a sequence, which is not undone with a transaction and looks
-- the same from all of them: the first death after a start makes it, whatever its isolation level, and
-- others wait a moment and not for that transaction's end.
--
-- A standby that is promoted before its first restartpoint after setup can't read it ("bad magic number"), and
-- neither can a recovery that ends so: until 'soniq setup' has made it anew, all sessions use the one epoch that
-- follows from the start of the server and from the rows of others.
create or replace function public.soniq_begin_epoch() returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp as $$
declare
  run constant bigint := (date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint & 1048575;
  epoch bigint;
  latest bigint;
begin
  -- Rows of a dump or of a publisher may have a later one than the sequence.
  select max(d.moved_epoch) into latest
  from public.soniq_dead_letter_jobs d;
  begin
    perform set_config('soniq.epoch_unread', '', true);
    for try in 1..100 loop
      epoch := pg_sequence_last_value('public.soniq_epochs'::regclass);
      if epoch & 1048575 = run and epoch >= coalesce(latest, 0) then
        return epoch;
      end if;
      exit when pg_try_advisory_xact_lock(hashtextextended('public.soniq_epochs', 0));
      perform pg_sleep(0.005);
    end loop;
    epoch := pg_sequence_last_value('public.soniq_epochs'::regclass);
    if epoch & 1048575 = run and epoch >= coalesce(latest, 0) then
      return epoch;
    end if;
    return setval('public.soniq_epochs', greatest(
        (date_part('epoch', clock_timestamp()) * 1000000)::bigint >> 20,
        (coalesce(epoch, 0) >> 20) + 1,
        (coalesce(latest, 0) >> 20) + 1
      ) << 20 | run);
  exception when internal_error then
    perform set_config('soniq.epoch_unread', 'on', true);
    raise warning 'soniq: the sequence of epochs can''t be read; run ''soniq setup'': %', sqlerrm;
    if latest & 1048575 = run then
      return latest;
    end if;
    return greatest(
        (date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint >> 20,
        (coalesce(latest, 0) >> 20) + 1
      ) << 20 | run;
  end;
end
$$;
revoke all on function public.soniq_begin_epoch() from public;

-- Hands the epoch to the default of moved_epoch, once for each statement: a function for each row would make
-- a bulk insert a fifth slower. A session lives in one run of the server, so it keeps the epoch until another
-- session has begun a later one. Rows of a dump, or of a publisher, may have a later one than this run: a
-- session looks for those once a second, since the look is a twentieth of a death, and begins another epoch,
-- which is later still. The sequence is read outside a subtransaction only where the session has read it in this
-- second already.
create or replace function public.soniq_dead_letter_epoch() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
declare
  epoch bigint;
begin
  if tg_relid = 'public.soniq_dead_letter_jobs'::regclass
    and (case
      when current_setting('soniq.epoch_second', true) is distinct from date_part('epoch', clock_timestamp())::bigint::text then true
      else current_setting('soniq.epoch', true) is distinct from coalesce(pg_sequence_last_value(to_regclass('public.soniq_epochs'))::text, '-')
    end)
  then
    -- The subtransaction is begun only here: for each death it would be another twentieth.
    begin
      epoch := public.soniq_begin_epoch();
    exception
    when serialization_failure or deadlock_detected then
      raise; -- whoever is at serializable, or was ended for a deadlock, runs it again
    when others then
      select max(d.moved_epoch) into epoch
      from public.soniq_dead_letter_jobs d;
      raise warning 'soniq: a dead letter has no epoch of its own: %', sqlerrm;
    end;
    perform set_config('soniq.epoch', coalesce(epoch::text, ''), false),
      set_config('soniq.epoch_second', case when current_setting('soniq.epoch_unread', true) = 'on' then '' else date_part('epoch', clock_timestamp())::bigint::text end, false);
  end if;
  return null;
end
$$;
revoke all on function public.soniq_dead_letter_epoch() from public;

create or replace trigger soniq_dead_letter_epoch
  before insert on public.soniq_dead_letter_jobs
  for each statement execute function public.soniq_dead_letter_epoch();

-- Only deaths of this very transaction are news: the rows of a dump have another transaction or epoch.
-- 'set local soniq.silent = on' turns the announcement off, for dead letters that an import restores.
--
-- Hooks get them through the outbox, in the transaction of the death. If that fails, the move goes on, and the
-- server's log has a warning. It is no trigger of its own, which was a tenth of a death, and it begins a
-- subtransaction only where there are hooks, or where whether there are can't be read.
create or replace function public.soniq_dead_letters_inserted() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'public.soniq_dead_letter_jobs'::regclass
    or current_setting('soniq.silent', true) = 'on'
  then
    return null;
  end if;
  if current_setting('soniq.notify', true) is distinct from 'off' then
    -- No variable: with one, the server would plan this anew for each statement.
    perform pg_notify('soniq_dead_letter', public.soniq_dead_letter_payload(
      n.id, n.job_name, n.queue, n.dead_letter_reason, n.error_kind, n.fingerprint,
      n.attempts, n.moved_to_dead_letter_at, n.replay_of))
    from soniq_new_rows n
    where n.moved_xid = pg_current_xact_id()
      and (
        n.moved_epoch = 0
        or n.moved_epoch & 1048575 = (date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint & 1048575
      );
  end if;
  if has_table_privilege(to_regclass('public.soniq_hooks'), 'select') then
    if not exists (select from public.soniq_hooks where enabled) then
      return null;
    end if;
  end if;
  begin
    insert into public.soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key)
    select h.id, 'job.dead_lettered', n.id, public.soniq_dead_letter_payload(
        n.id, n.job_name, n.queue, n.dead_letter_reason, n.error_kind, n.fingerprint,
        n.attempts, n.moved_to_dead_letter_at, n.replay_of)::jsonb,
      public.soniq_hook_group(n.job_name, n.dead_letter_reason, n.fingerprint)
    from soniq_new_rows n
    join public.soniq_hook_listeners() h on 'job.dead_lettered' = any (h.events)
      and public.soniq_hook_matches(h.jobs, h.queues, h.reasons, h.tags, n.job_name, n.queue, n.dead_letter_reason, n.tags)
    where n.moved_xid = pg_current_xact_id()
      and (
        n.moved_epoch = 0
        or n.moved_epoch & 1048575 = (date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint & 1048575
      );
    if found and current_setting('soniq.notify', true) is distinct from 'off' then
      perform pg_notify('soniq_hook', '');
    end if;
  exception
  when serialization_failure or deadlock_detected then
    raise; -- whoever is at serializable, or was ended for a deadlock, runs it again
  when others then
    raise warning 'soniq: dead letters were not handed to the hooks: %', sqlerrm;
  end;
  return null;
end
$$;
revoke all on function public.soniq_dead_letters_inserted() from public;

create or replace trigger soniq_dead_letters_inserted
  after insert on public.soniq_dead_letter_jobs
  referencing new table as soniq_new_rows
  for each statement execute function public.soniq_dead_letters_inserted();

-- A dead letter whose job dies again keeps its row, and is announced again. Whoever wrote moved_xid, a worker
-- of 0.1.0, did not write the epoch.
create or replace function public.soniq_dead_letter_died_again() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid = 'public.soniq_dead_letter_jobs'::regclass
    and new.moved_xid = pg_current_xact_id()
  then
    begin
      update public.soniq_dead_letter_jobs d
      set moved_epoch = e.epoch
      from (select public.soniq_begin_epoch() as epoch) e
      where d.id = new.id
        and d.moved_epoch <> e.epoch;
    exception
    when serialization_failure or deadlock_detected then
      raise; -- whoever is at serializable, or was ended for a deadlock, runs it again
    when others then
      raise warning 'soniq: a dead letter keeps an old epoch: %', sqlerrm;
    end;
  end if;
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

-- Whoever changes the state need not know of 'closed'. It is true of those who know it that this does nothing.
create or replace function public.soniq_dead_letter_closes() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid = 'public.soniq_dead_letter_jobs'::regclass then
    update public.soniq_dead_letter_jobs d
    set closed = case d.state when 'resolved' then 'resolved' end
    where d.id = new.id
      and d.closed is distinct from case d.state when 'resolved' then 'resolved' end;
  end if;
  return null;
end
$$;
revoke all on function public.soniq_dead_letter_closes() from public;

create or replace trigger soniq_dead_letter_closes
  after update on public.soniq_dead_letter_jobs
  for each row
  when (
    old.state is distinct from new.state
    and (new.state = 'resolved') is distinct from (new.closed is not distinct from 'resolved')
    or new.state = 'replaying' and new.closed is not null
  )
  execute function public.soniq_dead_letter_closes();

-- A dead letter whose replay's dead letter is deleted needs attention again.
create or replace function public.soniq_dead_letter_reopens() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid = 'public.soniq_dead_letter_jobs'::regclass then
    update public.soniq_dead_letter_jobs d
    set closed = null
    where d.id = old.replay_of
      and d.replay_job_id = old.id
      and d.closed = 'superseded';
  end if;
  return null;
end
$$;
revoke all on function public.soniq_dead_letter_reopens() from public;

create or replace trigger soniq_dead_letter_reopens
  after delete on public.soniq_dead_letter_jobs
  for each row
  when (old.replay_of is not null)
  execute function public.soniq_dead_letter_reopens();

-- Follows a replay to its end, whoever ran or deleted the job. Success resolves the dead letter and
-- those that it is a replay of; anything else makes it dead again. The dead letter names the job that
-- replays it. A job's own replay_of is not enough: whoever may enqueue can write it. In the same way, a
-- dead letter counts as a replay of another one only if that one's last replay is the job that died.
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
    set state = 'resolved', closed = 'resolved'
    from chain
    where d.id = chain.id;
  else
    update public.soniq_dead_letter_jobs d
    set
      state = 'dead',
      closed = case
        when (select s.replay_of from public.soniq_dead_letter_jobs s where s.id = old.id) = d.id then 'superseded'
      end
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

-- How often a dead letter, and those that it is a replay of, were replayed. Rows that were written by
-- hand may form a circle. For programs of 0.1.0, like soniq_add_errors.
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

-- Rows of the history came from elsewhere and its sequence did not, by logical replication or by a restore of
-- the data alone: each record would be refused until the sequence had passed those rows. So whoever writes
-- records sets it right first. It only goes forward, and under a lock: whoever waits for that looks again.
create or replace function public.soniq_audit_written() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp as $$
declare
  counter regclass;
begin
  if tg_relid <> 'public.soniq_dead_letter_audit'::regclass then
    return null;
  end if;
  -- At serializable the look would be a conflict with all who write records.
  if current_setting('transaction_isolation') = 'serializable' then
    return null;
  end if;
  counter := pg_get_serial_sequence('public.soniq_dead_letter_audit', 'id');
  if coalesce(pg_sequence_last_value(counter), 0) < (select max(a.id) from public.soniq_dead_letter_audit a) then
    perform pg_advisory_xact_lock(hashtextextended('public.soniq_dead_letter_audit', 0));
    perform setval(counter, a.greatest)
    from (select max(id) as greatest from public.soniq_dead_letter_audit) a
    where a.greatest > coalesce(pg_sequence_last_value(counter), 0);
  end if;
  return null;
end
$$;
revoke all on function public.soniq_audit_written() from public;

create or replace trigger soniq_audit_written
  before insert on public.soniq_dead_letter_audit
  for each statement execute function public.soniq_audit_written();

---------------------------------------------------------------------------
-- Deliveries
---------------------------------------------------------------------------

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

-- The hooks that get events now. It runs in the transaction of each death, so its cost is bounded: at
-- most 1,000 hooks, the oldest, and none with a larger filter than 'hooks add' allows. A hook gets
-- nothing more if what it had due has waited for 30 days: no dispatcher runs. Dispatchers bound the
-- number of deliveries; counting them here would cost too much. It is plpgsql, which keeps the plan:
-- SQL would plan it again for each death.
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
  join public.soniq_hook_listeners() h on e.event = any (h.events)
    and public.soniq_hook_matches(h.jobs, h.queues, h.reasons, h.tags, n.job_name, n.queue, n.dead_letter_reason, n.tags);
  if found and coalesce(current_setting('soniq.notify', true), '') <> 'off' then
    perform pg_notify('soniq_hook', '');
  end if;
  return null;
exception
when serialization_failure or deadlock_detected then
  raise; -- whoever is at serializable, or was ended for a deadlock, runs it again
when others then
  raise warning 'soniq: dead letters were not handed to the hooks: %', sqlerrm;
  return null;
end
$$;
revoke all on function public.soniq_hook_changes() from public;

create or replace trigger soniq_hook_changes
  after update on public.soniq_dead_letter_jobs
  referencing old table as soniq_old_rows new table as soniq_new_rows
  for each statement execute function public.soniq_hook_changes();

-- Wakes the dispatchers when a hook is enabled or its settings change: deliveries may wait for it. The
-- WHEN has none of the columns that dispatchers write themselves. A new hook has no deliveries yet.
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
  ('0168', 'soniq_go_comment'),
  ('0170', 'soniq_go_kept_outcome'),
  ('0174', 'soniq_go_epoch'),
  ('0175', 'soniq_go_incarnations'),
  ('0176', 'soniq_go_feed'),
  ('0178', 'soniq_go_operation_heartbeat'),
  ('0179', 'soniq_go_hook_health'),
  ('0183', 'soniq_go_serializable'),
  ('0186', 'soniq_go_grant_options'),
  ('0189', 'soniq_go_death_cost'),
  ('0190', 'soniq_go_audit_sequence'),
  ('0192', 'soniq_go_max_attempts'),
  ('0195', 'soniq_go_conflicts'),
  ('0198', 'soniq_go_epoch_unread'),
  ('0220', 'soniq_go_closed'),
  ('0221', 'soniq_go_open'),
  ('0222', 'soniq_go_dead_index'),
  ('0223', 'soniq_go_single_records'),
  ('0230', 'soniq_go_leader_result'),
  ('0240', 'soniq_go_trace_context'),
  ('0251', 'soniq_go_short_triggers'),
  ('0260', 'soniq_go_job_stats')
) m (version, name);

commit;
