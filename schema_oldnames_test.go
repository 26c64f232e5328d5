package soniq_test

import (
	"strings"
	"testing"

	"soniq"
	"soniq/internal/testdb"
)

// statements010OldNames are those of 0.1.0 on the tables that have other names now: what a worker declares,
// withdraws and prunes, and the turns of periodic tasks.
var statements010OldNames = []string{
	`insert into soniq_hunger as h (queue, worker_id, epoch)
	 select q.queue, '00000000-0000-4000-8000-000000000001', 2 from unnest('{mail,bulk}'::text[]) as q (queue) order by q.queue
	 on conflict (queue, worker_id) do update set epoch = excluded.epoch where h.epoch < excluded.epoch`,
	`delete from soniq_hunger where worker_id = '00000000-0000-4000-8000-000000000001' and queue = any ('{mail}'::text[]) and epoch <= 2`,
	`delete from soniq_hunger where (queue, worker_id) in (
	   select h.queue, h.worker_id from soniq_hunger h
	   where not exists (select from soniq_workers o where o.id = h.worker_id) limit 10 for update skip locked)`,
	`insert into soniq_chores (name, begun_at) select 'alarm', now()
	 where not exists (select from soniq_chores c where c.name = 'alarm' and c.begun_at between now() - interval '1 minute' and now())
	 on conflict (name) do update set begun_at = excluded.begun_at
	 where soniq_chores.begun_at not between now() - interval '1 minute' and now()`,
	`update soniq_chores set raised_at = now() where name = 'alarm' and raised_at is null`,
	`delete from soniq_chores where name in (select c.name from soniq_chores c where c.begun_at < now() - interval '1 day' limit 10 for update skip locked)`,
	`update soniq_workers set tenure = 7`,
	`insert into soniq_dead_letter_audit (dead_letter_id, action, actor, because) values (gen_random_uuid(), 'delete', 'a', 'b')`,
	`insert into soniq_dead_letter_operations (id, action, actor, because) values (gen_random_uuid(), 'replay', 'a', 'b')`,
}

// Roles of 0.1.0 go on under the old names with the rights that they had on the tables, and no other role gets
// any. 'migrate down' leaves them the tables.
func TestUpgrade_oldNames_keepTheRightsOnTheTables(t *testing.T) {
	t.Parallel()
	pool := oldPool(t)
	worker := newRole(t, pool, `grant select, insert, update, delete on all tables in schema public to %s`, `grant usage on all sequences in schema public to %s`)
	group := newRole(t, pool, `grant select, insert, update, delete on all tables in schema public to %s`)
	member := newRole(t, pool, `grant `+group.name+` to %s`)
	column := newRole(t, pool, `grant select (queue), update (epoch) on soniq_hunger to %s`)
	reader := newRole(t, pool, `grant select on soniq_chores to %s`)
	nobody := newRole(t, pool)
	exec(t, pool, `grant select on soniq_hunger to public`)

	check := func(when string) {
		t.Helper()
		for _, r := range []role{worker, member} {
			conn := r.connect(t, pool)
			for _, sql := range statements010OldNames {
				exec(t, conn, sql)
			}
			exec(t, pool, `delete from soniq_hunger; delete from soniq_chores`)
		}
		exec(t, column.connect(t, pool), `select queue from soniq_hunger`)
		exec(t, column.connect(t, pool), `update soniq_hunger set epoch = 1`)
		refused(t, column.connect(t, pool), `update soniq_hunger set queue = 'x'`)
		exec(t, reader.connect(t, pool), `select * from soniq_chores`)
		refused(t, reader.connect(t, pool), `delete from soniq_chores`)
		exec(t, nobody.connect(t, pool), `select * from soniq_hunger`)
		refused(t, nobody.connect(t, pool), `delete from soniq_hunger`)
		refused(t, nobody.connect(t, pool), `select * from soniq_chores`)
	}
	check("before")
	setup(t, pool)
	check("after the upgrade")
	// The new names have the same rights.
	conn := worker.connect(t, pool)
	exec(t, conn, `insert into soniq_waiters (queue, worker_id) values ('a', gen_random_uuid()); delete from soniq_waiters; update soniq_leader_tasks set raised_at = null`)
	refused(t, nobody.connect(t, pool), `delete from soniq_waiters`)
	if _, err := soniq.MigrateDown(t.Context(), pool, soniq.Config{}, "0160"); err != nil {
		t.Fatal(err)
	}
	check("after it was undone")
}

// A table that somebody made under a new name is not taken for the renamed one.
func TestSetup_newNameIsTaken_isTold(t *testing.T) {
	t.Parallel()
	pool := oldPool(t)
	exec(t, pool, `create table soniq_waiters (mine text)`)
	_, err := soniq.Setup(t.Context(), pool, soniq.Config{})
	if err == nil || !strings.Contains(err.Error(), "soniq_hunger is to become soniq_waiters, and both are there") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	exec(t, pool, `drop table soniq_waiters`)
	setup(t, pool)
	expectCatalog(t, "afterwards", pool, catalog(t, testdb.New(t)))
}

// Who could give a right on a table on to others can do so on the view that has its old name, or shows a part of it.
func TestSetup_viewsKeepGrantOptions(t *testing.T) {
	t.Parallel()
	pool := oldPool(t)
	giver := newRole(t, pool,
		`grant select, delete on soniq_hunger to %s with grant option`, `grant select on soniq_chores, soniq_dead_letter_jobs to %s with grant option`,
		`grant insert on soniq_chores to %s`)
	column := newRole(t, pool, `grant update (epoch) on soniq_hunger to %s with grant option`)
	setup(t, pool)
	for right, want := range map[string]bool{
		"soniq_hunger SELECT": true, "soniq_hunger DELETE": true, "soniq_chores SELECT": true, "soniq_dead_letter_feed SELECT": true,
		"soniq_chores INSERT": false, "soniq_hunger INSERT": false,
	} {
		view, privilege, _ := strings.Cut(right, " ")
		if got := queryValue[bool](t, pool, `select has_table_privilege($1, $2, $3)`, giver.name, view, privilege+" WITH GRANT OPTION"); got != want {
			t.Errorf("%s can be given on: %t, want %t", right, got, want)
		}
	}
	for name, want := range map[string]bool{"epoch": true, "queue": false} {
		if got := queryValue[bool](t, pool, `select has_column_privilege($1, 'soniq_hunger', $2, 'UPDATE WITH GRANT OPTION')`, column.name, name); got != want {
			t.Errorf("UPDATE of %s can be given on: %t, want %t", name, got, want)
		}
	}
}
