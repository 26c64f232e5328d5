package incarnation_test

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/eventually"
	"soniq/internal/incarnation"
	"soniq/internal/pg"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

func TestMain(m *testing.M) { testdb.Main(m) }

func exec(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func TestView_Held(t *testing.T) {
	t.Parallel()
	now := incarnation.ID{System: "7000", Database: 5, Timeline: 3}
	replaced := time.Now()
	row := func(system string, database, timeline int64) incarnation.Row {
		return incarnation.Row{ID: incarnation.ID{System: system, Database: database, Timeline: timeline}}
	}
	old := row("6000", 5, 1)
	old.Replaced = &replaced
	for name, c := range map[string]struct {
		view incarnation.View
		want string
	}{
		"new":                     {incarnation.View{}, ""},
		"the one":                 {incarnation.View{Rows: []incarnation.Row{row("7000", 5, 3)}}, ""},
		"the one, after a move":   {incarnation.View{Rows: []incarnation.Row{old, row("7000", 5, 3)}}, ""},
		"the system is not told":  {incarnation.View{Rows: []incarnation.Row{row("", 5, 3)}}, ""},
		"no timeline is told":     {incarnation.View{Rows: []incarnation.Row{row("7000", 5, 0)}}, ""},
		"a standby":               {incarnation.View{Standby: true, Rows: []incarnation.Row{row("6000", 5, 3)}}, ""},
		"an old dump":             {incarnation.View{Ahead: true}, "has not had yet"},
		"a dump":                  {incarnation.View{Rows: []incarnation.Row{row("6000", 4, 3)}}, "on another server"},
		"a template":              {incarnation.View{Rows: []incarnation.Row{row("7000", 4, 3)}}, "on the same server"},
		"a promotion or a PITR":   {incarnation.View{Rows: []incarnation.Row{row("7000", 5, 2)}}, "a promoted standby or a recovery to a point in time"},
		"an older timeline":       {incarnation.View{Rows: []incarnation.Row{row("7000", 5, 4)}}, "an older state"},
		"rows came in":            {incarnation.View{Rows: []incarnation.Row{row("7000", 5, 3), row("6000", 5, 3)}}, "restored or replicated into"},
		"moved away, and is back": {incarnation.View{Rows: []incarnation.Row{old}}, "and back"},
	} {
		c.view.Now = now
		if got := c.view.Held(); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: held %q, want %q", name, got, c.want)
		}
	}
}

func TestGuard_adoptsAndHolds(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	var schema pg.Schema
	log := &testkit.Log{}
	guard := func() *incarnation.Guard {
		return incarnation.NewGuard(schema.Pool(pool), slog.New(slog.NewTextHandler(log, nil)))
	}
	held := func(g *incarnation.Guard) string {
		t.Helper()
		reason, err := g.Held(t.Context(), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		return reason
	}
	// The first program names the database.
	lasting := guard()
	if r := held(lasting); r != "" {
		t.Fatalf("a new database is held: %s", r)
	}
	v, err := incarnation.Read(t.Context(), schema.Pool(pool))
	if err != nil || len(v.Rows) != 1 || v.Rows[0].ID != v.Now || v.Rows[0].How != "first" || v.Now.System == "" || v.Now.Database == 0 || v.Now.Timeline == 0 {
		t.Fatalf("%+v, %v", v, err)
	}
	// On another timeline, a program that has worked with the one before takes it over; one that starts
	// can't tell.
	lasting.Promote()
	fresh := incarnation.NewGuard(schema.Pool(pool), slog.New(slog.DiscardHandler))
	fresh.Promote()
	if r := held(fresh); !strings.Contains(r, "promoted standby") {
		t.Errorf("a program that starts on a promoted standby: %q", r)
	}
	if r := held(lasting); r != "" {
		t.Errorf("the program that knew the primary holds: %s", r)
	}
	if r := held(fresh); r != "" {
		t.Errorf("and the other one still does: %s", r)
	}
	if text := log.String(); !strings.Contains(text, "has become its primary") {
		t.Errorf("the log: %s", text)
	}
	// A copy on another server holds, whoever looks, until it is adopted.
	exec(t, pool, `delete from soniq_incarnations`)
	exec(t, pool, `insert into soniq_incarnations (system_identifier, database_oid, timeline, how) values ('1', 1, 1, 'first')`)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- lasting.Run(ctx) }()
	eventually.True(t, "an ERROR that names the remedy", func() bool {
		text := log.String()
		return strings.Contains(text, "level=ERROR") && strings.Contains(text, "soniq adopt")
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if r := held(lasting); r == "" {
		t.Error("a copy is not held")
	}
	adopt(t, pool, incarnation.Options{By: "ops"})
	lasting = guard()
	if r := held(lasting); r != "" {
		t.Errorf("an adopted database holds: %s", r)
	}
}

// A failover may lose what the one before it has written, or come before a program has looked. Whoever lived through
// goes on, and whoever did not can't tell.
func TestGuard_failoversInARow_areAdoptedByWhoLivedThrough(t *testing.T) {
	t.Parallel()
	pool, log := testdb.New(t), slog.New(slog.DiscardHandler)
	for _, test := range []struct {
		name string
		// looks are the timelines on which the program looks, the first being that of the database's first row.
		looks []int64
		// table is the timeline that the table names then, and those that it names as replaced.
		table    int64
		replaced []int64
		now      int64
		held     bool
	}{
		{name: "one", looks: []int64{1}, table: 1, now: 2},
		{name: "two, of which it saw neither", looks: []int64{1}, table: 1, now: 3},
		{name: "the second has lost the row of the first", looks: []int64{1, 2}, table: 1, now: 3},
		{name: "and so has the third", looks: []int64{1, 2}, table: 1, now: 4},
		{name: "others have adopted the first", looks: []int64{1}, table: 2, replaced: []int64{1}, now: 3},
		{name: "an earlier one than it has known", looks: []int64{2, 3}, table: 1, now: 4, held: true},
		{name: "one that does not follow from what it knew", looks: []int64{1}, table: 2, now: 3, held: true},
		{name: "an earlier timeline", looks: []int64{1, 2, 3}, table: 3, replaced: []int64{1, 2}, now: 2, held: true},
		{name: "it has seen nothing", table: 1, now: 2, held: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			exec(t, pool, `delete from soniq_incarnations`)
			g := incarnation.NewGuard(pg.Schema{}.Pool(pool), log)
			look := func(timeline int64) string {
				t.Helper()
				g.OnTimeline(timeline)
				reason, err := g.Held(t.Context(), time.Now())
				if err != nil {
					t.Fatal(err)
				}
				return reason
			}
			for _, timeline := range test.looks {
				if r := look(timeline); r != "" {
					t.Fatalf("on timeline %d: held %q", timeline, r)
				}
			}
			v, err := incarnation.Read(t.Context(), pg.Schema{}.Pool(pool))
			if err != nil {
				t.Fatal(err)
			}
			exec(t, pool, `delete from soniq_incarnations`)
			const insert = `insert into soniq_incarnations (system_identifier, database_oid, timeline, how, replaced_at)
				values ($1, $2, $3, 'promotion', case when $4 then now() end)`
			exec(t, pool, insert, v.Now.System, v.Now.Database, test.table, false)
			for _, timeline := range test.replaced {
				exec(t, pool, insert, v.Now.System, v.Now.Database, timeline, true)
			}
			for range 2 {
				if r := look(test.now); (r != "") != test.held {
					t.Errorf("on timeline %d, where the table names %d: held %q", test.now, test.table, r)
				}
			}
		})
	}
}

// A disk that was set back, or its copy, is known to who has seen what came later.
func TestGuard_diskSetBack_isHeldByWhoKnowsBetter(t *testing.T) {
	t.Parallel()
	db := pg.Schema{}.Pool(testdb.New(t))
	guard := func() *incarnation.Guard { return incarnation.NewGuard(db, slog.New(slog.DiscardHandler)) }
	lasting := guard()
	look := func(g *incarnation.Guard) string {
		t.Helper()
		// A dispatcher looks at once on a server with another start.
		reason, err := g.Held(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return reason
	}
	for range 2 {
		if r := look(lasting); r != "" {
			t.Fatalf("the original is held: %s", r)
		}
	}
	v, err := incarnation.Read(t.Context(), db)
	if err != nil || v.Position <= 0 {
		t.Fatalf("position %d, %v", v.Position, err)
	}
	lasting.SetBack(v.Position / 2)
	for range 2 {
		if r := look(lasting); !strings.Contains(r, "older state") {
			t.Errorf("a disk that was set back: held %q", r)
		}
	}
	fresh := guard()
	fresh.SetBack(v.Position / 2)
	if r := look(fresh); r != "" {
		t.Errorf("a program that has seen nothing else: held %q", r)
	}
	lasting.SetBack(0)
	if r := look(lasting); r != "" {
		t.Errorf("the original is back, and held: %s", r)
	}
}

func adopt(t *testing.T, pool *pgxpool.Pool, o incarnation.Options) (dropped int64) {
	t.Helper()
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) (err error) {
		_, dropped, err = incarnation.Adopt(t.Context(), tx, pg.Schema{}, o)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return dropped
}

// A role without rights to the table works on, and is told.
func TestGuard_withoutRights_warnsOnce(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	var out bytes.Buffer
	role := "poor_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	exec(t, pool, `create role `+role+` login`)
	t.Cleanup(func() { _, _ = pool.Exec(context.Background(), `drop owned by `+role+`; drop role `+role) })
	config := pool.Config()
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `set role `+role)
		return err
	}
	poor, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer poor.Close()
	g := incarnation.NewGuard(pg.Schema{}.Pool(poor), slog.New(slog.NewTextHandler(&out, nil)))
	for range 2 {
		if r, err := g.Held(t.Context(), time.Time{}); r != "" || err != nil {
			t.Errorf("held %q, %v", r, err)
		}
	}
	if n := strings.Count(out.String(), "level=WARN"); n != 1 || !strings.Contains(out.String(), "grant select, insert, update on soniq_incarnations") {
		t.Errorf("%d warnings: %s", n, out.String())
	}
}

const letterSQL = `
insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
  dead_letter_reason, original_created_at, moved_to_dead_letter_at)
values (gen_random_uuid(), $1, '{}', 'q', 1, 1, 1, 'timeout', now(), clock_timestamp())`

// What logical replication leaves behind: sequences that did not come along, later epochs of the publisher's,
// deliveries. The next death begins an epoch by itself, and adopt does so before it.
func TestAdopt_setsRight(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	publishers := func(name string) {
		t.Helper()
		exec(t, pool, letterSQL, name)
		exec(t, pool, `
			update soniq_dead_letter_jobs
			set moved_epoch = (select last_value + (5::bigint << 20) # 1 from soniq_epochs), moved_xid = '4000000000'
			where job_name = $1`, name)
		pool.Reset() // a session that has just died in looks for later epochs a second later
	}
	exec(t, pool, letterSQL, "before")
	publishers("publisher's")
	exec(t, pool, letterSQL, "between")
	publishers("publisher's last")
	exec(t, pool, `insert into soniq_dead_letter_audit (id, dead_letter_id, action) overriding system value values (500, gen_random_uuid(), 'tag')`)
	exec(t, pool, `insert into soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key) values (gen_random_uuid(), 'job.dead_lettered', gen_random_uuid(), '{}', 'g')`)
	exec(t, pool, `insert into soniq_incarnations (system_identifier, database_oid, timeline, how) values ('1', 1, 1, 'first')`)

	p, err := incarnation.Look(t.Context(), pg.Schema{}.Pool(pool), pg.Schema{})
	if err != nil || p.Nothing() || p.Held == "" || !p.Epoch || p.Pending != 1 || len(p.Counters) != 1 || p.Counters[0].Greatest != 500 {
		t.Fatalf("%+v, %v", p, err)
	}
	if n := adopt(t, pool, incarnation.Options{Drop: true}); n != 1 {
		t.Errorf("%d deliveries were dropped", n)
	}
	exec(t, pool, `insert into soniq_dead_letter_audit (dead_letter_id, action) values (gen_random_uuid(), 'tag')`)
	exec(t, pool, letterSQL, "later")
	rows, _ := pool.Query(t.Context(), `select job_name from soniq_dead_letter_jobs order by moved_epoch, moved_xid, id`)
	order, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if want := []string{"before", "publisher's", "between", "publisher's last", "later"}; err != nil || !slices.Equal(order, want) {
		t.Errorf("the order is %q, want %q (%v)", order, want, err)
	}
	p, err = incarnation.Look(t.Context(), pg.Schema{}.Pool(pool), pg.Schema{})
	if err != nil || !p.Nothing() || p.Pending != 0 {
		t.Errorf("after it: %+v, %v", p, err)
	}
}

// What a session wrote in the second in which later rows came, it wrote under its old epoch: readers of those
// rows have passed it. Adopt puts it after them.
func TestAdopt_whatDiedAmongLaterRows_isReadAfterThem(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	const putSQL = `
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at, moved_epoch)
		select gen_random_uuid(), $1, '{}', 'q', 1, 1, 1, 'timeout', now(), clock_timestamp(), last_value + $2::bigint * (5 << 20) # $2 from soniq_epochs`
	exec(t, pool, letterSQL, "before")
	exec(t, pool, putSQL, "publisher's", 1)
	exec(t, pool, putSQL, "among", 0)
	const orderSQL = `select job_name from soniq_dead_letter_jobs order by moved_epoch, moved_xid, id`
	rows, _ := pool.Query(t.Context(), orderSQL)
	if order, err := pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || !slices.Equal(order, []string{"before", "among", "publisher's"}) {
		t.Fatalf("before it: %q, %v", order, err)
	}
	adopt(t, pool, incarnation.Options{})
	rows, _ = pool.Query(t.Context(), orderSQL)
	if order, err := pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || !slices.Equal(order, []string{"before", "publisher's", "among"}) {
		t.Errorf("after it: %q, %v", order, err)
	}
}
