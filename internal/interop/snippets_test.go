package interop

import (
	"context"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// snippetsEnv is 'all' where the snippets of all clients are run, and cut off in each way.
const snippetsEnv = "SONIQ_TEST_SNIPPETS"

func allSnippets() bool { return os.Getenv(snippetsEnv) == "all" }

// A snippet is the last block of code of a page of docs/clients.
type snippet struct {
	page, language, file string
	// needs is what it runs with; nil is what every machine has.
	needs *environment
	build builder
	// program is a command that there must be.
	program string
	// silent says that it prints no announcements.
	silent bool
	// tcpOnly says that it has no deadline of its own for a query: TCP's must do.
	tcpOnly bool
	// script says that only 'make snippets' runs it: CI doesn't install the client.
	script bool
}

func snippets() []snippet {
	return []snippet{
		{page: "subscribe.md", language: "go", file: "main.go", build: withThisModule, silent: true},
		{page: "pgx.md", language: "go", file: "main.go", build: withThisModule},
		{page: "lib-pq.md", language: "go", file: "main.go", needs: libPQ, build: withGoModule, script: true},
		{page: "asyncpg.md", language: "python", file: "main.py", needs: releases[len(releases)-1], build: withVenv},
		{page: "psycopg.md", language: "python", file: "main.py", needs: psycopg, build: withVenv, script: true, tcpOnly: true},
		{page: "node-pg.md", language: "js", file: "main.js", needs: nodePG, build: withNode},
		{page: "postgres-js.md", language: "js", file: "main.js", needs: postgresJS, build: withNode, script: true},
		{page: "pgjdbc.md", language: "java", file: "Follow.java", needs: pgJDBC, build: withJar, script: true},
		{page: "sqlx.md", language: "rust", file: "main.rs", needs: sqlx, build: withCargo, script: true},
		{page: "psql.md", language: "sh", file: "main.sh", program: "psql", build: withShell, silent: true},
	}
}

func (s snippet) code(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/clients/" + s.page)
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```"+s.language+"\n(.*?)^```$").FindAllStringSubmatch(string(text), -1)
	if len(blocks) == 0 {
		t.Fatalf("%s has no %s", s.page, s.language)
	}
	return blocks[len(blocks)-1][1]
}

// command returns what runs the snippet, or nil where this machine can't.
func (s snippet) command(t *testing.T) []string {
	t.Helper()
	if s.program != "" {
		if _, err := exec.LookPath(s.program); err != nil {
			t.Logf("the snippet was not run: %v", err)
			return nil
		}
	}
	var folder string
	if s.needs != nil {
		var ok bool
		if folder, ok = need(t, s.needs); !ok {
			return nil
		}
	}
	file := filepath.Join(t.TempDir(), s.file)
	if err := os.WriteFile(file, []byte(s.code(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	return s.build(t, file, folder)
}

// The snippets of docs/clients, as they stand there: each tells what died before it came,
// what dies then, and what died while its connection was gone, once. What a machine lacks
// is named in the test's log.
func TestSnippets_cutOff_missNothingAndReadNothingTwice(t *testing.T) {
	t.Parallel()
	for _, s := range snippets() {
		t.Run(s.page, func(t *testing.T) {
			t.Parallel()
			if s.script && !allSnippets() {
				t.Logf("not run: 'make snippets' runs it")
				return
			}
			command := s.command(t)
			if command == nil {
				return
			}
			url := testdb.NewURL(t)
			f := followThrough(t, s, command, url)
			f.die(t, "before")
			f.readsAll(t)
			f.hears(t)
			for _, cut := range cuts() {
				if cut.name != silentNetwork || !s.tcpOnly {
					f.isCutOff(t, cut)
				}
			}
			f.hears(t)
			f.readNothingTwice(t)
		})
	}
}

// Each page is about one snippet, and each snippet asks the same.
func TestSnippets_eachPageOfClients_isRun(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../../docs/clients/*.md")
	if err != nil {
		t.Fatal(err)
	}
	run := map[string]bool{}
	for _, s := range snippets() {
		run[s.page] = true
		_ = s.code(t)
	}
	for _, page := range pages {
		if !run[filepath.Base(page)] {
			t.Errorf("%s is run by no test", page)
		}
	}
}

// silentNetwork is a cut that only a program's own deadline notices.
const silentNetwork = "the network loses every byte"

// A cut takes a follower's connections away, and gives them back.
type cut struct {
	name       string
	away, back func(t *testing.T, f *following)
}

func cuts() []cut {
	all := []cut{
		{
			name: "the server ends the session",
			away: func(t *testing.T, f *following) {
				execute(t, f.pool, `
					select pg_terminate_backend(pid)
					from pg_stat_activity
					where datname = current_database() and pid <> pg_backend_pid()`)
			},
		},
		{
			name: "the server can't be reached",
			away: func(_ *testing.T, f *following) { f.proxy.Down() },
			back: func(t *testing.T, f *following) { f.proxy.Up(t, f.pool.Config().ConnString()) },
		},
	}
	if allSnippets() {
		all = append(all,
			cut{name: "the network closes the connection", away: func(_ *testing.T, f *following) { f.proxy.Cut() }},
			// A proxy whose server is gone. The follower gives its connection up by itself;
			// its new one leads into the hole, too.
			cut{
				name: silentNetwork,
				away: func(_ *testing.T, f *following) {
					f.seen = f.proxy.Accepted()
					f.proxy.BlackHole()
				},
				back: func(t *testing.T, f *following) {
					eventually.True(t, "another connection", func() bool { return f.proxy.Accepted() > f.seen })
					f.proxy.Cut()
				},
			})
	}
	return all
}

// following is a program that follows the dead letters through a proxy.
type following struct {
	snippet
	program *program
	proxy   *testkit.Proxy
	pool    *pgxpool.Pool
	ids     []uuid.UUID
	seen    int
}

func followThrough(t *testing.T, s snippet, command []string, url string) *following {
	t.Helper()
	f := &following{snippet: s, proxy: testkit.StartProxy(t, url)}
	f.connect(t, url)
	through := f.proxy.Through(t, url)
	if s.needs != nil {
		through = f.asReader(t, through)
	}
	if s.language == "java" {
		through = jdbcURL(t, through)
	}
	f.program = start(t, runnable(command, "DATABASE_URL="+through))
	return f
}

// asReader gives a role of its own to a client that isn't ours: with the one right that docs/channel.md asks
// for, and with a password that the server has derived in the usual 4,096 rounds. Those of the test server's own
// role are 1, which saves time, and which lib/pq refuses.
func (f *following) asReader(t *testing.T, url string) string {
	t.Helper()
	u, err := neturl.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	role := "reader_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	execute(t, f.pool, `create role `+role+` login password 'reads'`)
	t.Cleanup(func() {
		if _, err := f.pool.Exec(context.Background(), `drop owned by `+role+`; drop role `+role, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Error(err)
		}
	})
	execute(t, f.pool, `grant select on soniq_dead_letter_feed to `+role)
	u.User = neturl.UserPassword(role, "reads")
	return u.String()
}

// connect has the test's own statements go to a database.
func (f *following) connect(t *testing.T, url string) {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 2 // the one that asks, and an older transaction
	if f.pool, err = pgxpool.NewWithConfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.pool.Close)
}

const oneDeathSQL = `
insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
  dead_letter_reason, original_created_at, moved_to_dead_letter_at)
values ($1, $2, '{}', 'default', 100, 3, 3, 'max_retries_exceeded', now(), now())`

func (f *following) die(t *testing.T, job string) {
	t.Helper()
	id := uuid.New()
	execute(t, f.pool, oneDeathSQL, id, job)
	f.ids = append(f.ids, id)
}

// readsAll waits until the follower has told of each death.
func (f *following) readsAll(t *testing.T) {
	t.Helper()
	for _, id := range f.ids {
		eventually.True(t, "dead letter "+id.String()+"; it says "+f.program.Err.String(), func() bool {
			return strings.Contains(f.program.Out.String(), "dead letter "+id.String())
		})
	}
}

// hears waits until the follower hears of a death, not only reads it.
func (f *following) hears(t *testing.T) {
	t.Helper()
	if f.silent {
		return
	}
	before := strings.Count(f.program.Out.String(), "announced ")
	eventually.True(t, "an announcement; it says "+f.program.Err.String(), func() bool {
		f.die(t, "then")
		return strings.Count(f.program.Out.String(), "announced ") > before
	})
	f.readsAll(t)
}

func (f *following) isCutOff(t *testing.T, c cut) {
	t.Helper()
	older, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = older.Rollback(context.Background()) }()
	id := uuid.New()
	if _, err := older.Exec(t.Context(), oneDeathSQL, id, "older"); err != nil {
		t.Fatal(err)
	}
	if c.name == "the server ends the session" {
		// That session is the test's own, too.
		if err := older.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	c.away(t, f)
	for _, job := range []string{"away", "again\n1 x"} {
		f.die(t, job)
	}
	if err := older.Commit(t.Context()); err != nil && c.name != "the server ends the session" {
		t.Fatal(err)
	}
	f.ids = append(f.ids, id)
	if c.back != nil {
		c.back(t, f)
	}
	f.readsAll(t)
}

func (f *following) readNothingTwice(t *testing.T) {
	t.Helper()
	out := f.program.Out.String()
	for _, id := range f.ids {
		if n := strings.Count(out, "dead letter "+id.String()); n != 1 {
			t.Errorf("%s is told %d times", id, n)
		}
	}
	if n := strings.Count(out, "dead letter "); n != len(f.ids) {
		t.Errorf("%s: it tells of %d dead letters, and there are %d", f.page, n, len(f.ids))
	}
	if t.Failed() {
		t.Logf("it says %s", out)
	}
}

// A program that a test runs, and what it says.
type program struct {
	*exec.Cmd
	Out, Err testkit.Log
}

func start(t *testing.T, cmd *exec.Cmd) *program {
	t.Helper()
	p := &program{Cmd: cmd}
	p.Stdout, p.Stderr = &p.Out, &p.Err
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Process.Kill()
		_ = p.Wait()
	})
	return p
}
