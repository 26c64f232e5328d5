package doctor_test

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq"
	"soniq/internal/doctor"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

var settingIllnesses = []illness{
	{
		name: "read-only database", check: "settings", severity: doctor.Critical, says: "default_transaction_read_only is on for database",
		inflict: sql(`alter database "DATABASE" set default_transaction_read_only = on`),
	},
	{
		name: "triggers of a role off", check: "settings", severity: doctor.Critical, says: "session_replication_role is replica for role",
		inflict: func(p *patient) { p.exec("alter role " + p.role() + " set session_replication_role = replica") },
	},
	{
		name: "notifications of a role off", check: "settings", severity: doctor.Critical, says: "soniq.notify is off for role",
		inflict: func(p *patient) {
			p.exec("alter role " + p.role() + ` in database "DATABASE" set soniq.notify = off`)
		},
	},
	{
		name: "serializable", check: "settings", severity: doctor.Note, says: "default_transaction_isolation is serializable",
		inflict: sql(`alter database "DATABASE" set default_transaction_isolation = serializable`),
	},
	{
		name: "backslashes", check: "settings", severity: doctor.Warning, says: "standard_conforming_strings is off",
		inflict: sql(`alter database "DATABASE" set standard_conforming_strings = off`),
	},
	{
		name: "encoding of the client", check: "settings", severity: doctor.Note, says: "client_encoding is latin1",
		inflict: sql(`alter database "DATABASE" set client_encoding = latin1`),
	},
	{
		name: "statement_timeout", check: "settings", severity: doctor.Warning, says: "statement_timeout is 500ms for database",
		inflict: sql(`alter database "DATABASE" set statement_timeout = '500ms'`),
	},
	{
		name: "lock_timeout", check: "settings", severity: doctor.Note, says: "lock_timeout is 10ms",
		inflict: sql(`alter database "DATABASE" set lock_timeout = '10ms'`),
	},
	{
		name: "idle_session_timeout", check: "settings", severity: doctor.Warning, says: "idle_session_timeout is 3s",
		inflict: sql(`alter database "DATABASE" set idle_session_timeout = '3s'`),
	},
	{
		name: "idle_in_transaction_session_timeout", check: "settings", severity: doctor.Note, says: "idle_in_transaction_session_timeout is 1s",
		inflict: sql(`alter database "DATABASE" set idle_in_transaction_session_timeout = '1s'`),
	},
	{
		name: "no index scans", check: "settings", severity: doctor.Warning, says: "enable_indexscan is off",
		inflict: sql(`alter database "DATABASE" set enable_indexscan = off`),
	},
	{
		name: "transactions end early", check: "settings", severity: doctor.Warning, says: "transaction_timeout is 1min for database", from: 170000,
		inflict: sql(`alter database "DATABASE" set transaction_timeout = '1min'`),
	},
	{
		name: "dead letters of a role silent", check: "settings", severity: doctor.Critical, says: "soniq.silent is on for role",
		inflict: func(p *patient) { p.exec("alter role " + p.role() + " set soniq.silent = on") },
	},
	{
		name: "no statistics of tables", check: "settings", severity: doctor.Critical, says: "track_counts is off",
		inflict: sql(`alter database "DATABASE" set track_counts = off`),
	},
	{
		name: "autovacuum off", check: "settings", severity: doctor.Critical, says: "autovacuum is off",
		inflict: func(p *patient) { p.alterSystem("autovacuum", "off") },
	},
	{
		name: "a setting of the URL", check: "settings", severity: doctor.Critical, says: "default_transaction_read_only is on: ", noSQL: true,
		inflict: func(p *patient) {
			p.config.Pool = testkit.Open(p, p.pool.Config().ConnString()+"&default_transaction_read_only=on")
		},
	},
	{
		name: "unlogged table", check: "durability", severity: doctor.Critical, says: "table public.soniq_jobs is UNLOGGED",
		inflict: sql("alter table soniq_jobs set unlogged"),
	},
	{
		name: "commits that are not waited for", check: "durability", severity: doctor.Note, says: "synchronous_commit is off", noSQL: true,
		inflict: func(p *patient) { p.alterSystem("synchronous_commit", "off") },
	},
	{
		name: "pages that are not written whole", check: "durability", severity: doctor.Warning, says: "full_page_writes is off", noSQL: true,
		inflict: func(p *patient) { p.alterSystem("full_page_writes", "off") },
	},
	{
		name: "an encoding that lacks characters", check: "server", severity: doctor.Note, says: "the database's encoding is LATIN1", noSQL: true,
		inflict: func(p *patient) { p.encoded("LATIN1") },
	},
	{
		name: "no encoding at all", check: "server", severity: doctor.Warning, says: "the database's encoding is SQL_ASCII", noSQL: true,
		inflict: func(p *patient) { p.encoded("SQL_ASCII") },
	},
	{
		name: "few connections", check: "connections", severity: doctor.Critical, says: " connections of database ",
		inflict: sql(`alter database "DATABASE" connection limit 1`),
	},
	{
		name: "clock ahead", check: "clock", severity: doctor.Warning, says: "ahead of the database's", noSQL: true,
		inflict: func(p *patient) { p.config.Now = func() time.Time { return time.Now().Add(time.Hour) } },
	},
	{
		name: "clock a little behind", check: "clock", severity: doctor.Note, says: "behind the database's", noSQL: true,
		inflict: func(p *patient) { p.config.Now = func() time.Time { return time.Now().Add(-20 * time.Second) } },
	},
}

var sessionIllnesses = []illness{
	{
		name: "idle in a transaction", check: "transactions", severity: doctor.Warning, says: "has been in a transaction for ",
		inflict: func(p *patient) {
			p.on(p.session(), "begin isolation level repeatable read; select count(*) from soniq_jobs")
		},
	},
	{
		name: "prepared transaction", check: "transactions", severity: doctor.Warning, says: "was prepared ",
		inflict: func(p *patient) {
			p.on(p.session(), "begin; insert into soniq_queues (name) values ('q'); prepare transaction 'it''s "+p.name+"'")
		},
	},
	{
		name: "unused slot", check: "slots", severity: doctor.Warning, says: "nobody uses the physical replication slot ",
		inflict: func(p *patient) {
			p.exec("select pg_create_physical_replication_slot('DATABASE', true)")
			p.Cleanup(func() {
				_, _ = p.pool.Exec(context.Background(), "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1", p.name)
			})
			p.exec("create table filler as select generate_series(1, 1000) n")
		},
	},
	{
		name: "a lock that others wait for", check: "locks", severity: doctor.Warning, says: "holds up 1 sessions on soniq_jobs",
		inflict: func(p *patient) {
			p.on(p.session(), "begin; lock table soniq_jobs")
			waiting := p.session()
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = waiting.Exec(context.Background(), "select count(*) from soniq_jobs")
			}()
			p.Cleanup(func() { <-done })
			eventually.True(p, "it to wait", func() bool {
				return testkit.Value[int](p, p.pool, "select count(*) from pg_locks where not granted") > 0
			})
		},
	},
	{
		name: "a listener that does not read", check: "notify-queue", severity: doctor.Warning, says: "queue of notifications is ",
		inflict: func(p *patient) {
			conn := p.session()
			p.on(conn, "listen deaf")
			p.on(conn, "begin; select 1")
			// Some pages of the queue.
			p.exec("select pg_notify('deaf', repeat('x', 7000) || n) from generate_series(1, 40) n")
		},
	},
	{
		name: "a pooler in transaction mode", check: "notify", severity: doctor.Warning, says: "through the database's URL no notification arrives", noSQL: true,
		inflict: func(p *patient) {
			p.config.Pool = testkit.Open(p, testkit.PgBouncer(p, p.pool.Config().ConnString(), "transaction"))
		},
		heal: func(p *patient) { p.config.Listen = p.pool.Config().ConnConfig },
	},
	{
		name: "a pooler with a listen URL", check: "notify", severity: doctor.Note, says: "what listens needs the listen URL", noSQL: true,
		inflict: func(p *patient) {
			p.config.Pool = testkit.Open(p, testkit.PgBouncer(p, p.pool.Config().ConnString(), "transaction"))
			p.config.Listen = p.pool.Config().ConnConfig
		},
	},
	{
		name: "a pooler that keeps sessions", check: "notify", severity: doctor.Note, says: "keeps a session for each client", noSQL: true,
		inflict: func(p *patient) {
			p.config.Pool = testkit.Open(p, testkit.PgBouncer(p, p.pool.Config().ConnString(), "session"))
		},
	},
	{
		name: "a listen URL to another database", check: "notify", severity: doctor.Warning, says: "through the listen URL no notification arrives", noSQL: true,
		inflict: func(p *patient) {
			p.config.Listen = testdb.New(p.T).Config().ConnConfig
			p.config.Timeout = 500 * time.Millisecond
		},
	},
	{
		name: "a listen URL to nowhere", check: "notify", severity: doctor.Warning, says: "through the listen URL no notification arrives", noSQL: true,
		inflict: func(p *patient) {
			config, err := pgx.ParseConfig("postgres://" + testkit.ClosedAddress(p) + "/x")
			if err != nil {
				p.Fatal(err)
			}
			p.config.Listen = config
		},
	},
}

// setup is what puts the schema right.
func setup(p *patient) {
	p.Helper()
	if _, err := soniq.Setup(p.Context(), p.pool, soniq.Config{}); err != nil {
		p.Fatal(err)
	}
}

var schemaIllnesses = []illness{
	{
		name: "no tables", check: "schema", severity: doctor.Critical, says: "there are no Soniq tables in schema public", noSQL: true, heal: setup,
		inflict: func(p *patient) { p.pool = testkit.Open(p, testdb.EmptyURL(p)); p.config.Pool = p.pool },
	},
	{
		name: "no tables, and another check", check: "queues", severity: doctor.Critical, says: "there are no Soniq tables", noSQL: true, heal: setup,
		inflict: func(p *patient) { p.pool = testkit.Open(p, testdb.EmptyURL(p)); p.config.Pool = p.pool },
	},
	{
		name: "a pending migration", check: "schema", severity: doctor.Critical, says: "1 migrations are pending", noSQL: true, heal: setup,
		inflict: sql("delete from soniq_migrations where version = (select max(version) from soniq_migrations)"),
	},
	{
		name: "two sets of tables", check: "schema", severity: doctor.Note, says: "schema other has tables of Soniq as well", noSQL: true,
		inflict: func(p *patient) {
			if _, err := soniq.Setup(p.Context(), p.pool, soniq.Config{Schema: "other"}); err != nil {
				p.Fatal(err)
			}
		},
		heal: sql("drop schema other cascade"),
	},
	{
		name: "somebody's trigger", check: "additions", severity: doctor.Note, says: "trigger mine of public.soniq_dead_letter_jobs is not Soniq's",
		inflict: sql("create function mine() returns trigger language plpgsql as 'begin return null; end'",
			"create trigger mine after insert on soniq_dead_letter_jobs for each row execute function mine()"),
	},
	{
		name: "somebody's foreign key", check: "additions", severity: doctor.Note, says: "foreign key mine_job_fkey of mine to public.soniq_jobs",
		inflict: sql("create table mine (job uuid references soniq_jobs)"),
	},
	{
		name: "a rule", check: "additions", severity: doctor.Warning, says: "rule mine of public.soniq_jobs",
		inflict: sql("create rule mine as on delete to soniq_jobs do instead nothing"),
	},
	{
		name: "row-level security", check: "additions", severity: doctor.Note, says: "row-level security is on for public.soniq_jobs",
		inflict: sql("alter table soniq_jobs enable row level security"),
	},
	{
		name: "create for everybody", check: "trust", severity: doctor.Warning, says: "any role may create objects in schema public",
		inflict: sql("grant create on schema public to public"),
	},
	{
		name: "a stray trigger", check: "trust", severity: doctor.Warning, says: "trigger mine of table public.mine",
		inflict: sql("create table mine (n int)", "create trigger mine after insert on mine for each statement execute function soniq_jobs_inserted()"),
	},
	{
		name: "a function of another role's", check: "trust", severity: doctor.Warning, says: "function public.soniq_jobs_inserted() belongs to role", noSQL: true,
		inflict: func(p *patient) {
			p.exec("alter function soniq_jobs_inserted() owner to " + p.role())
			p.Cleanup(func() {
				_, _ = p.pool.Exec(context.Background(), "alter function soniq_jobs_inserted() owner to current_user")
			})
		},
		heal: sql("alter function soniq_jobs_inserted() owner to current_user"),
	},
	{
		name: "a worker that lacks a right", check: "rights", severity: doctor.Warning, says: "lacks rights that a worker needs",
		inflict: func(p *patient) {
			role := p.role()
			p.exec("grant select, insert, update, delete on all tables in schema public to " + role)
			p.exec("revoke insert on soniq_dead_letter_jobs from " + role)
			p.config.Pool = p.as(role)
		},
	},
	{
		name: "a worker that can't claim", check: "rights", severity: doctor.Critical, says: "lacks rights that a worker needs",
		inflict: func(p *patient) {
			role := p.role()
			p.exec("grant select, insert, update, delete on all tables in schema public to " + role)
			p.exec("revoke update on soniq_workers from " + role)
			p.config.Pool = p.as(role)
		},
	},
	{
		name: "a role that reads", check: "rights", severity: doctor.Note, says: "may not change jobs", noSQL: true,
		inflict: func(p *patient) {
			role := p.role()
			p.exec("grant select on all tables in schema public to " + role)
			p.config.Pool = p.as(role)
		},
	},
	{
		name: "other sessions can't be seen", check: "transactions", severity: doctor.Unknown, says: "sessions of other roles can't be looked at",
		inflict: func(p *patient) {
			p.session()
			p.config.Pool = p.as(p.role())
		},
	},
	{
		name: "a sequence that is behind", check: "identity", severity: doctor.Critical, says: "the sequence of soniq_dead_letter_audit.id is at 1, and there is 50 already",
		inflict: sql("insert into soniq_dead_letter_audit (id, dead_letter_id, action) overriding system value values (50, gen_random_uuid(), 'tag')",
			"select setval(pg_get_serial_sequence('soniq_dead_letter_audit', 'id'), 1)"),
	},
	{
		name: "a copy of a database", check: "identity", severity: doctor.Warning, says: "hooks hold still: this database is a copy", noSQL: true,
		inflict: sql("insert into soniq_incarnations (system_identifier, database_oid, timeline, how) values ('7', 7, 1, 'first')"),
		heal:    sql("delete from soniq_incarnations"),
	},
	{
		name: "autovacuum of a table off", check: "vacuum", severity: doctor.Warning, says: "autovacuum is off for public.soniq_jobs",
		inflict: sql("alter table soniq_jobs set (autovacuum_enabled = false)"),
	},
	{
		name: "dead rows", check: "vacuum", severity: doctor.Warning, says: "public.soniq_queues has ",
		inflict: func(p *patient) {
			p.exec("alter table soniq_queues set (autovacuum_enabled = off)")
			conn := p.session()
			p.on(conn, "insert into soniq_queues (name) select n::text from generate_series(1, 300) n")
			p.on(conn, "delete from soniq_queues")
			_ = conn.Close(p.Context()) // it tells its figures when it ends
			eventually.True(p, "the figures", func() bool {
				return testkit.Value[int](p, p.pool, "select coalesce(max(n_dead_tup), 0) from pg_stat_user_tables where relname = 'soniq_queues'") >= 300
			})
		},
	},
	{
		name: "bloat", check: "vacuum", severity: doctor.Warning, says: "public.soniq_queues has ",
		inflict: sql("insert into soniq_queues (name) select n || repeat('x', 1000) from generate_series(1, 3000) n", "delete from soniq_queues where name not like '3000%'", "analyze soniq_queues"),
	},
}

var driftIllnesses = []illness{
	{name: "trigger dropped", check: "drift", severity: doctor.Critical, says: "trigger soniq_jobs_inserted of soniq_jobs is missing", inflict: sql("drop trigger soniq_jobs_inserted on soniq_jobs")},
	{name: "trigger disabled", check: "drift", severity: doctor.Critical, says: "trigger soniq_jobs_inserted of soniq_jobs is disabled", inflict: sql("alter table soniq_jobs disable trigger soniq_jobs_inserted")},
	{name: "trigger for replicas", check: "drift", severity: doctor.Critical, says: "trigger soniq_jobs_inserted of soniq_jobs fires only for rows", inflict: sql("alter table soniq_jobs enable replica trigger soniq_jobs_inserted")},
	{name: "trigger always", check: "drift", severity: doctor.Critical, says: "fires for rows that replication brings too", inflict: sql("alter table soniq_jobs enable always trigger soniq_jobs_inserted")},
	{
		name: "trigger altered", check: "drift", severity: doctor.Critical, says: "trigger soniq_queue_resumed of soniq_queues was altered",
		inflict: sql("create or replace trigger soniq_queue_resumed after update on soniq_queues for each row when (false) execute function soniq_queue_resumed()"),
	},
	{
		name: "trigger of rows altered", check: "drift", severity: doctor.Critical, says: "trigger soniq_hook_changed of soniq_hooks was altered",
		inflict: sql("create or replace trigger soniq_hook_changed after delete on soniq_hooks for each row execute function soniq_hook_changed()"),
	},
	{
		name: "function altered", check: "drift", severity: doctor.Critical, says: "function public.soniq_jobs_inserted() was altered",
		inflict: sql("create or replace function soniq_jobs_inserted() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as 'begin return null; end'"),
	},
	{
		name: "function dropped", check: "drift", severity: doctor.Critical, says: "function soniq_queue_resumed() is missing",
		inflict: sql("drop function soniq_queue_resumed() cascade"),
	},
	{name: "function for everybody", check: "drift", severity: doctor.Critical, says: "can be executed by any role", inflict: sql("grant execute on function soniq_jobs_inserted() to public")},
	{name: "function with another path", check: "drift", severity: doctor.Critical, says: "looks names up in schemas where others", inflict: sql("alter function soniq_jobs_inserted() set search_path = public")},
	{name: "index dropped", check: "drift", severity: doctor.Warning, says: "index idx_soniq_jobs_claim of soniq_jobs is missing", inflict: sql("drop index idx_soniq_jobs_claim")},
	{name: "index invalid", check: "drift", severity: doctor.Warning, says: "index idx_soniq_jobs_claim of soniq_jobs is INVALID", inflict: sql("update pg_index set indisvalid = false where indexrelid = 'idx_soniq_jobs_claim'::regclass")},
	{
		name: "index of other columns", check: "drift", severity: doctor.Warning, says: "index idx_soniq_jobs_claim of soniq_jobs has another definition",
		inflict: sql("drop index idx_soniq_jobs_claim", "create index idx_soniq_jobs_claim on soniq_jobs (queue) where status = 'queued'"),
	},
	{name: "primary key dropped", check: "drift", severity: doctor.Critical, says: "primary key soniq_queues_pkey of soniq_queues is missing", inflict: sql("alter table soniq_queues drop constraint soniq_queues_pkey")},
	{name: "default lost", check: "drift", severity: doctor.Critical, says: "column queue of soniq_jobs has lost its default 'default'", inflict: sql("alter table soniq_jobs alter column queue drop default")},
	{name: "default changed", check: "drift", severity: doctor.Critical, says: "column max_attempts of soniq_jobs has the default 9, not 4", inflict: sql("alter table soniq_jobs alter column max_attempts set default 9")},
	{name: "default added", check: "drift", severity: doctor.Critical, says: "column dedup_key of soniq_jobs has the default 'x'", inflict: sql("alter table soniq_jobs alter column dedup_key set default 'x'")},
	{name: "null allowed", check: "drift", severity: doctor.Critical, says: "column job_name of soniq_jobs may be NULL", inflict: sql("alter table soniq_jobs alter column job_name drop not null")},
	{name: "null refused", check: "drift", severity: doctor.Critical, says: "column dedup_key of soniq_jobs may not be NULL", inflict: sql("alter table soniq_jobs alter column dedup_key set not null")},
	{name: "another type", check: "drift", severity: doctor.Critical, says: "column attempts of soniq_jobs is of type bigint, not integer", inflict: sql("alter table soniq_jobs alter column attempts type bigint")},
	{name: "column dropped", check: "drift", severity: doctor.Critical, says: "column cancel_requested_at of soniq_jobs is missing", inflict: sql("alter table soniq_jobs drop column cancel_requested_at cascade")},
	{name: "table dropped", check: "drift", severity: doctor.Critical, says: "table soniq_queues is missing", inflict: sql("drop table soniq_queues cascade")},
	{name: "column that nothing brings back", own: true, check: "drift", severity: doctor.Critical, says: "column job_name of soniq_dead_letter_jobs is missing, and nothing", noSQL: true, inflict: sql("alter table soniq_dead_letter_jobs drop column job_name cascade")},
}

const (
	addWorker = `insert into soniq_workers (id, hostname, pid, queues, version, last_heartbeat) values ('11111111-1111-1111-1111-111111111111', 'host-7', 7, '{served}', 'go/0', now())`
	addName   = `insert into soniq_task_registry (task_name, worker_id, last_seen_at) values ('known', '11111111-1111-1111-1111-111111111111', now())`
	addJob    = `insert into soniq_jobs (id, job_name, args, queue, created_at) select gen_random_uuid(), '%s', '{}', '%s', now() - interval '2 hours' from generate_series(1, 3)`
	addHook   = `insert into soniq_hooks (name, kind, url) values ('on-call', 'webhook', 'https://example.com')`
	addLetter = `insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason, original_created_at, moved_to_dead_letter_at)
		select gen_random_uuid(), 'j', '{}', 'q', 1, 1, 1, 'timeout', now(), now() - interval '%s' from generate_series(1, %d)`
	addDelivery = `insert into soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key, created_at) select id, 'e', gen_random_uuid(), '{}', 'g', now() - interval '1 hour' from soniq_hooks`
)

var fleetIllnesses = []illness{
	{
		name: "a silent worker", check: "workers", severity: doctor.Warning, says: "worker host-7:7 has been silent for 1h0m", noSQL: true,
		inflict: sql(addWorker, "update soniq_workers set last_heartbeat = now() - interval '1 hour'"),
		heal:    sql("update soniq_workers set status = 'stopped'"),
	},
	{
		name: "two releases", check: "workers", severity: doctor.Note, says: "live workers are of 2 releases", noSQL: true,
		inflict: sql(addWorker, "insert into soniq_workers (id, hostname, pid, version) values (gen_random_uuid(), 'b', 7, 'go/1')"),
	},
	{
		name: "jobs without a worker", check: "jobs", severity: doctor.Critical, says: "3 jobs are processing without a live worker", noSQL: true,
		inflict: sql(fmt.Sprintf(addJob, "j", "q"), "update soniq_jobs set status = 'processing', worker_id = gen_random_uuid(), updated_at = now() - interval '2 hours'"),
	},
	{
		name: "outcomes that wait", check: "jobs", severity: doctor.Warning, says: "1 outcomes could not be written, one for 1h", noSQL: true,
		inflict: sql("insert into soniq_kept_outcomes values (gen_random_uuid(), 1, '{}', now() - interval '1 hour')"),
	},
	{
		name: "no worker at all", check: "queues", severity: doctor.Critical, says: "3 due jobs wait in queue q, the oldest for 2h0m: no worker is alive", noSQL: true,
		inflict: sql(fmt.Sprintf(addJob, "j", "q")), heal: sql("delete from soniq_jobs"),
	},
	{
		name: "a queue that nobody serves", check: "queues", severity: doctor.Warning, says: "3 due jobs wait in queue q, the oldest for 2h0m: no live worker serves it", noSQL: true,
		inflict: sql(addWorker, fmt.Sprintf(addJob, "j", "q")), heal: sql("update soniq_workers set queues = '{q}'"),
	},
	{
		name: "a name that nobody handles", check: "queues", severity: doctor.Warning, says: "3 due jobs unknown wait in queue served, of which no live worker has a handler", noSQL: true,
		inflict: sql(addWorker, addName, fmt.Sprintf(addJob, "unknown", "served")),
	},
	{
		name: "a paused queue", check: "queues", severity: doctor.Note, says: "the queue is paused", noSQL: true,
		inflict: sql(addWorker, addName, fmt.Sprintf(addJob, "known", "served"), "insert into soniq_queues (name, paused_at) values ('served', now())"),
	},
	{
		name: "a backlog", check: "queues", severity: doctor.Warning, says: "its workers don't keep up", noSQL: true,
		inflict: sql(addWorker, addName, fmt.Sprintf(addJob, "known", "served")), heal: sql("delete from soniq_jobs"),
	},
	{
		name: "many dead letters", check: "dead-letters", severity: doctor.Warning, says: "6 dead letters wait", noSQL: true,
		inflict: sql(fmt.Sprintf(addLetter, "3 days", 6)), heal: sql("update soniq_dead_letter_jobs set state = 'resolved'"),
	},
	{
		name: "more deaths than before", check: "dead-letters", severity: doctor.Warning, says: "4 jobs died in the last hour, and 20 in the 24 hours before it", noSQL: true,
		inflict: sql(fmt.Sprintf(addLetter, "1 minute", 4), fmt.Sprintf(addLetter, "10 hours", 20)), heal: sql(fmt.Sprintf(addLetter, "10 hours", 20)),
	},
	{
		name: "a disabled hook", check: "hooks", severity: doctor.Warning, says: "hook on-call is disabled: it failed for five days", noSQL: true,
		inflict: sql(addHook, "update soniq_hooks set enabled = false, disabled_reason = 'it failed for five days'"), heal: sql("update soniq_hooks set enabled = true"),
	},
	{
		name: "a hook that was switched off", check: "hooks", severity: doctor.Note, says: "hook on-call is disabled", noSQL: true,
		inflict: sql(addHook, "update soniq_hooks set enabled = false"),
	},
	{
		name: "a hook that fails", check: "hooks", severity: doctor.Warning, says: "hook on-call has failed 7 times in a row, for 1h0m", noSQL: true,
		inflict: sql(addHook, "update soniq_hooks set failures = 7, failing_since = now() - interval '1 hour'"),
	},
	{
		name: "a hook that nobody sends", check: "hooks", severity: doctor.Warning, says: "hook on-call: 1 deliveries wait, the oldest for 1h0m: nobody sends them", noSQL: true,
		inflict: sql(addHook, addDelivery), heal: sql("delete from soniq_hook_deliveries"),
	},
	{
		name: "a hook whose variable is missing", check: "hooks", severity: doctor.Warning, says: "because its dispatchers lack SLACK_URL", noSQL: true,
		inflict: sql(addHook, addDelivery, "update soniq_hooks set lacks = 'SLACK_URL', lacks_at = now()"),
	},
	{
		name: "deliveries that were dropped", check: "hooks", severity: doctor.Note, says: "12 deliveries were dropped", noSQL: true,
		inflict: sql(addHook, "update soniq_hooks set dropped = 12"),
	},
}
