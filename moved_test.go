package soniq_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq"
	"soniq/internal/eventually"
)

const dieSQL = `
insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
  dead_letter_reason, original_created_at, moved_to_dead_letter_at)
values (gen_random_uuid(), $1, '{}', 'q', 1, 1, 1, 'timeout', now(), clock_timestamp())
returning moved_epoch`

// die writes a dead letter and returns its epoch.
func die(t *testing.T, db db, name string) int64 {
	t.Helper()
	return queryValue[int64](t, db, dieSQL, name)
}

// runSQL is the part of an epoch that tells the run of the server.
const runSQL = `(extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint & 1048575`

// foreignSQL makes a later epoch that another server began.
const foreignSQL = `
select setval('soniq_epochs', (((extract(epoch from clock_timestamp()) * 1000000)::bigint >> 20) + $1::bigint) << 20 | ((` + runSQL + `) # 1))`

// feed are the names of the dead letters that a reader sees from the beginning, in order.
func feed(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	return queryColumn[string](t, pool, `
		select job_name from soniq_dead_letter_feed
		where (moved_epoch, moved_xid, id) > ('0'::bigint, '0'::xid8, '00000000-0000-0000-0000-000000000000'::uuid)
		order by moved_epoch, moved_xid, id`)
}

// expectFeed waits for what a reader sees: transactions of other databases may hold it up.
func expectFeed(t *testing.T, pool *pgxpool.Pool, want ...string) {
	t.Helper()
	eventually.True(t, fmt.Sprintf("a reader sees %q", want), func() bool { return slices.Equal(feed(t, pool), want) })
}

func TestEpoch_everyInsertHasOne(t *testing.T) {
	t.Parallel()
	pool := emptyPool(t)
	setup(t, pool)
	first := die(t, pool, "one")
	if !queryValue[bool](t, pool, `select $1::bigint & 1048575 = `+runSQL, first) {
		t.Errorf("the epoch %d is not this server's", first)
	}
	for _, level := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
		tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
		if err != nil {
			t.Fatal(err)
		}
		if e := die(t, tx, string(level)); e != first {
			t.Errorf("%s: epoch %d, want %d", level, e, first)
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// A role with rights on the table alone.
	poor := newRole(t, pool, `grant insert, select on soniq_dead_letter_jobs to %s`)
	if e := die(t, poor.connect(t, pool), "poor"); e != first {
		t.Errorf("a role that may only insert: epoch %d, want %d", e, first)
	}
	// What a role sets in its session is not taken.
	exec(t, pool, `do $$ begin perform set_config('soniq.epoch', 'x', true); `+
		strings.ReplaceAll(strings.ReplaceAll(dieSQL, "$1", "'set'"), "returning moved_epoch", "")+`; end $$`)
	// A second death under an id, as 0.1.0 writes it.
	exec(t, pool, `update soniq_dead_letter_jobs set moved_epoch = 7 where job_name = 'one'`)
	exec(t, pool, `
		insert into soniq_dead_letter_jobs as d
		select * from soniq_dead_letter_jobs where job_name = 'one'
		on conflict (id) do update
		set moved_xid = pg_current_xact_id(), moved_to_dead_letter_at = clock_timestamp(), job_name = 'again'`)
	if odd := queryColumn[string](t, pool, `select job_name || moved_epoch from soniq_dead_letter_jobs where moved_epoch <> $1`, first); len(odd) > 0 {
		t.Errorf("another epoch than %d: %q", first, odd)
	}
	expectFeed(t, pool, "read committed", "repeatable read", "serializable", "poor", "set", "again")
}

// After a move the next death has a later epoch than all that is known, and rows of another server are
// readable whatever their transaction numbers.
func TestEpoch_afterAMove(t *testing.T) {
	t.Parallel()
	pool := emptyPool(t)
	setup(t, pool)
	exec(t, pool, foreignSQL, 5)
	old := queryValue[int64](t, pool, `select last_value from soniq_epochs`)
	exec(t, pool, `insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
		dead_letter_reason, original_created_at, moved_to_dead_letter_at, moved_xid, moved_epoch)
		select gen_random_uuid(), 'old' || n, '{}', 'q', 1, 1, 1, 'timeout', now(), now(), (1000000000 + n)::text::xid8, $1
		from generate_series(1, 3) n`, old)
	if got := feed(t, pool); !slices.Equal(got, []string{"old1", "old2", "old3"}) {
		t.Errorf("a reader sees %q of the other server's", got)
	}
	// The first death is in a transaction that stays open: others don't wait for it.
	open, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Rollback(t.Context()) }()
	exec(t, open, `select pg_current_xact_id()`)
	snapshot, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.Serializable})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = snapshot.Rollback(t.Context()) }()
	exec(t, snapshot, `select count(*), pg_current_xact_id() from soniq_dead_letter_jobs`)
	e := die(t, open, "open")
	if e <= old {
		t.Errorf("epoch %d after %d", e, old)
	}
	if again := die(t, pool, "beside"); again != e {
		t.Errorf("epochs %d and %d in one run", e, again)
	}
	if again := die(t, snapshot, "snapshot"); again != e {
		t.Errorf("epochs %d and %d in one run", e, again)
	}
	if err := snapshot.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := feed(t, pool); !slices.Equal(got, []string{"old1", "old2", "old3"}) {
		t.Errorf("a reader sees %q while a transaction before them is open", got)
	}
	if err := open.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectFeed(t, pool, "old1", "old2", "old3", "open", "snapshot", "beside")
	// Of the rows only the table knows the latest epoch, as after a logical switch-over.
	exec(t, pool, foreignSQL, 0)
	exec(t, pool, `update soniq_dead_letter_jobs set moved_epoch = moved_epoch + (20 << 20) where job_name = 'old3'`)
	latest := queryValue[int64](t, pool, `select max(moved_epoch) from soniq_dead_letter_jobs`)
	if e := die(t, pool, "last"); e <= latest {
		t.Errorf("epoch %d after %d", e, latest)
	}
}

// A session that goes on keeps its epoch, and notices that rows with a later one came without any trigger of
// ours, as by logical replication.
func TestEpoch_ofASessionThatGoesOn(t *testing.T) {
	t.Parallel()
	pool := emptyPool(t)
	setup(t, pool)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	first := die(t, conn.Conn(), "first")
	exec(t, conn.Conn(), `begin`)
	exec(t, conn.Conn(), `set local session_replication_role = replica`)
	exec(t, conn.Conn(), strings.ReplaceAll(dieSQL, "$1", "'later'"))
	exec(t, conn.Conn(), `update soniq_dead_letter_jobs set moved_epoch = moved_epoch + (5 << 20) where job_name = 'later'`)
	exec(t, conn.Conn(), `commit`)
	later := queryValue[int64](t, pool, `select max(moved_epoch) from soniq_dead_letter_jobs`)
	if later <= first {
		t.Fatalf("epoch %d of the later rows, and %d of the first", later, first)
	}
	eventually.True(t, "a later epoch", func() bool { return die(t, conn.Conn(), "then") > later })
	// Another session's epoch is taken at once; so is the first after a rollback, or a reset by a pooler.
	last := die(t, conn.Conn(), "last")
	if e := die(t, pool, "beside"); e != last {
		t.Errorf("another session has the epoch %d, want %d", e, last)
	}
	for _, undo := range []string{`begin; ` + strings.ReplaceAll(dieSQL, "$1", "'undone'") + `; rollback`, `reset all`} {
		if _, err := conn.Conn().PgConn().Exec(t.Context(), undo).ReadAll(); err != nil {
			t.Fatal(err)
		}
		if e := die(t, conn.Conn(), undo); e != last {
			t.Errorf("after %q the epoch is %d, want %d", undo, e, last)
		}
	}
}

// Short texts take a shorter way to the payload, which must say the same in the same form.
func TestPayload_isTheSameEitherWay(t *testing.T) {
	t.Parallel()
	pool := emptyPool(t)
	setup(t, pool)
	if odd := queryColumn[string](t, pool, `
		with texts (x) as (
		  values ('a'), (''), ('"'), ('\'), (E'a\nb\t\u0001'), ('ä€😀</script>'), (repeat('x', 150)), (repeat(E'\u0001', 130))
		)
		select p.payload
		from texts name
		cross join (table texts union all select null) kind (x)
		cross join (table texts union all select null) fingerprint (x)
		cross join (values (null::uuid), ('0f3a8a43-46ab-4ab1-8b7b-0c3c3a2f7f10')) origin (id)
		cross join (values ('2026-05-04 09:12:33.120045+02'::timestamptz), ('infinity'), ('0044-03-15 BC')) moved (at)
		cross join lateral (
		  select soniq_dead_letter_payload('1f3a8a43-46ab-4ab1-8b7b-0c3c3a2f7f10', name.x, 'q'||left(name.x, 2), 'timeout', kind.x, fingerprint.x, -4, moved.at, origin.id) as payload
		) p
		cross join lateral (select case when octet_length(name.x || coalesce(kind.x, '') || coalesce(fingerprint.x, '')) < 200 then 120 else 24 end as room) r
		where p.payload is distinct from p.payload::jsonb::text
		  or octet_length(p.payload) >= 1000
		  or (p.payload not like '%"truncated"%') <> (greatest(length(name.x), length(kind.x), length(fingerprint.x)) <= r.room)
		  or p.payload not like '%"truncated"%' and p.payload::jsonb is distinct from jsonb_strip_nulls(jsonb_build_object(
		    'v', 1, 'id', '1f3a8a43-46ab-4ab1-8b7b-0c3c3a2f7f10', 'job_name', name.x, 'queue', 'q'||left(name.x, 2), 'reason', 'timeout',
		    'kind', kind.x, 'fingerprint', fingerprint.x, 'attempts', -4, 'replay_of', origin.id,
		    'moved_at', to_char(moved.at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')))`); len(odd) > 0 {
		t.Errorf("%d payloads are not as they should be, such as %s", len(odd), odd[0])
	}
}

// A hooks table that can't be read never makes a move fail.
func TestHooks_brokenTable_failsNoDeath(t *testing.T) {
	t.Parallel()
	for _, broken := range []string{
		`drop table soniq_hooks cascade`,
		`alter table soniq_hooks rename to elsewhere`,
		`alter table soniq_hook_deliveries rename to elsewhere; insert into soniq_hooks (name, kind, url) values ('all', 'webhook', 'https://example.com/')`,
	} {
		pool := emptyPool(t)
		setup(t, pool)
		if _, err := pool.Exec(t.Context(), broken, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
		die(t, pool, "dies")
	}
}

// A dump's rows are no news, whatever brings them back; deaths are.
func TestEpoch_rowsOfADumpAreNotAnnounced(t *testing.T) {
	t.Parallel()
	pool := emptyPool(t)
	setup(t, pool)
	exec(t, pool, `insert into soniq_hooks (name, kind, url) values ('all', 'webhook', 'https://example.com/')`)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	exec(t, conn.Conn(), `listen soniq_dead_letter`)
	columns := "id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason, original_created_at, moved_to_dead_letter_at, moved_xid, moved_epoch"
	const row = "%s\t%s\t{}\tq\t1\t1\t1\ttimeout\t2026-01-01\t2026-01-01\t%s\t%s\n"
	xid := queryValue[string](t, pool, `select pg_current_xact_id()::text`)
	var text strings.Builder
	for i, r := range [][2]string{
		{"3000000000", "0"},
		{"3", "1796088732742752"},
		{xid, "1796088732742752"},
		// The number of the very transaction that restores, of another server.
		{"@", "1796088732742752"},
	} {
		fmt.Fprintf(&text, row, fmt.Sprintf("00000000-0000-4000-8000-%012d", i), fmt.Sprintf("dump%d", i), r[0], r[1])
	}
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	self := queryValue[string](t, tx, `select pg_current_xact_id()::text`)
	if _, err := tx.Conn().PgConn().CopyFrom(t.Context(), strings.NewReader(strings.ReplaceAll(text.String(), "@", self)),
		"copy soniq_dead_letter_jobs ("+columns+") from stdin"); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	die(t, conn.Conn(), "news")
	n, err := conn.Conn().WaitForNotification(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(n.Payload, `"news"`) {
		t.Errorf("announced %s", n.Payload)
	}
	if got := queryColumn[string](t, pool, `select facts ->> 'job_name' from soniq_hook_deliveries`); !slices.Equal(got, []string{"news"}) {
		t.Errorf("the hook gets %q", got)
	}
	if odd := queryValue[int](t, pool, `select count(*) from soniq_dead_letter_jobs where job_name like 'dump%' and moved_epoch not in (0, 1796088732742752)`); odd != 0 {
		t.Errorf("%d rows have lost their epoch", odd)
	}
}

// A broken epoch never makes a move fail.
func TestEpoch_neverFailsAnInsert(t *testing.T) {
	t.Parallel()
	pool := emptyPool(t)
	setup(t, pool)
	exec(t, pool, `drop sequence soniq_epochs`)
	if e := die(t, pool, "without"); e != 0 {
		t.Errorf("epoch %d without its sequence", e)
	}
}

// Where the schema gets another name, or functions and triggers stay behind, setup puts right what it says is
// wrong.
func TestSetup_schemaRenamed_mendsTheFunctions(t *testing.T) {
	t.Parallel()
	pool := emptyPool(t)
	setup(t, pool, "app")
	exec(t, pool, `alter schema app rename to app2`)
	const enqueueSQL = `insert into app2.soniq_jobs (id, job_name, args) values (gen_random_uuid(), 'x', '{}')`
	rows, err := pool.Query(t.Context(), enqueueSQL)
	if err == nil {
		rows.Close()
		err = rows.Err()
	}
	if err == nil {
		t.Error("this test needs no mending any more: an insert works after the schema was renamed")
	}
	findings, err := soniq.Inspect(t.Context(), pool, soniq.Config{Schema: "app2"})
	if err != nil || !slices.ContainsFunc(findings, func(f soniq.Finding) bool {
		return strings.Contains(f.Problem, "of Soniq are not this release's") && strings.Contains(f.Remedy, "soniq setup")
	}) {
		t.Errorf("findings %v, %v", findings, err)
	}
	if result := setup(t, pool, "app2"); len(result.Applied) > 0 || !strings.Contains(strings.Join(result.Mended, "; "), "put back the body of") {
		t.Errorf("setup did %+v", result)
	}
	exec(t, pool, enqueueSQL)
	exec(t, pool, strings.ReplaceAll(strings.ReplaceAll(dieSQL, "$1", "'renamed'"), "soniq_dead", "app2.soniq_dead"))
	if again := setup(t, pool, "app2"); len(again.Mended) > 0 {
		t.Errorf("a second setup did %+v", again)
	}
}

// Rows came by logical replication, and sequences did not.
func TestSetup_identityColumnsBehind_goOn(t *testing.T) {
	t.Parallel()
	pool := emptyPool(t)
	setup(t, pool)
	exec(t, pool, `insert into soniq_dead_letter_audit (id, dead_letter_id, action) overriding system value values (100, gen_random_uuid(), 'tag')`)
	exec(t, pool, `alter sequence soniq_migrations_id_seq restart; delete from soniq_migrations where version = '0175'`)
	exec(t, pool, `drop table soniq_incarnations`)
	result := setup(t, pool)
	if !slices.Equal(result.Applied, []string{"0175_soniq_go_incarnations"}) {
		t.Errorf("setup did %+v", result)
	}
	exec(t, pool, recordSQL)
	if again := setup(t, pool); len(again.Mended) > 0 {
		t.Errorf("a second setup did %+v", again)
	}
}

const recordSQL = `insert into soniq_dead_letter_audit (dead_letter_id, action) values (gen_random_uuid(), 'tag')`

// Records of the history came from elsewhere and their sequence did not: whoever writes the next ones notices
// nothing, also side by side, at any isolation level but serializable, and without a right to the sequence.
func TestAudit_sequenceBehind_isSetRightByWhoeverWrites(t *testing.T) {
	t.Parallel()
	pool := emptyPool(t)
	setup(t, pool)
	poor := newRole(t, pool, `grant insert on soniq_dead_letter_audit to %s`)
	for round := range 5 {
		exec(t, pool, `
			insert into soniq_dead_letter_audit (id, dead_letter_id, action) overriding system value
			select coalesce((select max(id) from soniq_dead_letter_audit), 0) + n, gen_random_uuid(), 'tag' from generate_series(1, 50) n`)
		start := make(chan struct{})
		group, ctx := errgroup.WithContext(t.Context())
		for i := range 8 {
			level := []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead}[i%2]
			group.Go(func() error {
				<-start
				return pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: level}, func(tx pgx.Tx) error {
					for range 3 {
						if _, err := tx.Exec(ctx, recordSQL); err != nil {
							return err
						}
					}
					return nil
				})
			})
		}
		close(start)
		if err := group.Wait(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	exec(t, pool, `insert into soniq_dead_letter_audit (id, dead_letter_id, action) overriding system value values (100000, gen_random_uuid(), 'tag')`)
	exec(t, poor.connect(t, pool), recordSQL)
	if n, next := queryValue[int](t, pool, `select count(*) from soniq_dead_letter_audit`), queryValue[int](t, pool, `select max(id) from soniq_dead_letter_audit`); n != 5*(50+24)+2 || next != 100001 {
		t.Errorf("%d records, the last is %d", n, next)
	}
}
