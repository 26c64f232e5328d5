package soniq_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	osexec "os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/internal/testdb"
)

// victim is a process of its own that migrates, and is killed.
type victim struct {
	cmd    *osexec.Cmd
	stderr strings.Builder
}

// newVictim starts one. Its sessions have the application name 'victim'.
func newVictim(t *testing.T, pool *pgxpool.Pool, as string) *victim {
	t.Helper()
	u, err := url.Parse(pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("application_name", "victim")
	u.RawQuery = q.Encode()
	v := &victim{cmd: osexec.CommandContext(t.Context(), os.Args[0])}
	v.cmd.Env = append(os.Environ(), migrateAs+"="+as, beURL+"="+u.String())
	v.cmd.Stderr = &v.stderr
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return v
}

// kill ends it as kill -9 does.
func (v *victim) kill(t *testing.T) {
	t.Helper()
	if err := v.cmd.Process.Kill(); err != nil {
		t.Errorf("kill: %v: %s", err, v.stderr.String())
	}
	_ = v.cmd.Wait()
}

const victimGoneSQL = `select not exists (select from pg_stat_activity where datname = current_database() and application_name = 'victim')`

// recordsSQL makes the table of migrations as Python Soniq does.
const recordsSQL = `
create table if not exists soniq_migrations (
  id serial primary key, version varchar(255) not null unique, name text not null,
  applied_at timestamp default now(), checksum text
);
create index if not exists idx_soniq_migrations_version on soniq_migrations (version)`

// holdable lets [holdRecord] hold the migrations of a database. It returns what takes that back.
func holdable(t *testing.T, pool *pgxpool.Pool) (undo func()) {
	t.Helper()
	exec(t, pool, recordsSQL+`;
		create schema held;
		create table held.back ();
		create function held.wait() returns trigger language plpgsql as $$
		begin
		  while exists (select from held.back) loop
		    perform pg_sleep(0.01);
		  end loop;
		  return coalesce(new, old);
		end
		$$;
		create trigger held before insert or delete on soniq_migrations for each row execute function held.wait()`)
	return func() {
		t.Helper()
		exec(t, pool, `drop trigger held on soniq_migrations; drop schema held cascade`)
	}
}

// holdRecord keeps migrations from being recorded, which is the last change of their transactions, until
// release is called.
func holdRecord(t *testing.T, pool *pgxpool.Pool) (release func()) {
	t.Helper()
	exec(t, pool, `insert into held.back default values`)
	return func() {
		t.Helper()
		exec(t, pool, `delete from held.back`)
	}
}

// $1 the application.
const waitsToRecordSQL = `
select exists (
  select from pg_stat_activity
  where datname = current_database()
    and application_name = $1
    and wait_event = 'PgSleep'
    and (query like '%insert into public.soniq_migrations%' or query like '%delete from public.soniq_migrations%')
)`

// Killed in the middle of any migration, up or down, a process leaves nothing half done, whether the server goes
// on with what it was sent or ends it; the next run goes on.
func TestMigrate_killed_leavesNothingHalfDone(t *testing.T) {
	t.Parallel()
	pool, twin := oldPool(t), oldPool(t)
	exec(t, twin, recordsSQL)
	// The catalog of the twin after each step. Rights that 0.1.0 gave to all don't come back on the way down.
	k, up, down := killing{pool: pool}, map[string][]string{}, map[string][]string{}
	all := soniq.Migrations()
	var pending []soniq.Migration
	for _, m := range all {
		result, err := soniq.MigrateUp(t.Context(), twin, soniq.Config{}, m.Version)
		if err != nil {
			t.Fatal(err)
		}
		if len(result.Applied) > 0 {
			pending = append(pending, m)
			up[m.Version] = catalog(t, twin)
			down[m.Version] = up[m.Version]
		}
	}
	for i := len(all) - 1; all[i].Version > "0160"; i-- {
		if _, err := soniq.MigrateDown(t.Context(), twin, soniq.Config{}, all[i-1].Version); err != nil {
			t.Fatal(err)
		}
		down[all[i-1].Version] = catalog(t, twin)
	}
	undo := holdable(t, pool)
	previous := catalog(t, pool)
	for _, m := range pending {
		k.kill(t, "up to "+m.Version, "up", previous, up[m.Version])
		if _, err := soniq.MigrateUp(t.Context(), pool, soniq.Config{}, m.Version); err != nil {
			t.Fatalf("%s afterwards: %v", m, err)
		}
		previous = up[m.Version]
		k.expect(t, "up to "+m.Version, previous)
	}
	for i := len(all) - 1; all[i].Version > "0160"; i-- {
		to := all[i-1].Version
		k.kill(t, "down to "+to, "down "+to, down[all[i].Version], down[to])
		if _, err := soniq.MigrateDown(t.Context(), pool, soniq.Config{}, to); err != nil {
			t.Fatalf("down from %s afterwards: %v", all[i], err)
		}
		k.expect(t, "down to "+to, down[to])
	}
	undo()
	t.Logf("%d processes were killed", k.killed)
}

// An empty database gets its schema in one go.
func TestSetup_killedOnAnEmptyDatabase_leavesAllOrNothing(t *testing.T) {
	t.Parallel()
	for name, ended := range map[string]bool{"the server goes on": false, "the server ends it": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := emptyPool(t)
			before := catalog(t, pool)
			// In the middle of the schema it waits for a table of that name.
			tx, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(t.Context()) }()
			exec(t, tx, `create table soniq_dead_letter_jobs ()`)
			v := newVictim(t, pool, "up")
			await(t, pool, "setup waits for the table", `
				select exists (
				  select from pg_stat_activity
				  where datname = current_database()
				    and application_name = 'victim'
				    and wait_event_type = 'Lock'
				)`)
			v.kill(t)
			if ended {
				exec(t, pool, `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'victim'`)
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			await(t, pool, "the end of the killed one's session", victimGoneSQL)
			// It may have waited for too long when it was killed.
			if got := catalog(t, pool); !slices.Equal(got, before) {
				if err := soniq.Check(t.Context(), pool, soniq.Config{}); err != nil || ended {
					t.Errorf("the server ended it: %t, and it left %d lines: %v", ended, len(got), err)
				}
			}
			setup(t, pool)
			if err := soniq.Check(t.Context(), pool, soniq.Config{}); err != nil {
				t.Error(err)
			}
		})
	}
}

// killing kills processes that migrate, one after the other.
type killing struct {
	pool   *pgxpool.Pool
	killed int
}

// kill kills a process that migrates one step while it records it. Of two, the server goes on with the first
// one's transaction, as it does where it does not notice; it ends the second one's.
func (k *killing) kill(t *testing.T, what, as string, before, after []string) {
	t.Helper()
	release := holdRecord(t, k.pool)
	v := newVictim(t, k.pool, as)
	await(t, k.pool, what, waitsToRecordSQL, "victim")
	v.kill(t)
	want := after
	if k.killed%2 == 1 {
		want = before
		exec(t, k.pool, `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'victim'`)
	}
	k.killed++
	release()
	await(t, k.pool, "the end of the killed one's session", victimGoneSQL)
	k.expect(t, what+" was killed", want)
}

// expect compares the catalog, without what holds migrations.
func (k *killing) expect(t *testing.T, what string, want []string) {
	t.Helper()
	held := func(line string) bool { return strings.Contains(line, "held.wait()") }
	got := slices.DeleteFunc(catalog(t, k.pool), held)
	if d := difference(slices.DeleteFunc(slices.Clone(want), held), got); len(d) > 0 {
		t.Errorf("%s: it lacks (-) or has too much (+):\n%s", what, strings.Join(d, "\n"))
	}
}

// A migration of a database of 0.1.0 takes no lock on soniq_jobs that keeps anybody from working, but for
// one that sets a default and one that adds a column without one, which are changes to the catalog alone.
// One whose work is done already takes no exclusive one.
func TestMigrate_locksOnJobs_letEverybodyWork(t *testing.T) {
	t.Parallel()
	again := testdb.New(t)
	exec(t, again, `delete from soniq_migrations where version >= '0150'`)
	for name, c := range map[string]struct {
		pool    *pgxpool.Pool
		allowed []string
	}{
		"a database of 0.1.0": {oldPool(t), []string{"AccessShareLock"}},
		// The triggers are made anew.
		"where all is so already": {again, []string{"AccessShareLock", "ShareRowExclusiveLock"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := c.pool.Config()
			config.ConnConfig.RuntimeParams["application_name"] = "migrating"
			migrating, err := pgxpool.NewWithConfig(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(migrating.Close)
			holdable(t, c.pool)
			seen := 0
			for _, m := range soniq.Migrations() {
				if queryValue[bool](t, c.pool, `select exists (select from soniq_migrations where version = $1)`, m.Version) {
					continue
				}
				seen++
				release := holdRecord(t, c.pool)
				done := make(chan error, 1)
				go func() {
					_, err := soniq.MigrateUp(t.Context(), migrating, soniq.Config{}, m.Version)
					done <- err
				}()
				await(t, c.pool, "the end of "+m.String(), waitsToRecordSQL, "migrating")
				modes := queryColumn[string](t, c.pool, `
					select distinct l.mode from pg_locks l join pg_stat_activity a on a.pid = l.pid
					where a.application_name = 'migrating' and a.datname = current_database()
					  and l.relation = 'soniq_jobs'::regclass and l.granted`)
				for _, mode := range modes {
					catalogAlone := (m.Version == "0192" || m.Version == "0240") && c.pool != again
					if !slices.Contains(c.allowed, mode) && !catalogAlone {
						t.Errorf("%s holds %s on soniq_jobs", m, mode)
					}
				}
				release()
				if err := <-done; err != nil {
					t.Fatalf("%s: %v", m, err)
				}
			}
			if seen < 8 {
				t.Errorf("only %d migrations were looked at", seen)
			}
		})
	}
}

// auditRowSQL is a row of the table whose index is built beforehand.
const auditRowSQL = `insert into soniq_dead_letter_audit (dead_letter_id, action, detail) values (gen_random_uuid(), 'replay', '{"args": 1}')`

// rawIndex is the index of a migration that is pending in a database of 0.1.0, on a table that 0.1.0 has.
const rawIndex = "idx_soniq_dead_letter_audit_raw"

// prebuilt are all such indexes, in the order of the migrations.
var prebuilt = []string{rawIndex, "idx_soniq_dead_letter_audit_single"}

const indexValidSQL = `select coalesce((select indisvalid from pg_index where indexrelid = to_regclass('` + rawIndex + `')), false)`

// Indexes are built while programs go on, and their migration finds them.
func TestPrebuild_databaseOf010_buildsWhatItCan(t *testing.T) {
	t.Parallel()
	pool := oldPool(t)
	exec(t, pool, auditRowSQL)
	var lines progress
	result, err := soniq.Prebuild(t.Context(), pool, soniq.Config{OnProgress: lines.add})
	if err != nil || !slices.Equal(result.Built, prebuilt) {
		t.Fatalf("%+v, %v", result, err)
	}
	// 0.1.0 has not the columns of these.
	if w := result.Waiting; len(w) != 2 || w[0].Index != "idx_soniq_dead_letter_jobs_feed" || !strings.Contains(w[0].Why, "its column moved_epoch comes with") ||
		w[1].Index != "idx_soniq_dead_letter_jobs_open" || !strings.Contains(w[1].Why, "its column closed comes with 0220") {
		t.Errorf("waiting: %+v", w)
	}
	if lines.find("building index "+rawIndex+" on soniq_dead_letter_audit") == "" || lines.find("built index "+rawIndex+" in ") == "" {
		t.Errorf("it told %q", lines.lines)
	}
	oid := queryValue[uint32](t, pool, `select '`+rawIndex+`'::regclass::oid`)
	if again, err := soniq.Prebuild(t.Context(), pool, soniq.Config{}); err != nil || len(again.Built) != 0 {
		t.Errorf("again: %+v, %v", again, err)
	}
	setup(t, pool)
	if got := queryValue[uint32](t, pool, `select '`+rawIndex+`'::regclass::oid`); got != oid {
		t.Error("the migration has built it again")
	}
	expectCatalog(t, "in the end", pool, catalog(t, testdb.New(t)))
	// The session is the pool's again.
	if path := queryValue[string](t, pool, `show search_path`); path != `"$user", public` {
		t.Errorf("the session's search_path is %s", path)
	}
}

// What needs a column of a pending migration waits for it, and the result says so.
func TestPrebuild_columnsOfAPendingMigration_haveToCome(t *testing.T) {
	t.Parallel()
	pool := pythonPool(t)
	exec(t, pool, pythonFillSQL)
	owner := newRole(t, pool, `grant create on schema public to %s`)
	exec(t, pool, `alter table soniq_jobs owner to `+owner.name+`; alter table soniq_workers owner to `+owner.name+
		`; alter table soniq_dead_letter_jobs owner to `+owner.name+`; alter table soniq_task_registry owner to `+owner.name+`; alter table soniq_migrations owner to `+owner.name)
	// Timeouts that are meant for quick statements don't end it.
	exec(t, pool, `alter role `+owner.name+` set lock_timeout = 1; alter role `+owner.name+` set statement_timeout = '20s'`)
	result, err := soniq.Prebuild(t.Context(), owner.pool(t, pool), soniq.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"idx_soniq_jobs_claim", "idx_soniq_jobs_processing", "idx_soniq_dead_letter_jobs_job_name_moved"} {
		if !slices.Contains(result.Built, name) {
			t.Errorf("%s was not built", name)
		}
	}
	for index, why := range map[string]string{
		"idx_soniq_dead_letter_jobs_cursor":      "its column moved_xid comes with 0150_soniq_go",
		"idx_soniq_dead_letter_jobs_dead":        "its column state comes with 0150_soniq_go",
		"idx_soniq_dead_letter_jobs_group_moved": "its column fingerprint comes with 0150_soniq_go",
	} {
		if !slices.ContainsFunc(result.Waiting, func(w soniq.WaitingIndex) bool { return w.Index == index && w.Why == why }) {
			t.Errorf("%s: %s is not among %+v", index, why, result.Waiting)
		}
	}
	setup(t, owner.pool(t, pool))
	if owners := queryColumn[string](t, pool, `select distinct relowner::regrole::text from pg_class where relnamespace = 'public'::regnamespace`); !slices.Equal(owners, []string{owner.name}) {
		t.Errorf("it belongs to %q", owners)
	}
	if left, err := soniq.Prebuild(t.Context(), pool, soniq.Config{}); err == nil || !strings.Contains(err.Error(), "belongs to role") {
		t.Errorf("another role's prebuild: %+v, %v", left, err)
	}
	if empty, err := soniq.Prebuild(t.Context(), emptyPool(t), soniq.Config{}); err != nil || len(empty.Built)+len(empty.Waiting) != 0 {
		t.Errorf("on an empty database: %+v, %v", empty, err)
	}
}

// A killed prebuild leaves an index that can't be used, if any; the next one builds it anew, and so does the
// migration.
func TestPrebuild_killed_isBuiltAnew(t *testing.T) {
	t.Parallel()
	for name, finish := range map[string]func(*testing.T, *pgxpool.Pool){
		"by another prebuild": func(t *testing.T, pool *pgxpool.Pool) {
			t.Helper()
			var lines progress
			result, err := soniq.Prebuild(t.Context(), pool, soniq.Config{OnProgress: lines.add})
			if err != nil || !slices.Equal(result.Built, prebuilt) || lines.find("dropping index "+rawIndex) == "" {
				t.Errorf("%+v, %v, %q", result, err, lines.lines)
			}
		},
		"by the migration": func(t *testing.T, pool *pgxpool.Pool) { t.Helper(); setup(t, pool) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := oldPool(t)
			tx, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			exec(t, tx, auditRowSQL) // a writer, which the build waits for
			v := newVictim(t, pool, "prebuild")
			await(t, pool, "the build", `select exists (select from pg_index where indexrelid = to_regclass('`+rawIndex+`') and not indisvalid)`)
			v.kill(t)
			// The server's process doesn't look whether its client is there.
			exec(t, pool, `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'victim'`)
			await(t, pool, "the end of the killed one's session", victimGoneSQL)
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			if queryValue[bool](t, pool, indexValidSQL) {
				t.Fatal("the index is valid: the test is not what it was")
			}
			finish(t, pool)
			if !queryValue[bool](t, pool, indexValidSQL) {
				t.Error("the index is not valid")
			}
			setup(t, pool)
			expectCatalog(t, "in the end", pool, catalog(t, testdb.New(t)))
		})
	}
}

// While one process migrates, others wait for it, and tell for whom.
func TestMigrate_lockIsHeld_tellsByWhom(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	conn, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	exec(t, conn, `set application_name = 'python'`)
	exec(t, conn, `select pg_advisory_lock($1)`, pythonMigrationsLock(t))
	told := make(chan string, 100)
	done := make(chan error, 1)
	go func() {
		_, err := soniq.Setup(t.Context(), pool, soniq.Config{OnProgress: func(line string) { told <- line }})
		done <- err
	}()
	if line, want := <-told, fmt.Sprintf(`for the migration lock, held by process %d ("python"), idle`, conn.PgConn().PID()); !strings.Contains(line, want) {
		t.Errorf("it told %q, want %q", line, want)
	}
	exec(t, conn, `select pg_advisory_unlock($1)`, pythonMigrationsLock(t))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
