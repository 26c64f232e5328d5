package poolers_test

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

func TestMain(m *testing.M) { clitest.Main(m) }

// execModes are pgx's; "" is what Soniq chooses.
var execModes = []string{"", "cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"}

// withMode adds an exec mode to a URL.
func withMode(t *testing.T, databaseURL, mode string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	if mode != "" {
		query := u.Query()
		query.Set("default_query_exec_mode", mode)
		u.RawQuery = query.Encode()
	}
	return u.String()
}

// config has a queue of its own, so that workers of several modes can share a database.
func config(queue string) string {
	return `
queues: [` + queue + `]
jobs:
  good: {exec: 'echo "{}"', queue: ` + queue + `}
  bad: {exec: 'echo "naïve 日本" >&2; exit 78', queue: ` + queue + `}
hooks:
  ` + queue + `: {exec: 'true', queues: [` + queue + `]}
`
}

// poolModes are the modes of the pooler that are tested. Transaction mode is only where it is
// asked for, by 'make poolers': on a busy machine two of its checks fail now and then. Setup
// in pgx's cache_statement mode is not always sent again, and a LISTEN may stay for a moment.
func poolModes() []string {
	if os.Getenv("SONIQ_TEST_POOLERS") != "" {
		return []string{"session", "transaction"}
	}
	return []string{"session"}
}

// The whole of the program runs behind PgBouncer, in session and in transaction mode,
// however pgx sends the statements, and leaves nothing of a session behind.
func TestPoolers_everyCommand_everyMode(t *testing.T) {
	t.Parallel()
	for _, poolMode := range poolModes() {
		direct := testdb.EmptyURL(t)
		// In session mode each connection of the workers takes one to the server.
		pooled := testkit.PgBouncer(t, direct, poolMode, "default_pool_size = 80")
		clitest.NewShell(t, pooled).OK("setup")
		t.Run(poolMode, func(t *testing.T) {
			for i, mode := range execModes {
				t.Run("exec mode "+mode, func(t *testing.T) {
					t.Parallel()
					everything(t, withMode(t, pooled, mode), string(rune('a'+i)))
				})
			}
		})
		if poolMode == "transaction" {
			nothingIsLeft(t, direct, pooled)
		}
	}
}

// everything runs a worker with hooks, and the commands.
func everything(t *testing.T, databaseURL, queue string) {
	s := clitest.NewShell(t, databaseURL)
	s.OK("setup")
	worker := s.Start("worker", "--config", testkit.ConfigFile(t, config(queue)), "--allow-exec-hooks")
	eventually.True(t, "the worker to start", func() bool {
		if len(worker.Code) > 0 {
			t.Fatalf("the worker ended: %s", worker.Err.String())
		}
		return strings.Contains(worker.Err.String(), "worker started")
	})
	s.OK("enqueue", "good", "--queue", queue, "--args", `{"to": ["ünï"]}`, "--wait")
	r := s.Run("enqueue", "bad", "--queue", queue, "--wait")
	if r.Code != 1 {
		t.Fatalf("enqueue bad --wait: exit %d: %s%s", r.Code, r.Out, r.Err)
	}
	id := ""
	for _, word := range strings.Fields(r.Err) {
		if len(word) == 36 && strings.Count(word, "-") == 4 {
			id = word
			break
		}
	}
	clitest.WantIn(t, "dead-letter show", s.OK("dead-letter", "show", id).Out, "naïve 日本")
	later := strings.TrimSpace(s.OK("enqueue", "good", "--queue", queue, "--delay", "1h").Out)
	file := filepath.Join(t.TempDir(), "dead.jsonl")
	for _, line := range []string{
		"dead-letter list --queue " + queue, "dead-letter list --job bad --queue " + queue + " --json", "dead-letter stats", "dead-letter groups",
		"dead-letter tag " + id + " ticket=1", "dead-letter replay " + id + " --set a=1", "dead-letter history " + id,
		"job list", "job " + later, "job cancel " + later, "queue pause " + queue + "x", "queue resume " + queue + "x", "queue list",
		"status", "worker list", "hooks list", "hooks disable " + queue, "hooks enable " + queue,
		"dead-letter export --queue " + queue + " --format jsonl -o " + file,
		"dead-letter delete --queue " + queue + " --yes",
		"dead-letter import " + file,
		"dead-letter replay --queue " + queue + " --all --yes",
		"dead-letter cleanup --days 30 --dry-run",
	} {
		if r := s.Run(strings.Fields(line)...); r.Code != 0 && r.Code != 3 {
			t.Errorf("soniq %s: exit %d: %s%s", line, r.Code, r.Out, r.Err)
		}
	}
	s.Signals <- syscall.SIGTERM
	if code := worker.Wait(t); code != 0 {
		t.Errorf("the worker ended with %d: %s", code, worker.Err.String())
	}
	for _, bad := range []string{"42P05", "26000", "08P01"} {
		for _, line := range strings.Split(worker.Err.String(), "\n") {
			if strings.Contains(line, bad) && !strings.Contains(line, "from now on none is used") {
				t.Errorf("the worker's log: %s", line)
			}
		}
	}
}

// nothingIsLeft looks at all of a pooler's connections to the server.
func nothingIsLeft(t *testing.T, direct, pooled string) {
	t.Helper()
	pool := testkit.Open(t, direct)
	if n := testkit.Count(t, pool, `
		select count(*) from pg_locks
		where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`); n > 0 {
		t.Errorf("%d advisory locks are left", n)
	}
	backends := testkit.Count(t, pool, `select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`)
	for range backends {
		// A transaction holds its server connection, so that each is another.
		conn, err := pgx.Connect(t.Context(), pooled)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(t.Context()) })
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var channels, settings []string
		if err := tx.QueryRow(t.Context(), `
			select array(select pg_listening_channels()),
			  array(select name || '=' || setting from pg_settings where source = 'session'
			    and name not in ('client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings', 'application_name'))`).
			Scan(&channels, &settings); err != nil {
			t.Fatal(err)
		}
		if len(channels)+len(settings) > 0 {
			t.Errorf("a connection of the pooler still listens on %q, and has %q", channels, settings)
		}
	}
}

// In statement mode there are no transactions: whoever needs one says so.
func TestPoolers_statementMode_isRefusedClearly(t *testing.T) {
	t.Parallel()
	direct := testdb.NewURL(t)
	s := clitest.NewShell(t, testkit.PgBouncer(t, direct, "statement"))
	s.OK("dead-letter", "list") // one statement
	for _, line := range []string{"setup", "worker --handle j=exec:true", "hooks run"} {
		r := s.Run(strings.Fields(line)...)
		if r.Code != 1 || !strings.Contains(r.Err, "statement mode") {
			t.Errorf("soniq %s: exit %d: %s%s, want an error about statement mode", line, r.Code, r.Out, r.Err)
		}
	}
}
