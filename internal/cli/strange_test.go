package cli_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
)

// strangeRows are rows that the tables take and that no program of ours writes. Each
// statement adds one strange value at a time beside an ordinary row.
const strangeRows = `
create function pg_temp.deep(n integer) returns jsonb language sql as
  $$ select ('{"deep": ' || repeat('[', n) || repeat(']', n) || '}')::jsonb $$;
create function pg_temp.objects(n integer) returns jsonb language sql as
  $$ select (repeat('{"a":', n) || '1' || repeat('}', n))::jsonb $$;
create temporary table strange (value jsonb);
insert into strange
values
  (pg_temp.deep(12000)), (pg_temp.objects(6000)), (pg_temp.deep(998)), (pg_temp.deep(1001)), ('[]'), ('7'), ('"text"'), ('null'), ('{"n": 1e131071}'),
  (jsonb_build_object('long', repeat('x', 300000))), (jsonb_build_object(repeat('k', 20000), repeat('y', 20000)));

insert into soniq_dead_letter_jobs (
  id, job_name, args, queue, priority, max_attempts, attempts, last_error, dead_letter_reason,
  original_created_at, moved_to_dead_letter_at, tags, errors, resurrection_count, last_resurrection_at, scheduled_at, created_at
)
select gen_random_uuid(), 'args', value, 'q', 1, 3, 3, 'e', 'timeout', now(), now(), null, null::jsonb, null, null::timestamptz, null::timestamptz, now() from strange
union all
select gen_random_uuid(), 'tags', '{}', 'q', 1, 3, 3, 'e', 'timeout', now(), now(), value, null, 0, null, null, now() from strange
union all
select gen_random_uuid(), 'errors', '{}', 'q', 1, 3, 3, 'e', 'timeout', now(), now(), null, value, 0, null, null, now() from strange
union all
select gen_random_uuid(), 'error', '{}', 'q', 1, 3, 3, 'e', 'timeout', now(), now(), null, jsonb_build_array(jsonb_build_object('attempt', value, 'message', value, 'failed_at', value)), 0, null, null, now() from strange
union all
select gen_random_uuid(), 'times', '{}', 'q', 1, 3, 3, 'e', 'timeout', t, t, null, null, 0, t, t, t from unnest('{infinity,-infinity,4713-01-01 BC,294276-01-01}'::timestamptz[]) t
union all
select gen_random_uuid(), repeat('n', 3000), '{}', repeat('q', 3000), -2147483648, -1, 2147483647, repeat('long ', 100000), repeat('r', 3000), now(), now(), null, null, -1, null, null, null;

insert into soniq_jobs (id, job_name, args, status, result, errors, created_at, updated_at, scheduled_at, expires_at, cancel_requested_at, last_error)
select gen_random_uuid(), 'args', value, 'done', null::jsonb, null::jsonb, now(), now(), null::timestamptz, null::timestamptz, null::timestamptz, null from strange
union all
select gen_random_uuid(), 'result', '{}', 'done', value, null, now(), now(), null, null, null, null from strange
union all
select gen_random_uuid(), 'errors', '{}', 'queued', null, value, now(), now(), now() + interval '1d', null, null, null from strange
union all
select gen_random_uuid(), 'times', '{}', s, null, null, t, t, t, t, t, repeat('long ', 100000)
from unnest('{infinity,-infinity,4713-01-01 BC,294276-01-01}'::timestamptz[]) t, unnest('{queued,processing,done,cancelled}'::text[]) s
union all
select gen_random_uuid(), repeat('n', 3000), '{}', 'queued', null, null, null, null, null, null, null, null;

insert into soniq_dead_letter_audit (dead_letter_id, action, actor, detail, at, job_id)
select '00000000-0000-0000-0000-000000000001', a, repeat('w', 3000), value, t, gen_random_uuid()
from strange, unnest('{tag,replay}'::text[]) a, unnest('{infinity}'::timestamptz[]) t;
insert into soniq_dead_letter_operations (id, action, state, filter, options, total, done, created_at, updated_at, actor, comment, stopped_by)
select gen_random_uuid(), 'replay', 'stopped', value, value, -1, -1, t, t, repeat('w', 3000), repeat('c', 3000), repeat('s', 3000)
from strange, unnest('{infinity,-infinity}'::timestamptz[]) t;
insert into soniq_workers (id, hostname, pid, queues, last_heartbeat, started_at, metadata, status)
select gen_random_uuid(), repeat('h', 300), row_number() over (), case when t = 'infinity' then null else array[repeat('q', 3000), null] end, t, t, value, 'active'
from strange, unnest('{now,infinity,-infinity}'::timestamptz[]) t;
insert into soniq_queues values (repeat('q', 2000), 'infinity', repeat('w', 3000)), ('p', '-infinity', null), ('', now(), 'x');
insert into soniq_hooks (name, kind, url, settings, tags, failing_since, blocked_until, created_at, declared_at)
select 'h' || row_number() over (), k, 'https://example.com', value, value, t, t, t, t
from strange, unnest('{webhook,exec}'::text[]) k, unnest('{infinity}'::timestamptz[]) t;
insert into soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key, occurred_at, next_attempt_at, delivered_at, created_at, last_error, state)
select h.id, 'job.dead_lettered', gen_random_uuid(), h.settings, 'g', h.created_at, h.created_at, h.created_at, h.created_at, repeat('long ', 100000), 'pending'
from soniq_hooks h
limit 60;`

// The rows of their own, half of them.
const strangeOnesSQL = `
select 'dead-letter show ' || id from soniq_dead_letter_jobs where job_name in ('args', 'tags', 'times')
union all
select 'job ' || id from soniq_jobs where job_name in ('args', 'result', 'errors')`

// A row that no program of ours would write hides none of the others.
func TestStrangeRows_hideNoOther(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	id := clitest.Seed(t, pool, clitest.Letter{Job: "ordinary.job"}).String()
	clitest.Exec(t, pool, `insert into soniq_jobs (id, job_name, args, status) values ('00000000-0000-0000-0000-00000000000a', 'ordinary.job', '{}', 'done');`+strangeRows)
	s := clitest.NewShell(t, pool.Config().ConnString())
	for _, test := range []struct{ line, want string }{
		{"dead-letter list --limit 0", id},
		{"dead-letter list --limit 0 --filter *", id},
		{"dead-letter groups --limit 1000", "ordinary.job"},
		{"dead-letter stats", "ordinary.job"},
		{"dead-letter check --max 1000000", ""},
		{"dead-letter history --limit 1000", ""},
		{"dead-letter history 00000000-0000-0000-0000-000000000001", ""},
		{"dead-letter show " + id, "ordinary.job"},
		{"dead-letter replay --all --dry-run", ""},
		{"dead-letter delete --all --dry-run", ""},
		{"dead-letter cleanup --dry-run", ""},
		{"job list --limit 0", "ordinary.job"},
		{"job 00000000-0000-0000-0000-00000000000a", "ordinary.job"},
		{"status", ""},
		{"worker list", ""},
		{"queue list", ""},
		{"hooks list", ""},
		{"hooks deliveries --limit 1000", ""},
	} {
		for _, way := range []string{"", " --json"} {
			r := s.Run(strings.Fields(test.line + way)...)
			if r.Code != 0 || !strings.Contains(r.Out, test.want) {
				t.Errorf("%s: exit code %d, %.300q %.300q", test.line+way, r.Code, r.Err, r.Out)
			}
			if way != "" && !json.Valid([]byte(r.Out)) {
				t.Errorf("%s: no JSON: %.300q", test.line+way, r.Out)
			}
		}
	}
	rows, err := pool.Query(t.Context(), strangeOnesSQL)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range lines {
		if i%2 == 0 {
			line += " --json"
		}
		if r := s.Run(strings.Fields(line)...); r.Code != 0 {
			t.Errorf("%s: exit code %d, %.300q", line, r.Code, r.Err)
		}
	}
}
