package database_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
)

// poolOn is a pool on a database.
func poolOn(t *testing.T, databaseURL string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// sqlExec runs SQL, of one or many statements.
func sqlExec(t *testing.T, pool *pgxpool.Pool, sql string) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("%.200s: %v", sql, err)
	}
}

// newestMigration is the one that Setup ends with.
func newestMigration() soniq.Migration {
	all := soniq.Migrations()
	return all[len(all)-1]
}

func TestMigrate_stepByStep(t *testing.T) {
	t.Parallel()
	url := testdb.EmptyURL(t)
	pool := poolOn(t, url)
	sh := clitest.NewShell(t, url)
	newest := newestMigration()
	expect := func(code int, out []string, args ...string) clitest.Result {
		t.Helper()
		r := sh.Run(append([]string{"migrate"}, args...)...)
		if r.Code != code {
			t.Errorf("soniq migrate %q: exit %d: %s%s", args, r.Code, r.Out, r.Err)
		}
		clitest.WantIn(t, fmt.Sprint(args), r.Out, out...)
		return r
	}
	expect(1, []string{"pending: 0001_core\n", "pending: " + newest.String()}, "check")
	expect(0, []string{"pending   0001_core\n"}, "list")
	expect(0, []string{"Would apply 0001_core\n", "Would apply 0150_soniq_go\n"}, "up", "--dry-run", "--to", "150")
	expect(0, []string{"Applied 0001_core\n", "Applied 0160_soniq_go_dead_letter_counts\n"}, "up", "--to", "160")
	expect(0, []string{"Nothing is pending up to 0160."}, "up", "--to", "0160")
	expect(0, []string{"applied   0160_soniq_go_dead_letter_counts", "pending   0161_soniq_go_trust"}, "list")
	expect(1, []string{"pending: 0161_soniq_go_trust\n"}, "check")
	expect(0, []string{"Built idx_soniq_dead_letter_audit_raw\n"}, "prebuild")
	expect(0, []string{"idx_soniq_dead_letter_jobs_feed has to wait for 0174_soniq_go_epoch"}, "prebuild")
	expect(0, []string{"Applied " + newest.String()}, "up")
	expect(0, []string{"There is nothing to build."}, "prebuild")
	expect(0, []string{"The tables are up to date."}, "up")
	expect(0, []string{"Nothing is pending."}, "up", "--dry-run")
	expect(0, []string{"up to date\n"}, "check")

	// What somebody edited.
	sqlExec(t, pool, `create or replace function soniq_hook_glob(glob text, job_name text) returns boolean language sql immutable set search_path = pg_catalog, pg_temp as 'select true'`)
	expect(1, []string{"edited function: public.soniq_hook_glob(text,text)\n"}, "check")
	clitest.WantIn(t, "list", expect(0, nil, "list").Err, "function public.soniq_hook_glob(text,text) was edited")
	clitest.WantIn(t, "setup", sh.OK("setup").Out, "put back the body of 1 function")
	expect(0, []string{"up to date\n"}, "check")
	sqlExec(t, pool, `update soniq_migrations set checksum = 'x' where version = '0161'`)
	expect(1, []string{"edited migration: 0161_soniq_go_trust\n"}, "check")
	sqlExec(t, pool, `update soniq_migrations set checksum = null where version = '0161'`)

	// What a later release has.
	sqlExec(t, pool, `insert into soniq_migrations (version, name) values ('0299', 'later'), ('0003', 'scheduler')`)
	expect(0, []string{"of a later release: 0299_later\n", "up to date\n"}, "check")
	expect(0, []string{"newer     0299_later", "other     0003_scheduler"}, "list")
	clitest.WantIn(t, "setup", sh.OK("setup").Err, "The database is newer than this program")
	sqlExec(t, pool, `delete from soniq_migrations where version = '0299'`)

	// And back.
	expect(0, []string{"Would undo 0162_soniq_go_long_names, which loses: the whole name"}, "down", "--to", "0160", "--dry-run")
	expect(0, []string{"up to date\n"}, "check")
	sqlExec(t, pool, `insert into soniq_workers (id, hostname, pid, status, version, last_heartbeat) values
		(gen_random_uuid(), 'a', 1, 'active', 'go/1', now()), (gen_random_uuid(), 'a', 2, 'stopping', 'go/1', now()),
		(gen_random_uuid(), 'a', 3, 'stopped', 'go/1', now()), (gen_random_uuid(), 'a', 4, 'active', '1.0', now()),
		(gen_random_uuid(), 'a', 5, 'active', 'go/1', now() - interval '1 minute')`)
	r := expect(0, []string{"Undone " + newest.String() + "\n", "Undone 0161_soniq_go_trust\n"}, "down", "--to", "160", "--yes")
	clitest.WantIn(t, "down", r.Err, "0162_soniq_go_long_names loses: ", `the column "because" keeps the texts`, "Warning: 2 Go workers are alive.")
	if r := sh.Run("dead-letter", "history"); r.Code != 1 || strings.Contains(r.Err, "no Soniq tables") {
		t.Errorf("the history of an older schema: exit %d: %s", r.Code, r.Err)
	} else {
		clitest.WantIn(t, "history", r.Err, "older than this program: it lacks 0161_soniq_go_trust", "run 'soniq setup'")
	}
	expect(0, []string{"There is nothing to undo."}, "down", "--to", "160", "--yes")
	expect(0, []string{"Applied 0161_soniq_go_trust\n"}, "up")
	expect(0, []string{"up to date\n"}, "check")
}

func TestMigrate_json(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	sh := clitest.NewShell(t, url)
	sqlExec(t, poolOn(t, url), `delete from soniq_migrations where version = '0163'; alter function soniq_hook_glob(text, text) security definer`)
	var check struct {
		UpToDate               bool `json:"up_to_date"`
		Pending, Edited, Newer []string
		EditedFunctions        []string `json:"edited_functions"`
	}
	read := func(r clitest.Result, into any) {
		t.Helper()
		if err := json.Unmarshal([]byte(r.Out), into); err != nil {
			t.Fatalf("%s: %v", r.Out, err)
		}
	}
	r := sh.Run("migrate", "check", "--json")
	if read(r, &check); r.Code != 1 || check.UpToDate || !slices.Equal(check.Pending, []string{"0163_soniq_go_audit_secrets"}) || check.Edited == nil || check.EditedFunctions == nil {
		t.Errorf("exit %d: %s", r.Code, r.Out)
	}
	var list struct {
		Migrations []soniq.MigrationStatus
	}
	read(sh.OK("migrate", "list", "--json"), &list)
	if len(list.Migrations) != len(soniq.Migrations()) || list.Migrations[0].AppliedAt == nil {
		t.Errorf("%+v", list)
	}
	var up struct{ Applied, Mended []string }
	read(sh.OK("migrate", "up", "--json"), &up)
	if !slices.Equal(up.Applied, []string{"0163_soniq_go_audit_secrets"}) || !slices.Equal(up.Mended, []string{"put back the body of 1 function"}) {
		t.Errorf("%+v", up)
	}
	var down struct {
		Undone []struct{ Migration, Loses string }
	}
	read(sh.OK("migrate", "down", "--to", "0161", "--yes", "--json"), &down)
	if n := len(down.Undone); n == 0 || down.Undone[n-1].Migration != "0162_soniq_go_long_names" || down.Undone[n-1].Loses == "" {
		t.Errorf("%+v", down)
	}
}

// loginURL is the URL of a role that may log in and nothing else.
func loginURL(t *testing.T, pool *pgxpool.Pool, databaseURL string) (role, loginURL string) {
	t.Helper()
	role = "soniq_r_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	sqlExec(t, pool, "create role "+role+" login password '"+role+"'")
	t.Cleanup(func() {
		if _, err := pool.Exec(context.Background(), "drop owned by "+role+"; drop role "+role, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, role)
	return role, u.String()
}

// Each mistake is one line that says what to do, under the right exit code, and changes nothing.
func TestMigrate_badInput_isOneLine(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	pool := poolOn(t, url)
	empty := testdb.EmptyURL(t)
	emptyPool := poolOn(t, empty)
	sqlExec(t, emptyPool, `revoke create on schema public from public`)
	role, login := loginURL(t, emptyPool, empty)
	newer := testdb.NewURL(t)
	sqlExec(t, poolOn(t, newer), `insert into soniq_migrations (version, name) values ('0299', 'later')`)
	older := testdb.NewURL(t)
	sqlExec(t, poolOn(t, older), `insert into soniq_migrations (version, name) values ('0299', 'later'); delete from soniq_migrations where version = '0162'`)
	elsewhere := testdb.EmptyURL(t)
	elsewherePool := poolOn(t, elsewhere)
	if _, err := soniq.Setup(t.Context(), elsewherePool, soniq.Config{Schema: "app"}); err != nil {
		t.Fatal(err)
	}
	sqlExec(t, elsewherePool, `do $$ begin execute format('alter database %I set search_path = app, public', current_database()); end $$`)
	for _, c := range []struct {
		name, url string
		args      []string
		code      int
		says      []string
	}{
		{"down past Python's", url, []string{"migrate", "down", "--to", "0001", "--yes"}, 2, []string{"0001 and 0002 are Python Soniq's too"}},
		{"down to nothing", url, []string{"migrate", "down", "--to", "0", "--yes"}, 2, []string{`"0"`, "no such migration"}},
		{"down to what isn't", url, []string{"migrate", "down", "--to", "0158", "--yes"}, 2, []string{"0158", "no such migration; the newest is " + newestMigration().Version}},
		{"down in a schema that isn't", url, []string{"migrate", "down", "--schema", "nope", "--to", "0160", "--yes"}, 1, []string{`schema "nope" does not exist; Soniq tables are in: public`}},
		{"prebuild in a schema that isn't", elsewhere, []string{"migrate", "prebuild", "--schema", "nope"}, 1, []string{`schema "nope" does not exist; Soniq tables are in: app`}},
		{"down in a schema that isn't, and no other", empty, []string{"migrate", "down", "--schema", "nope", "--to", "0160", "--yes"}, 1, []string{`schema "nope" does not exist, and no other schema`}},
		{"down without a version", url, []string{"migrate", "down", "--yes"}, 2, []string{"--to"}},
		{"down unasked", url, []string{"migrate", "down", "--to", "0160"}, 2, []string{"add --yes"}},
		{"up to what isn't", url, []string{"migrate", "up", "--to", "9999"}, 2, []string{"9999", "no such migration"}},
		{"up to no number", url, []string{"migrate", "up", "--to", "latest"}, 2, []string{"latest", "no such migration"}},
		{"dry run to what isn't", url, []string{"migrate", "up", "--to", "0158", "--dry-run"}, 2, []string{"0158", "no such migration"}},
		{"SQL from what isn't", "", []string{"migrate", "sql", "--from", "0006"}, 2, []string{"0006", "no such migration"}},
		{"SQL backwards", "", []string{"migrate", "sql", "--from", "0161", "--to", "0160"}, 2, []string{"0161 comes after 0160"}},
		{"SQL for nobody", "", []string{"migrate", "sql", "--for", "flyway"}, 2, []string{"flyway"}},
		{"SQL that undoes Python's", "", []string{"migrate", "sql", "--from", "0002", "--down"}, 2, []string{"Python Soniq's too"}},
		{"SQL of goose in one direction", "", []string{"migrate", "sql", "--for", "goose", "--down"}, 2, []string{"both directions"}},
		{"setup without CREATE", login, []string{"setup"}, 1, []string{role, "may create nothing in schema public", "grant create on schema public"}},
		{"up without CREATE", login, []string{"migrate", "up"}, 1, []string{"may create nothing in schema public"}},
		{"down of nothing", empty, []string{"migrate", "down", "--to", "0160", "--yes"}, 0, nil},
		{"prebuild without CREATE", login, []string{"migrate", "prebuild"}, 0, nil},
		{"down of a newer database", newer, []string{"migrate", "down", "--to", "0160", "--yes"}, 1, []string{"newer than this program", "0299_later"}},
		{"up of a newer database that lacks something", older, []string{"migrate", "up"}, 1, []string{"newer than this program", "0299"}},
		{"prebuild of a newer database", newer, []string{"migrate", "prebuild"}, 1, []string{"newer than this program"}},
		{"setup where the tables are elsewhere", elsewhere, []string{"setup"}, 1, []string{`schema "public" has no Soniq tables, but schema "app" of the search_path has`, "--schema"}},
		{"worker where the tables are elsewhere", elsewhere, []string{"hooks", "run", "--log-format", "text"}, 1, []string{`schema "app" of the search_path has`, "--schema"}},
		{"status where the tables are elsewhere", elsewhere, []string{"status"}, 1, []string{`schema "app" of the search_path has`, "--schema"}},
		{"enqueue where the tables are elsewhere", elsewhere, []string{"enqueue", "x"}, 1, []string{`schema "app" of the search_path has`}},
		{"list where the tables are elsewhere", elsewhere, []string{"dead-letter", "list"}, 1, []string{`schema "app" of the search_path has`}},
		{"list where there are none", empty, []string{"dead-letter", "list"}, 1, []string{"the database has no Soniq tables: run 'soniq setup'"}},
		{"check where the tables are elsewhere", elsewhere, []string{"migrate", "check"}, 3, []string{"--schema"}},
		{"check of nowhere", "postgres://127.0.0.1:1/none", []string{"migrate", "check"}, 3, []string{"cannot reach PostgreSQL"}},
		{"check with a mistake", url, []string{"migrate", "check", "--nonsense"}, 3, []string{"--nonsense"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := clitest.NewShell(t, c.url).Run(c.args...)
			// What would be lost has a line for each migration.
			oneLine := c.name == "down unasked" || strings.Count(strings.TrimSpace(r.Err), "\n") <= 1
			if r.Code != c.code || !oneLine {
				t.Errorf("exit %d, want %d and a line: %s%s", r.Code, c.code, r.Out, r.Err)
			}
			clitest.WantIn(t, "it", r.Err, c.says...)
		})
	}
	t.Cleanup(func() {
		if err := soniq.Check(context.Background(), pool, soniq.Config{}); err != nil {
			t.Errorf("after all that: %v", err)
		}
	})
}

// What is missing is named, with what to do.
func TestMigrate_check_namesWhatIsMissing(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	pool := poolOn(t, url)
	sh := clitest.NewShell(t, url)
	sqlExec(t, pool, `drop index idx_soniq_jobs_claim; alter table soniq_jobs drop column errors; drop view soniq_hook_status`)
	missing := []string{"column errors of soniq_jobs", "index idx_soniq_jobs_claim of soniq_jobs", "view soniq_hook_status"}
	r := sh.Run("migrate", "check")
	if r.Code != 1 {
		t.Errorf("check: exit %d: %s", r.Code, r.Err)
	}
	for _, what := range missing {
		clitest.WantIn(t, "check", r.Out, "missing: "+what)
		clitest.WantIn(t, "list", sh.Run("migrate", "list").Err, what+" is missing; 'soniq setup' makes it anew")
	}
	clitest.WantIn(t, "check", r.Err, "'soniq setup' makes what is missing", "'soniq migrate prebuild' builds the indexes")
	var document struct {
		Missing []string `json:"missing"`
	}
	if err := json.Unmarshal([]byte(sh.Run("migrate", "check", "--json").Out), &document); err != nil || !slices.Equal(document.Missing, missing) {
		t.Errorf("check --json: %q, %v", document.Missing, err)
	}
	setup := sh.Run("setup")
	for _, what := range missing {
		clitest.WantIn(t, "setup", setup.Out, "Mended: made "+what+" anew")
	}
	if r := sh.Run("migrate", "check"); r.Code != 0 || !strings.Contains(r.Out, "up to date") {
		t.Errorf("after setup: exit %d: %s", r.Code, r.Out)
	}
}
