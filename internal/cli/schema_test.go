package cli_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// contents is a line for each table of a schema: its name, and a digest of its
// rows.
func contents(t *testing.T, pool *pgxpool.Pool, schema string) string {
	t.Helper()
	rows, _ := pool.Query(t.Context(), `select table_name from information_schema.tables where table_schema = $1 and table_type = 'BASE TABLE' order by 1`, schema)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for _, table := range tables {
		var digest string
		sql := `select count(*) || ' ' || coalesce(md5(string_agg(r::text, '|' order by r::text)), '') from ` + pgx.Identifier{schema, table}.Sanitize() + ` r`
		if err := pool.QueryRow(t.Context(), sql).Scan(&digest); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&lines, table, digest)
	}
	return lines.String()
}

// schemaRun runs commands on a schema of their own, and remembers which.
type schemaRun struct {
	*clitest.Shell
	t    *testing.T
	seen []string
}

// sql runs statements as the owner of the tables.
func (r *schemaRun) sql(statements string) {
	r.t.Helper()
	conn, err := pgx.Connect(context.Background(), r.Env["SONIQ_DATABASE_URL"])
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(context.Background(), statements, pgx.QueryExecModeSimpleProtocol); err != nil {
		r.t.Error(err)
	}
}

// do runs a command that must end with this exit code.
func (r *schemaRun) do(path string, code int, line ...string) clitest.Result {
	r.t.Helper()
	r.seen = append(r.seen, path)
	result := r.Run(line...)
	if result.Code != code {
		r.t.Fatalf("soniq %q: exit %d, want %d: %s%s", line, result.Code, code, result.Out, result.Err)
	}
	return result
}

// begin starts a command that runs until it is stopped, and waits until it has
// said something.
func (r *schemaRun) begin(path, says string, line ...string) (end func()) {
	r.t.Helper()
	r.seen = append(r.seen, path)
	s := *r.Shell
	s.Signals = make(chan os.Signal, 3)
	running := s.Start(line...)
	eventually.True(r.t, "what a command says", func() bool {
		return strings.Contains(running.Out.String()+running.Err.String(), says)
	})
	return func() {
		r.t.Helper()
		s.Signals <- syscall.SIGTERM
		if code := running.Wait(r.t); code != app.ExitDone {
			r.t.Errorf("soniq %q: exit %d: %s", line, code, running.Err.String())
		}
	}
}

// Two Soniqs in one database: each command works on the schema that --schema or
// SONIQ_SCHEMA names, and leaves the other one as it is. A new command needs a
// line here.
func TestSchema_everyCommand_worksInASchemaOfItsOwn(t *testing.T) {
	t.Parallel()
	url := testdb.EmptyURL(t)
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	dir := t.TempDir()

	neighbour := clitest.NewShell(t, url)
	neighbour.Env["SONIQ_SCHEMA"] = "neighbour"
	neighbour.OK("setup")
	neighbour.OK("enqueue", "j", "--delay", "1h")
	neighbour.OK("queue", "pause", "default")
	neighbour.OK("hooks", "add", "log")
	before := contents(t, pool, "neighbour")

	const schema = `My "own"`
	r := &schemaRun{Shell: clitest.NewShell(t, url), t: t}
	r.Env["SONIQ_SCHEMA"] = schema
	r.tables(schema)
	r.jobs(dir)
	r.deadLetters(dir)
	r.hooks(dir)

	if after := contents(t, pool, "neighbour"); after != before {
		t.Errorf("the other schema was\n%sand is\n%s", before, after)
	}
	if n := testkit.Count(t, pool, `select count(*) from pg_catalog.pg_class c where c.relname like 'soniq%' and c.relnamespace = 'public'::regnamespace`); n != 0 {
		t.Errorf("%d relations in public", n)
	}
	// demo and dev have a database of their own, TestDemo and TestDev use it; the
	// others read no table.
	without := []string{"demo", "bench", "dev status", "dev up", "dev psql", "dev url", "dev stop", "dev reset", "completion", "__complete", "version", "hooks keygen", "worker run-once"}
	for _, path := range commandPaths(t) {
		if !slices.Contains(r.seen, path) && !slices.Contains(without, path) {
			t.Errorf("'soniq %s' was not run", path)
		}
	}
}

// tables runs the commands that make tables. A flag beats the variable.
func (r *schemaRun) tables(schema string) {
	missing := r.do("status", app.ExitFailed, "status")
	clitest.WantIn(r.t, "without tables", missing.Err, `run: soniq setup --schema 'My "own"'`)
	r.Env["SONIQ_SCHEMA"] = "elsewhere"
	r.do("setup", 0, "setup", "--schema", schema)
	r.do("migrate list", 0, "migrate", "list", "--schema", schema)
	r.Env["SONIQ_SCHEMA"] = schema
	r.do("migrate check", 0, "migrate", "check")
	clitest.WantIn(r.t, "doctor", r.do("doctor", 0, "doctor", "--only", "schema,drift,rights,identity,queues,dead-letters,hooks,notify").Out, "all is as the schema has it", "notifications arrive")
	r.do("adopt", 0, "adopt", "--yes")
	r.do("migrate up", 0, "migrate", "up")
	r.do("migrate prebuild", 0, "migrate", "prebuild")
	r.do("migrate down", 0, "migrate", "down", "--to", "0160", "--dry-run")
	role := "soniq_schema_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	r.sql("create role " + role)
	r.t.Cleanup(func() { r.sql("drop owned by " + role + "; drop role " + role) })
	clitest.WantIn(r.t, "grants", r.do("grants", 0, "grants", "--run", "--viewer", role).Out, `on "My ""own""".soniq_jobs`)
	clitest.WantIn(r.t, "migrate sql", r.do("migrate sql", 0, "migrate", "sql").Out, `"My ""own""".soniq_jobs`)
}

// jobs runs the commands about jobs, queues and workers. It leaves three dead
// letters.
func (r *schemaRun) jobs(dir string) {
	file := filepath.Join(dir, "jobs.jsonl")
	if err := os.WriteFile(file, []byte(`{"name": "later", "delay": "1h"}`+"\n"), 0o600); err != nil {
		r.t.Fatal(err)
	}
	later := strings.TrimSpace(r.do("enqueue", 0, "enqueue", "--from", file).Out)
	socket := "unix:" + filepath.Join(dir, "health")
	end := r.begin("worker run", "serving", "worker", "--health-listen", socket, "--handle", "ok=exec:true", "--handle", "bad=exec:exit 78", "--log-format", "text")
	r.do("enqueue", 0, "enqueue", "ok", "--wait", "--wait-timeout", "30s")
	for range 3 {
		r.do("enqueue", app.ExitFailed, "enqueue", "bad", "--wait", "--wait-timeout", "30s")
	}
	r.do("health", 0, "health", socket)
	host, err := os.Hostname()
	if err != nil {
		r.t.Fatal(err)
	}
	clitest.WantIn(r.t, "health", r.do("health", 0, "health", "--from-database").Out, "1 of 1 workers of host "+host+" live")
	clitest.WantIn(r.t, "worker list", r.do("worker list", 0, "worker", "list").Out, "default")
	end()
	clitest.WantIn(r.t, "status", r.do("status", 0, "status").Out, "Dead letters: 3 dead")
	r.begin("dashboard", "serving the dashboard", "dashboard", "--port", "0", "--log-format", "text")()
	clitest.WantIn(r.t, "metrics", r.do("metrics", 0, "metrics", "--once").Out, "soniq_dead_letters_dead 3")
	clitest.WantIn(r.t, "job", r.do("job show", 0, "job", later).Out, "later")
	clitest.WantIn(r.t, "job list", r.do("job list", 0, "job", "list").Out, later)
	r.do("job cancel", 0, "job", "cancel", later)
	r.do("job retry", 0, "job", "retry", later)
	r.do("job cancel", 0, "job", "cancel", later)
	r.do("job delete", 0, "job", "delete", later)
	later = strings.TrimSpace(r.do("enqueue", 0, "enqueue", "--from", file).Out)
	r.do("job bury", 0, "job", "bury", later)
	r.do("dead-letter delete", 0, "dead-letter", "delete", later)
	r.do("queue pause", 0, "queue", "pause", "default")
	clitest.WantIn(r.t, "queue list", r.do("queue list", 0, "queue", "list").Out, "paused")
	r.do("queue resume", 0, "queue", "resume", "default")
}

func (r *schemaRun) deadLetters(dir string) {
	dlq := func(command string, args ...string) clitest.Result {
		r.t.Helper()
		return r.do("dead-letter "+command, 0, append([]string{"dead-letter", command}, args...)...)
	}
	var ids []string
	for _, letter := range clitest.Decode[[]struct{ ID string }](r.t, dlq("list", "--json").Out) {
		ids = append(ids, letter.ID)
	}
	if len(ids) != 3 {
		r.t.Fatalf("dead letters are %q", ids)
	}
	clitest.WantIn(r.t, "groups", dlq("groups").Out, "bad")
	clitest.WantIn(r.t, "show", dlq("show", ids[0]).Out, ids[0])
	dlq("show", ids[0], "--reveal")
	clitest.WantIn(r.t, "stats", dlq("stats").Out, "3 dead letters")
	clitest.WantIn(r.t, "check", dlq("check", "--max", "9").Out, "3 dead")
	dlq("tag", ids[0], "owner=me")
	clitest.WantIn(r.t, "history", dlq("history", ids[0]).Out, "tag")
	file := filepath.Join(dir, "dead.jsonl")
	dlq("export", "--output", file)
	dlq("delete", ids[1])
	clitest.WantIn(r.t, "import", dlq("import", file).Out, "Imported 1 dead letter")
	dlq("replay", ids[0])
	dlq("replay", "--all", "--yes")
	dlq("cleanup", "--days", "30")

	end := r.begin("dead-letter watch", "watching", "dead-letter", "watch")
	stop := r.begin("worker run", "serving", "worker", "--handle", "bad=exec:exit 78", "--log-format", "text")
	r.do("enqueue", app.ExitFailed, "enqueue", "bad", "--wait", "--wait-timeout", "30s")
	stop()
	end()
}

func (r *schemaRun) hooks(dir string) {
	hooks := func(command string, args ...string) clitest.Result {
		r.t.Helper()
		return r.do("hooks "+command, 0, append(append([]string{"hooks"}, strings.Fields(command)...), args...)...)
	}
	url, bodies := clitest.HookServer(r.t)
	hooks("add log", "--name", "l")
	hooks("add exec", "true", "--name", "x")
	hooks("add slack", "https://hooks.slack.com/services/T/B/x", "--name", "s")
	hooks("add webhook", url, "--name", "w", "--allow", "127.0.0.0/8")
	hooks("disable", "s", "x", "l")
	hooks("enable", "l")
	hooks("rotate-secret", "w")
	clitest.WantIn(r.t, "hooks list", hooks("list").Out, "webhook")
	clitest.WantIn(r.t, "hooks show", hooks("show", "w").Out, "webhook")
	hooks("test", "l")
	key := filepath.Join(dir, "keys")
	if err := os.WriteFile(key, []byte(r.OK("hooks", "keygen").Out), 0o600); err != nil {
		r.t.Fatal(err)
	}
	hooks("seal", "--hook-key-file", key)
	r.Env["SONIQ_HOOK_KEY"] = "file:" + key

	// A dead letter reaches the hook.
	stop := r.begin("worker run", "serving", "worker", "--no-hooks", "--handle", "bad=exec:exit 78", "--log-format", "text")
	r.do("enqueue", app.ExitFailed, "enqueue", "bad", "--wait", "--wait-timeout", "30s")
	stop()
	end := r.begin("hooks run", "sending hooks", "hooks", "run", "--log-format", "text")
	clitest.WantIn(r.t, "the request", clitest.Receive(r.t, bodies), `"bad"`)
	end()
	clitest.WantIn(r.t, "hooks deliveries", hooks("deliveries").Out, "delivered")
	r.do("hooks retry", app.ExitNothing, "hooks", "retry", "--hook", "w")
	hooks("remove", "w", "l")
}

// A name that can be none is a usage error in one line, before anything else.
func TestSchema_invalidName_isAUsageError(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"":                      "--schema is empty; give it a value, or leave it out",
		"pg_soniq":              "PostgreSQL reserves it for itself",
		"information_schema":    "PostgreSQL reserves it for itself",
		strings.Repeat("a", 64): "PostgreSQL cuts names to 63",
		"a\nb":                  "it contains a line break",
		"a$$b":                  "it contains $$",
	} {
		for _, line := range [][]string{
			{"setup"},
			{"migrate", "sql"},
			{"migrate", "check"},
			{"enqueue", "j"},
			{"job", "list"},
			{"dead-letter", "list"},
			{"hooks", "list"},
			{"worker", "--handle", "j=exec:true"},
			{"status"},
			{"demo"},
			{"bench"},
		} {
			s := clitest.NewShell(t, "postgres://127.0.0.1:1/none")
			if line[0] == "demo" {
				delete(s.Env, "SONIQ_DATABASE_URL")
			}
			r := s.Run(append(line, "--schema", name)...)
			code := app.ExitUsage
			if line[0] == "migrate" && line[1] == "check" {
				code = app.ExitUnknown
			}
			clitest.WantCode(t, r, code)
			clitest.WantIn(t, "the error", r.Err, want)
			if strings.Count(r.Err, "\n") != 1 {
				t.Errorf("%q: %q", line, r.Err)
			}
			if name == "" {
				continue
			}
			s.Env["SONIQ_SCHEMA"] = name
			clitest.WantIn(t, "the error", s.Run(line...).Err, "SONIQ_SCHEMA: ", want)
		}
	}
}

// The worker's configuration names the schema where neither the flag nor the
// variable does.
func TestSchema_ofTheConfiguration_comesLast(t *testing.T) {
	t.Parallel()
	url := testdb.EmptyURL(t)
	config := testkit.ConfigFile(t, "schema: Mine\njobs: {ok: {exec: 'true'}}\n")
	r := &schemaRun{Shell: clitest.NewShell(t, url), t: t}
	r.OK("setup", "--schema", "Mine")
	r.OK("setup", "--schema", "other")
	for _, c := range []struct {
		line     []string
		variable string
		schema   string
	}{
		{nil, "", "Mine"},
		{nil, "other", "other"},
		{[]string{"--schema", "other"}, "", "other"},
		{[]string{"--schema", "Mine"}, "other", "Mine"},
	} {
		r.Env["SONIQ_SCHEMA"] = c.variable
		end := r.begin("worker run", "serving", append([]string{"worker", "--config", config, "--log-format", "text"}, c.line...)...)
		r.OK("enqueue", "ok", "--wait", "--wait-timeout", "30s", "--schema", c.schema)
		end()
	}
}

// Nobody ever announces a dead letter in a schema without tables.
func TestSchema_watchWithoutTables_saysSo(t *testing.T) {
	t.Parallel()
	r := clitest.NewShell(t, testdb.NewURL(t)).Run("dead-letter", "watch", "--schema", "nosuch")
	if r.Code != 1 || !strings.Contains(r.Err, `schema "nosuch" has no Soniq tables`) {
		t.Errorf("exit %d: %s", r.Code, r.Err)
	}
}
