package poolers_test

import (
	"context"
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

// inTurns has PgBouncer pass on the server connection that was given back longest ago, so
// that no two transactions of a client come to the same one.
const inTurns = "server_round_robin = 1"

// arrangements are the ways in which a pooler can be in between.
var arrangements = []struct {
	name, mode string
	settings   []string
}{
	// In session mode each connection of the workers takes one to the server.
	{"session", "session", []string{"default_pool_size = 80"}},
	{"transaction", "transaction", []string{"default_pool_size = 80"}},
	{"transaction in turns", "transaction", []string{"default_pool_size = 80", inTurns}},
}

// The whole of the program runs behind PgBouncer, in session and in transaction mode,
// however pgx sends the statements, and leaves nothing of a session behind. In each mode a
// worker and a watch run; the commands are dealt out to the modes, and to others in each
// arrangement. 'make poolers' and 'make long' run each command in each mode.
func TestPoolers_everyCommand_everyMode(t *testing.T) {
	t.Parallel()
	for n, a := range arrangements {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			direct := testdb.EmptyURL(t)
			pooled := testkit.PgBouncer(t, direct, a.mode, a.settings...)
			grow(t, pooled)
			clitest.NewShell(t, withMode(t, pooled, "cache_statement")).OK("setup")
			t.Run("modes", func(t *testing.T) {
				for i, mode := range execModes {
					t.Run("exec mode "+mode, func(t *testing.T) {
						t.Parallel()
						queue, urls := string(rune('a'+i)), []string{withMode(t, pooled, mode)}
						begun := begin(t, urls[0], queue, "naïve 日本")
						if !testkit.Long() {
							urls = nil
							for k := range execModes {
								urls = append(urls, withMode(t, pooled, execModes[(k+n)%len(execModes)]))
							}
						}
						if testkit.Long() || i == n {
							begun.commands(t, urls)
						}
						begun.end(t)
					})
				}
			})
			alone(t, withMode(t, pooled, "cache_statement"), a.mode == "session")
			if a.mode == "transaction" {
				nothingIsLeft(t, direct, pooled, 80)
			}
		})
	}
}

// grow has a pooler make several connections to the server.
func grow(t *testing.T, pooled string) {
	t.Helper()
	for range 5 {
		conn, err := pgx.Connect(t.Context(), pooled)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
		if _, err := conn.Exec(t.Context(), "begin"); err != nil {
			t.Fatal(err)
		}
	}
}

// alone runs the commands that are for the whole of a database.
func alone(t *testing.T, databaseURL string, session bool) {
	t.Helper()
	s := clitest.NewShell(t, databaseURL)
	for _, line := range []string{"setup", "migrate list", "migrate check", "adopt --yes", "migrate down --to 0175 --yes", "migrate up", "hooks list"} {
		s.OK(strings.Fields(line)...)
	}
	for _, line := range []string{"migrate prebuild", "setup --optimize"} {
		r := s.Run(strings.Fields(line)...)
		if session && r.Code != 0 || !session && (r.Code != 1 || !strings.Contains(r.Err, "session of its own")) {
			t.Errorf("soniq %s: exit %d: %s%s", line, r.Code, r.Out, r.Err)
		}
	}
}

// everything runs a worker with hooks, and the commands, all of them where tests are long.
// text is what the database keeps of the error of a job.
func everything(t *testing.T, databaseURL, queue, text string, all bool) {
	t.Helper()
	begun := begin(t, databaseURL, queue, text)
	if all || testkit.Long() {
		begun.commands(t, []string{databaseURL})
	}
	begun.end(t)
}

// begun are a worker and a watch, which have seen a job die.
type begun struct {
	*clitest.Shell
	worker, watch *clitest.Running
	queue, id     string
}

func begin(t *testing.T, databaseURL, queue, text string) *begun {
	t.Helper()
	s := clitest.NewShell(t, databaseURL)
	s.OK("setup")
	worker := s.Start("worker", "--config", testkit.ConfigFile(t, config(queue)), "--allow-exec-hooks")
	eventually.True(t, "the worker to start", func() bool {
		if len(worker.Code) > 0 {
			t.Fatalf("the worker ended: %s", worker.Err.String())
		}
		return strings.Contains(worker.Err.String(), "worker started")
	})
	watch := s.Start("dead-letter", "watch", "--queue", queue)
	eventually.True(t, "the watch to start", func() bool {
		if len(watch.Code) > 0 {
			t.Fatalf("the watch ended: %s", watch.Err.String())
		}
		return strings.Contains(watch.Err.String(), "watching") || strings.Contains(watch.Err.String(), "don't arrive")
	})
	lines := filepath.Join(t.TempDir(), "jobs.jsonl")
	if err := os.WriteFile(lines, []byte("{\"args\": {\"n\": 1}}\n{\"args\": {\"n\": 2}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.OK("enqueue", "good", "--queue", queue, "--from", lines, "--wait")
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
	clitest.WantIn(t, "dead-letter show", s.OK("dead-letter", "show", id).Out, text)
	eventually.True(t, "the watch to tell of the dead letter", func() bool { return strings.Contains(watch.Out.String(), id) })
	return &begun{s, worker, watch, queue, id}
}

// commands runs them by turns through the URLs.
func (b *begun) commands(t *testing.T, urls []string) {
	t.Helper()
	s, queue, id := b.Shell, b.queue, b.id
	later := strings.TrimSpace(s.OK("enqueue", "good", "--queue", queue, "--delay", "1h").Out)
	buried := strings.TrimSpace(s.OK("enqueue", "good", "--queue", queue, "--delay", "1h").Out)
	file := filepath.Join(t.TempDir(), "dead.jsonl")
	for i, line := range []string{
		"dead-letter list --queue " + queue, "dead-letter list --job bad --queue " + queue + " --json", "dead-letter stats", "dead-letter groups",
		"dead-letter tag " + id + " ticket=1", "dead-letter replay " + id + " --set a=1", "dead-letter history " + id,
		"job list", "job " + later, "job cancel " + later, "queue pause " + queue + "x", "queue resume " + queue + "x", "queue list",
		"status", "worker list", "hooks list", "hooks disable " + queue, "hooks enable " + queue,
		"hooks add webhook http://127.0.0.1:1/" + queue + " --job none --name w" + queue, "hooks rotate-secret w" + queue, "hooks show w" + queue,
		"hooks deliveries --hook " + queue, "hooks retry --hook " + queue, "hooks remove w" + queue,
		"dead-letter check --max 100000", "job bury " + buried,
		"dead-letter export --queue " + queue + " --format jsonl -o " + file,
		"dead-letter delete --queue " + queue + " --yes",
		"dead-letter import " + file,
		"dead-letter replay --queue " + queue + " --all --yes",
		"dead-letter cleanup --days 30 --dry-run",
	} {
		if r := clitest.NewShell(t, urls[i%len(urls)]).Run(strings.Fields(line)...); r.Code != 0 && r.Code != 3 {
			t.Errorf("soniq %s: exit %d: %s%s", line, r.Code, r.Out, r.Err)
		}
	}
}

// end stops them in good order.
func (b *begun) end(t *testing.T) {
	t.Helper()
	b.Signals <- syscall.SIGTERM // one of the two takes it
	b.Signals <- syscall.SIGTERM
	for name, p := range map[string]*clitest.Running{"worker": b.worker, "watch": b.watch} {
		if code := p.Wait(t); code != 0 && code != 130 && code != 143 {
			t.Errorf("the %s ended with %d: %s", name, code, p.Err.String())
		}
		toldOnce(t, p.Err.String())
	}
}

// toldOnce looks whether a log tells at most once what a pooler can't do, and nothing else
// of it.
func toldOnce(t *testing.T, log string) {
	t.Helper()
	for _, told := range []string{"from now on none is used", "notifications don't arrive"} {
		if n := strings.Count(log, told); n > 1 {
			t.Errorf("the log says %d times %q: %s", n, told, log)
		}
	}
	for _, bad := range []string{"42P05", "26000", "08P01"} {
		for line := range strings.SplitSeq(log, "\n") {
			if strings.Contains(line, bad) && !strings.Contains(line, "from now on none is used") {
				t.Errorf("the log: %s", line)
			}
		}
	}
}

// nothingIsLeft looks at all of a pooler's connections to the server, of which it may
// have most at once.
func nothingIsLeft(t *testing.T, direct, pooled string, most int) {
	t.Helper()
	pool := testkit.Open(t, direct)
	if n := testkit.Count(t, pool, `
		select count(*) from pg_locks
		where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`); n > 0 {
		t.Errorf("%d advisory locks are left", n)
	}
	backends := testkit.Count(t, pool, `select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`)
	for range min(backends, most) {
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
