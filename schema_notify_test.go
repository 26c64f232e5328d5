package soniq_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/testdb"
)

// insertJobSQL is what someone types into psql.
const insertJobSQL = `insert into soniq_jobs (id, job_name, args) values (gen_random_uuid(), 'n', '{}')`

func TestJobTrigger_insert_announcesTheQueue(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	comeWaiting(t, pool)
	l := listen(t, pool, "soniq_new_job")
	insert := func(columns, values string) string {
		return `insert into soniq_jobs (id, job_name, args, ` + columns + `) values (gen_random_uuid(), 'n', '{}', ` + values + `)`
	}
	for _, c := range []struct {
		name, sql string
		want      []string
	}{
		{"bare row", insertJobSQL, []string{"default"}},
		{"named queue", insert("queue", "'mail'"), []string{"mail"}},
		{"NULL queue", insert("queue", "null"), []string{"default"}},
		{"longest queue name that fits", insert("queue", "repeat('q', 7999)"), []string{strings.Repeat("q", 7999)}},
		{"too long a queue name", insert("queue", "repeat('q', 8000)"), []string{""}},
		{"too long in bytes", insert("queue", "repeat('é', 4500)"), []string{""}},
		{"due in 5 minutes", insert("scheduled_at", "now() + interval '5 minutes'"), []string{"default"}},
		{"due in an hour", insert("scheduled_at", "now() + interval '1 hour'"), nil},
		{"due at no time", insert("scheduled_at", "'infinity'"), nil},
		{"overdue", insert("scheduled_at", "'-infinity'"), []string{"default"}},
		{"not queued", insert("status", "'done'"), nil},
		{"some queued", insertRows("case when i % 2 = 0 then 'a' else 'b' end", "case when i % 2 = 0 then 'queued' else 'processing' end"), []string{"a"}},
		{"1,000 rows, 3 queues", insertRows("case i % 4 when 0 then 'a' when 1 then 'b' when 2 then null else 'default' end", "'queued'"), []string{"a", "b", "default"}},
		{"no rows", insertJobSQL[:strings.Index(insertJobSQL, "values")] + `select null, null, null where false`, nil},
		{"silenced", `begin; set local soniq.notify = off; ` + insertJobSQL + `; commit`, nil},
		{"silence ends with its transaction", insertJobSQL, []string{"default"}},
		{"two statements, one transaction", `begin; ` + insertJobSQL + `; ` + insertJobSQL + `; commit`, []string{"default"}},
		{"rolled back", `begin; ` + insertJobSQL + `; rollback`, nil},
	} {
		exec(t, pool, c.sql)
		if got := l.heard(t, pool); !sameSet(got, c.want) {
			t.Errorf("%s: announced %.200q, want %.200q", c.name, got, c.want)
		}
	}
}

func insertRows(queue, status string) string {
	return fmt.Sprintf(`
		insert into soniq_jobs (id, job_name, args, queue, status)
		select gen_random_uuid(), 'n', '{}', %s, %s from generate_series(1, 1000) i`, queue, status)
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func TestJobTrigger_conflict_announcesNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	const insert = `insert into soniq_jobs (id, job_name, args, dedup_key) values (gen_random_uuid(), 'n', '{}', 'k') `
	exec(t, pool, insert)
	comeWaiting(t, pool)
	l := listen(t, pool, "soniq_new_job")
	exec(t, pool, insert+`on conflict do nothing`)
	exec(t, pool, insert+`on conflict (dedup_key) where status = 'queued' and dedup_key is not null
		do update set dedup_key = excluded.dedup_key`)
	if got := l.heard(t, pool); len(got) > 0 {
		t.Errorf("announced %q", got)
	}
}

func TestJobTrigger_update_announcesWhatBecameRunnable(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	comeWaiting(t, pool)
	l := listen(t, pool, "soniq_new_job")
	for _, c := range []struct {
		name, from, set string
		want            []string
	}{
		{"retry", "processing", "status = 'queued'", []string{"mail"}},
		{"retry in 5 minutes", "processing", "status = 'queued', scheduled_at = now() + interval '5 minutes'", []string{"mail"}},
		{"retry in an hour", "processing", "status = 'queued', scheduled_at = now() + interval '1 hour'", nil},
		{"uncancelled", "cancelled", "status = 'queued'", []string{"mail"}},
		{"run again", "done", "status = 'queued', queue = null", []string{"default"}},
		{"brought forward", "queued", "scheduled_at = now()", []string{"mail"}},
		{"put off", "queued", "scheduled_at = now() + interval '1 hour'", nil},
		{"moved to another queue", "queued", "queue = 'bulk'", []string{"bulk"}},
		{"renamed", "queued", "job_name = 'm'", []string{"mail"}},
		{"claimed", "queued", "status = 'processing', attempts = 1", nil},
		{"done", "processing", "status = 'done'", nil},
		{"cancelled", "queued", "status = 'cancelled'", nil},
		{"other columns", "queued", "priority = 1, last_error = 'e', updated_at = now(), attempts = 2", nil},
		{"nothing", "queued", "status = status, queue = queue", nil},
		{"column of one that runs", "processing", "queue = 'bulk', scheduled_at = now()", nil},
		{"too long a queue name", "processing", "status = 'queued', queue = repeat('q', 9000)", []string{""}},
	} {
		exec(t, pool, `truncate soniq_jobs`)
		exec(t, pool, `insert into soniq_jobs (id, job_name, args, queue, status) values (gen_random_uuid(), 'n', '{}', 'mail', '`+c.from+`')`)
		_ = l.heard(t, pool)
		update := `update soniq_jobs set ` + c.set
		exec(t, pool, `begin; set local soniq.notify = off; `+update+`; rollback`)
		exec(t, pool, update)
		if got := l.heard(t, pool); !sameSet(got, c.want) {
			t.Errorf("%s: announced %.200q, want %.200q", c.name, got, c.want)
		}
	}
	exec(t, pool, `update soniq_jobs set status = 'processing'`)
	exec(t, pool, `begin; set local soniq.notify = off; update soniq_jobs set status = 'queued'; commit`)
	if got := l.heard(t, pool); len(got) > 0 {
		t.Errorf("silenced update announced %.200q", got)
	}
}

func TestJobTrigger_manyRetriesInOneStatement_areOneNotification(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, insertRows("'mail'", "'processing'"))
	comeWaiting(t, pool)
	l := listen(t, pool, "soniq_new_job")
	exec(t, pool, `update soniq_jobs set status = 'queued'`)
	if got := l.heard(t, pool); !sameSet(got, []string{"mail"}) {
		t.Errorf("announced %d times", len(got))
	}
}

// Two-phase commit refuses a transaction that has notified.
func TestTriggers_silenced_allowTwoPhaseCommit(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	dead := newDeadLetter(t, pool, nil)
	// Names of prepared transactions are the whole server's.
	name := queryValue[string](t, pool, `select 'p' || gen_random_uuid()`)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	exec(t, conn, `begin; set local soniq.notify = off; `+insertJobSQL+`;
		update soniq_jobs set scheduled_at = now();
		update soniq_dead_letter_jobs set moved_to_dead_letter_at = clock_timestamp();
		insert into soniq_dead_letter_jobs select (jsonb_populate_record(d, jsonb_build_object('id', gen_random_uuid()))).*
		from soniq_dead_letter_jobs d;
		prepare transaction '`+name+`'`)
	exec(t, conn, `commit prepared '`+name+`'`)
	if n := queryValue[int](t, pool, `select (select count(*) from soniq_jobs) + (select count(*) from soniq_dead_letter_jobs where id <> $1)`, dead); n != 2 {
		t.Errorf("%d rows came of the prepared transaction, want 2", n)
	}
}

// hostileSQL is what a role may put in its own way: functions and a table of
// the names that the triggers use.
const hostileSQL = `
create schema %[1]s authorization %[1]s;
set role %[1]s;
create function %[1]s.pg_notify(text, text) returns void language plpgsql as $$ begin raise 'hostile pg_notify'; end $$;
create function %[1]s.octet_length(text) returns int language plpgsql as $$ begin raise 'hostile octet_length'; end $$;
create function %[1]s.now() returns timestamptz language plpgsql as $$ begin raise 'hostile now'; end $$;
create function %[1]s.soniq_notify_queue(text) returns void language plpgsql as $$ begin raise 'hostile soniq_notify_queue'; end $$;
create table %[1]s.soniq_dead_letter_jobs (id uuid, state text, replay_of uuid, replay_job_id uuid);
create temporary table soniq_dead_letter_jobs (id uuid, state text, replay_of uuid, replay_job_id uuid);
create temporary table soniq_new_rows (queue text, status text, scheduled_at timestamptz);`

// withRole gives a connection to someone who may use soniq_jobs and nothing
// else of Soniq.
func withRole(t *testing.T, pool *pgxpool.Pool) (role string, conn *pgx.Conn) {
	t.Helper()
	// Roles are the whole server's.
	role = queryValue[string](t, pool, `select 'soniq_role_' || translate(gen_random_uuid()::text, '-', '')`)
	exec(t, pool, fmt.Sprintf(`
		create role %[1]s;
		grant insert, select, update, delete on soniq_jobs to %[1]s;
		revoke all on all functions in schema public from public`, role))
	conn, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		if err := conn.Close(ctx); err != nil {
			t.Errorf("close connection: %v", err)
		}
		if _, err := pool.Exec(ctx, fmt.Sprintf(`drop owned by %[1]s cascade; drop role %[1]s`, role), pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Errorf("drop role: %v", err)
		}
	})
	exec(t, conn, fmt.Sprintf(hostileSQL, role))
	return role, conn
}

func TestTriggers_roleWithRightsOnJobsAlone_worksUnderAnySearchPath(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	role, conn := withRole(t, pool)
	comeWaiting(t, pool)
	l := listen(t, pool, "soniq_new_job")
	for _, path := range []string{"''", role, role + ", pg_catalog, public", "pg_temp, " + role + ", pg_catalog", "public"} {
		exec(t, conn, `set search_path = `+path)
		exec(t, conn, `insert into public.soniq_jobs (id, job_name, args) values (pg_catalog.gen_random_uuid(), 'n', '{}')`)
		if got := l.heard(t, pool); !sameSet(got, []string{"default"}) {
			t.Errorf("search_path %s: insert announced %q", path, got)
		}
		exec(t, conn, `update public.soniq_jobs set status = 'processing'`)
		exec(t, conn, `update public.soniq_jobs set status = 'queued'`)
		if got := l.heard(t, pool); !sameSet(got, []string{"default"}) {
			t.Errorf("search_path %s: update announced %q", path, got)
		}
		exec(t, conn, `delete from public.soniq_jobs`)

		// What becomes of its replays shows in a table it has no rights on.
		for _, outcome := range []struct{ sql, want string }{
			{`update public.soniq_jobs set status = 'done' where id = $1`, "resolved"},
			{`update public.soniq_jobs set status = 'cancelled' where id = $1`, "dead"},
			{`delete from public.soniq_jobs where id = $1`, "dead"},
		} {
			dead := newDeadLetter(t, pool, nil)
			exec(t, conn, outcome.sql, newReplay(t, pool, dead))
			if got := state(t, pool, dead); got != outcome.want {
				t.Errorf("search_path %s: %s leaves it %s, want %s", path, outcome.sql, got, outcome.want)
			}
		}
		exec(t, conn, `delete from public.soniq_jobs`)

		// A request to cancel keeps a running job from its queue.
		dead := newDeadLetter(t, pool, nil)
		replay := newReplay(t, pool, dead)
		exec(t, conn, `update public.soniq_jobs set cancel_requested_at = pg_catalog.now() where id = $1`, replay)
		exec(t, conn, `update public.soniq_jobs set status = 'queued' where id = $1`, replay)
		if got := queryValue[string](t, pool, `select status from soniq_jobs where id = $1`, replay) + " " + state(t, pool, dead); got != "cancelled dead" {
			t.Errorf("search_path %s: a cancelled replay and its dead letter are %s", path, got)
		}
		exec(t, conn, `delete from public.soniq_jobs`)
		_ = l.heard(t, pool)
	}
}

func TestDeadLetterTrigger_eachDeath_isAnnounced(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	l := listen(t, pool, "soniq_dead_letter")
	dead := newDeadLetter(t, pool, nil)
	exec(t, pool, `
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at)
		select gen_random_uuid(), 'n', '{}', 'q', 1, 3, 3, 'timeout', now(), now() from generate_series(1, 100)`)
	if got := l.heard(t, pool); len(got) != 101 {
		t.Errorf("101 deaths made %d announcements", len(got))
	}
	exec(t, pool, `update soniq_dead_letter_jobs set moved_to_dead_letter_at = clock_timestamp() where id = $1`, dead)
	if got := l.heard(t, pool); len(got) != 1 || !strings.Contains(got[0], dead.String()) {
		t.Errorf("a second death announced %q", got)
	}
	exec(t, pool, `update soniq_dead_letter_jobs set state = 'replaying', tags = '{"a": 1}', resurrection_count = 1`)
	exec(t, pool, `delete from soniq_dead_letter_jobs`)
	for _, setting := range []string{"soniq.notify = off", "soniq.silent = on"} {
		exec(t, pool, `begin; set local `+setting+`;
			insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
			  dead_letter_reason, original_created_at, moved_to_dead_letter_at)
			values (gen_random_uuid(), 'n', '{}', 'q', 1, 3, 3, 'timeout', now(), now());
			update soniq_dead_letter_jobs set moved_to_dead_letter_at = clock_timestamp(); commit`)
	}
	if got := l.heard(t, pool); len(got) > 0 {
		t.Errorf("what is no death announced %q", got)
	}
}

// The channel's readers are told that a payload is a JSON object under 1,000
// bytes, whoever wrote the row.
func TestDeadLetterTrigger_hostileRow_payloadIsSmallJSON(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	l := listen(t, pool, "soniq_dead_letter")
	for _, text := range []string{"\x01", "\"\\", "é", "\U0001F600", "x", "\u2028"} {
		for _, n := range []int{1, 24, 120, 121, 5000} {
			exec(t, pool, `
				insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
				  dead_letter_reason, original_created_at, moved_to_dead_letter_at, replay_of, error_kind, fingerprint)
				select 'ffffffff-ffff-ffff-ffff-ffffffffffff', v, '{}', v, -2147483648, -2147483648, -2147483648,
				  v, now(), '294000-12-31 23:59:59.999999', gen_random_uuid(), v, v
				from (select substr(repeat($1, $2), 1, $2) as v) x
				on conflict (id) do update set job_name = excluded.job_name, queue = excluded.queue,
				  dead_letter_reason = excluded.dead_letter_reason, error_kind = excluded.error_kind,
				  fingerprint = excluded.fingerprint,
				  moved_to_dead_letter_at = soniq_dead_letter_jobs.moved_to_dead_letter_at - interval '1 microsecond'`,
				pgx.QueryExecModeExec, text, n)
			got := l.heard(t, pool)
			if len(got) != 1 {
				t.Fatalf("%d of %q: %d announcements", n, text, len(got))
			}
			var payload struct {
				JobName   string `json:"job_name"`
				Truncated bool   `json:"truncated"`
			}
			if err := json.Unmarshal([]byte(got[0]), &payload); err != nil || len(got[0]) >= 1000 {
				t.Errorf("%d of %q: %d bytes, %v", n, text, len(got[0]), err)
			}
			want := strings.Repeat(text, n)
			if cut := payload.JobName != string([]rune(want)[:min(n, len([]rune(want)))]); cut != payload.Truncated {
				t.Errorf("%d of %q: truncated is %t, and job_name has %d bytes", n, text, payload.Truncated, len(payload.JobName))
			}
		}
	}
	for _, moment := range []string{"infinity", "-infinity", "0044-03-15 00:00:00 BC"} {
		exec(t, pool, `update soniq_dead_letter_jobs set moved_to_dead_letter_at = $1::text::timestamptz`, moment)
		if got := l.heard(t, pool); len(got) != 1 || !json.Valid([]byte(got[0])) {
			t.Errorf("moved at %s: announced %q", moment, got)
		}
	}
}

// Two texts that together are more than a value can hold, as a producer may have
// written them. The dead letter is announced and handed to the hooks, and so are the
// others of its statement. Not parallel: the server needs some gigabytes for a moment. A constant would be
// computed by the planner first, and the default compression takes seconds.
func TestTriggers_hugeRow_isToldOfLikeAnother(t *testing.T) {
	pool := testdb.New(t)
	exec(t, pool, `insert into soniq_hooks (name, kind, events, tags) values ('h', 'log', '{job.dead_lettered,job.resolved}', null)`)
	exec(t, pool, `
		do $$
		begin
		  alter table soniq_jobs alter dedup_key set compression lz4, alter producer_id set compression lz4;
		  alter table soniq_dead_letter_jobs alter dedup_key set compression lz4, alter producer_id set compression lz4;
		exception when feature_not_supported then -- a server that was built without
		end
		$$`)
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, producer_id)
		select '00000000-0000-0000-0000-000000000001', 'huge', '{}', repeat(repeat('x', 1000), n) from generate_series(540000, 540000) n`)
	exec(t, pool, `update soniq_jobs set dedup_key = repeat(repeat('x', 1000), n), status = 'processing' from generate_series(540000, 540000) n`)
	exec(t, pool, `insert into soniq_jobs (id, job_name, args) values ('00000000-0000-0000-0000-000000000002', 'other', '{}')`)
	l := listen(t, pool, "soniq_dead_letter")
	exec(t, pool, `
		insert into soniq_dead_letter_jobs (
		  id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason, original_created_at, moved_to_dead_letter_at, producer_id, dedup_key
		)
		select id, job_name, args, 'q', 1, 1, 1, 'timeout', now(), now(), producer_id, dedup_key from soniq_jobs`)
	exec(t, pool, `update soniq_dead_letter_jobs set state = 'resolved'`)
	if got := l.heard(t, pool); len(got) != 2 {
		t.Errorf("announced %q", got)
	}
	if n := queryValue[int](t, pool, `select count(*) from soniq_hook_deliveries`); n != 4 {
		t.Errorf("%d deliveries, want 4", n)
	}
}
