package hooks_test

import (
	"context"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/hooks"
	"soniq/internal/cli"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// fullDisk is a standard output that takes nothing, or fails when it is synced.
type fullDisk struct{ late bool }

func (f fullDisk) Write(p []byte) (int, error) {
	if f.late {
		return len(p), nil
	}
	return 0, errNoSpace
}

func (f fullDisk) Sync() error { return errNoSpace }

// A secret that nobody could be shown is nobody's: every command that shows one
// leaves all as it was.
func TestHooks_secretCanNotBeShown_nothingIsChanged(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.OK("hooks", "add", "webhook", "https://example.com/x", "--name", "w")
	before := text(t, pool, `select secrets from soniq_hooks where name = 'w'`)
	for _, args := range [][]string{
		{"hooks", "rotate-secret", "w"},
		{"hooks", "rotate-secret", "w", "--drop"},
		{"hooks", "rotate-secret", "w", "--json"},
		{"hooks", "add", "webhook", "https://example.com/y", "--name", "new"},
		{"hooks", "add", "webhook", "https://example.com/y", "--name", "new", "--json"},
		{"hooks", "keygen"},
		{"hooks", "keygen", "--json"},
	} {
		for _, out := range []io.Writer{fullDisk{}, fullDisk{late: true}} {
			var notes clitest.Stream
			if code := cli.Run(s.Process(out, &notes), args); code != app.ExitFailed {
				t.Errorf("%v: exit %d", args, code)
			}
			if said := notes.String(); strings.Count(said, "\n") != 1 || !strings.Contains(said, "no space left on device") {
				t.Errorf("%v: %q", args, said)
			}
		}
	}
	if after := text(t, pool, `select secrets from soniq_hooks where name = 'w'`); after != before {
		t.Error("the secret was rotated")
	}
	if n := clitest.Count(t, pool, `select count(*) from soniq_hooks`); n != 1 {
		t.Errorf("%d hooks", n)
	}
	// What is shown is what is kept.
	shown := strings.TrimSpace(s.OK("hooks", "rotate-secret", "w", "--drop").Out)
	if kept := text(t, pool, `select secrets from soniq_hooks where name = 'w'`); kept != shown {
		t.Errorf("shown %q, kept %q", shown, kept)
	}
}

// A closed standard output, as that of a cron job or a daemon can be, takes all
// that is written to it, and so does /dev/null.
func TestHooks_secretCanNotBeShown_outputIsClosed(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	url := pool.Config().ConnString()
	clitest.NewShell(t, url).OK("hooks", "add", "webhook", "https://example.com/x", "--name", "w")
	before := text(t, pool, `select secrets from soniq_hooks where name = 'w'`)
	for _, command := range []string{
		`"$0" hooks rotate-secret w >&-`,
		`"$0" hooks rotate-secret w --drop --json >/dev/null`,
		`"$0" hooks add webhook https://example.com/y --name new >&-`,
	} {
		p := clitest.NewProgram(t, t.TempDir(), url)
		p.Path, p.Args = "/bin/sh", []string{"sh", "-c", command, p.Path}
		err := p.Run()
		if p.ProcessState.ExitCode() != app.ExitFailed || !strings.Contains(p.Err.String(), "nothing was changed") || strings.Count(p.Err.String(), "\n") != 1 {
			t.Errorf("%s: %v, %q", command, err, p.Err.String())
		}
	}
	if after := text(t, pool, `select secrets from soniq_hooks where name = 'w'`); after != before {
		t.Error("the secret was rotated")
	}
	if n := clitest.Count(t, pool, `select count(*) from soniq_hooks`); n != 1 {
		t.Errorf("%d hooks", n)
	}
}

// Where the database refuses after the secret was shown, the person is told
// that it is void.
func TestHooks_secretIsShownAndNotKept_isCalledVoid(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.OK("hooks", "add", "webhook", "https://example.com/x", "--name", "w")
	clitest.Exec(t, pool, `
		create function refuse() returns trigger language plpgsql as $$ begin raise exception 'not today'; end $$;
		create constraint trigger refuse after insert or update on soniq_hooks deferrable initially deferred
		for each row execute function refuse()`)
	for _, args := range [][]string{{"hooks", "rotate-secret", "w"}, {"hooks", "add", "webhook", "https://example.com/y", "--name", "new"}} {
		r := s.Run(args...)
		clitest.WantCode(t, r, app.ExitFailed)
		clitest.WantIn(t, "error", r.Err, "the secret that was shown is void", "not today")
	}
}

func text(t *testing.T, pool *pgxpool.Pool, sql string) (s string) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql).Scan(&s); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return s
}

// A row that asks for more than its dispatchers have is seen to wait, and the
// command names the flag each time.
func TestHooks_rowNeedsAFlag_isSaidEverywhere(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.Env["SONIQ_HOOK_ALLOW"] = ""
	const flags = "--hook-allow 10.0.0.0/8 --hook-env AWS_KEY"
	added := s.OK("hooks", "add", "webhook", "https://example.com/x", "--name", "w", "--header", "X-A: env:AWS_KEY", "--allow", "10.0.0.0/8")
	clitest.WantIn(t, "note", added.Err, "only workers that were started with "+flags+" send to it", "soniq hooks test w "+flags)
	clitest.WantIn(t, "show", s.OK("hooks", "show", "w").Out, "Needs      "+flags)
	r := s.Run("hooks", "test", "w")
	clitest.WantCode(t, r, app.ExitUsage)
	clitest.WantIn(t, "test", r.Err, "give it "+flags)
	clitest.Seed(t, pool, clitest.Letter{})
	clitest.Exec(t, pool, `update soniq_hook_deliveries set next_attempt_at = now() - interval '1 hour'`)
	p := clitest.NewProgram(t, t.TempDir(), pool.Config().ConnString(), "hooks", "run")
	p.Env = append(p.Env, "SONIQ_HOOK_ALLOW=")
	p.Begin(t)
	eventually.True(t, "the warning", func() bool { return strings.Contains(p.Err.String(), flags) })
	eventually.True(t, "the state", func() bool {
		return strings.Contains(s.OK("hooks", "list").Out, "waiting: it needs a dispatcher that was started with "+flags)
	})
	if h := clitest.Decode[hooks.Info](t, s.OK("hooks", "show", "w", "--json").Out); !strings.Contains(h.Unavailable, flags) || h.Pending != 1 || h.Failures != 0 {
		t.Errorf("%+v", h)
	}
	clitest.Exec(t, pool, `update soniq_hooks set dropped = 1234`)
	clitest.WantIn(t, "list", s.OK("hooks", "list").Out, "dropped 1,234")
	clitest.WantIn(t, "show", s.OK("hooks", "show", "w").Out, "Dropped    1,234")
	for _, c := range []struct{ name, value, want string }{
		{"SONIQ_HOOK_ENV", "A,b c", `SONIQ_HOOK_ENV: "b c" can't be the name of a variable`},
		{"SONIQ_HOOK_ENV", "SONIQ_HOOK_KEY", "SONIQ_HOOK_KEY is Soniq's own"},
		{"SONIQ_HOOK_ALLOW", "hunter", `SONIQ_HOOK_ALLOW: "hunter" is neither`},
		{"SONIQ_HOOK_KEY", "hunter2", "SONIQ_HOOK_KEY: key 1 must be 32 bytes"},
		{"SONIQ_HOOK_KEY", "file:/no/such/file", "SONIQ_HOOK_KEY: open /no/such/file"},
		{"SONIQ_HOOK_KEY", "file:", "SONIQ_HOOK_KEY names no file after file:"},
	} {
		other := clitest.NewShell(t, pool.Config().ConnString())
		other.Env[c.name] = c.value
		for _, command := range []string{"hooks run", "hooks test w", "worker --handle a=exec:true"} {
			r := other.Run(strings.Fields(command)...)
			clitest.WantCode(t, r, app.ExitUsage)
			clitest.WantIn(t, command, r.Err, c.want)
			if strings.Contains(r.Err, "hunter2") {
				t.Errorf("%s: the key is shown: %s", command, r.Err)
			}
		}
	}
	for _, flag := range []string{"--hook-env=a b", "--hook-allow=x", "--hook-concurrency=0", "--hook-key-file=/dev/null"} {
		clitest.WantCode(t, s.Run("hooks", "run", flag), app.ExitUsage)
	}
}

// The variables stand for the flags, and what a file or the environment
// declares needs neither.
func TestHooks_test_withWhatItNeeds(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	server, bodies := clitest.HookServer(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.Env["SONIQ_HOOK_ALLOW"] = ""
	s.OK("hooks", "add", "webhook", server, "--allow", "127.0.0.1")
	s.OK("hooks", "test", "webhook", "--hook-allow", "127.0.0.0/8")
	clitest.Receive(t, bodies)
	s.Env["SONIQ_HOOK_ALLOW"] = "10.0.0.0/8, 127.0.0.0/8"
	s.OK("hooks", "test", "webhook")
	clitest.Receive(t, bodies)
	path := testkit.ConfigFile(t, "hooks: {mine: {slack: \""+server+"/hunter2\", allow: [127.0.0.1]}}\n")
	p := clitest.NewProgram(t, filepath.Dir(path), pool.Config().ConnString(), "hooks", "run", "--config", path)
	p.Begin(t)
	eventually.True(t, "the declaration", func() bool { return strings.Contains(s.OK("hooks", "list").Out, "mine") })
	s.Env["SONIQ_HOOK_ALLOW"] = ""
	r := s.Run("hooks", "test", "mine")
	clitest.WantCode(t, r, app.ExitFailed)
	clitest.WantIn(t, "refusal", r.Err, "give --config FILE")
	s.OK("hooks", "test", "mine", "--config", path)
	clitest.Receive(t, bodies)
	if table := text(t, pool, `select string_agg(h::text, ' ') from soniq_hooks h`); strings.Contains(table, "hunter2") {
		t.Errorf("%s", table)
	}
}

func TestHooks_seal_fromTheKeyToTheRequest(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	server, bodies := clitest.HookServer(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	clitest.WantCode(t, s.Run("hooks", "seal"), app.ExitUsage)
	first, second := strings.TrimSpace(s.OK("hooks", "keygen").Out), clitest.Decode[map[string]string](t, s.OK("hooks", "keygen", "--json").Out)["key"]
	s.OK("hooks", "add", "webhook", server+"/hunter2", "--name", "old", "--allow", "127.0.0.1")
	s.Env["SONIQ_HOOK_KEY"] = first
	s.OK("hooks", "add", "webhook", server+"/hunter2", "--name", "new", "--allow", "127.0.0.1", "--header", "X-A: hunter2")
	if out := s.OK("hooks", "seal").Out; out != "Sealed old\n" {
		t.Errorf("%q", out)
	}
	clitest.WantIn(t, "again", s.OK("hooks", "seal").Err, "nothing to seal")
	table := text(t, pool, `select string_agg(h::text, ' ') from soniq_hooks h`)
	if strings.Contains(table, "hunter2") || strings.Contains(table, "whsec_") {
		t.Errorf("a secret is in the table: %s", table)
	}
	show := s.OK("hooks", "show", "new").Out
	clitest.WantIn(t, "show", show, "Secret     in the database, sealed\n", "X-A: (sealed)", "Target     http://127.0.0.1:")
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, []byte(second+"\n"+first+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]string{"old": first, "new": "file:" + path} {
		s.Env["SONIQ_HOOK_KEY"] = key
		s.OK("hooks", "test", name)
		clitest.Receive(t, bodies)
	}
	s.Env["SONIQ_HOOK_KEY"] = ""
	clitest.WantIn(t, "no key", s.Run("hooks", "test", "old").Err, "SONIQ_HOOK_KEY")
	r := s.Run("hooks", "rotate-secret", "old")
	clitest.WantCode(t, r, app.ExitFailed)
	if r.Out != "" {
		t.Errorf("a secret that isn't kept was shown: %s", r.Out)
	}
	s.OK("hooks", "rotate-secret", "old", "--hook-key-file", path)
	clitest.WantIn(t, "show", s.OK("hooks", "show", "old").Out, "two in the database, sealed")
	sealed := clitest.Decode[hooks.SealResult](t, s.OK("hooks", "seal", "--hook-key-file", path, "--json").Out)
	if len(sealed.Sealed) != 2 {
		t.Errorf("%+v", sealed)
	}
	s.Env["SONIQ_HOOK_KEY"] = first
	// One without a secret is nothing that was done.
	s.OK("hooks", "add", "log")
	r = s.Run("hooks", "seal")
	clitest.WantCode(t, r, app.ExitFailed)
	clitest.WantIn(t, "another key", r.Err, "new, old")
}

// Whoever may read the view alone can list and show hooks, and reads no secret
// anywhere; the tables stay closed to them.
func TestHooks_viewer_hasTheViewAndNoSecret(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.OK("hooks", "add", "webhook", "https://example.com/hunter2", "--name", "w", "--header", "X-A: hunter2", "--tag", "team=a")
	s.OK("hooks", "add", "exec", "notify --password=hunter2 'a b'", "--name", "e")
	s.OK("hooks", "add", "slack", "env:SONIQ_HOOK_SLACK")
	tags := `{"team": "a"}`
	clitest.Seed(t, pool, clitest.Letter{Tags: &tags})
	// What a hostile row holds is shown as nothing, and breaks nothing.
	clitest.Exec(t, pool, `
		insert into soniq_hooks (name, kind, url, secrets, settings) values
		('x1', 'webhook', 'https://user:hunter2@example.com/', 'hunter2', '{"headers": {"A": {"env:X": "hunter2"}}, "allow": {"a": 1}, "base_url": "https://u:hunter2@x/"}'),
		('x2', 'slack', 'env:hunter2 hunter2', 'env:sealed:hunter2', '[1]'),
		('x3', 'slack', 'env:sealed:v1:00:AA:https://a/hunter2', null, '"hunter2"'),
		('x4', 'webhook', E'https://a\nhttps://b/hunter2', 'env:sealed:v1:0:0:999999', '{"headers": 1, "allow": "hunter2", "args": "hunter2"}')`)
	role := "viewer_" + strings.ReplaceAll(strings.ToLower(t.Name()), "/", "_") + "_" + text(t, pool, `select substr(md5(random()::text), 1, 8)`)
	clitest.Exec(t, pool, `create role `+role+` login password 'viewer'`)
	t.Cleanup(func() {
		if _, err := pool.Exec(context.Background(), "drop owned by "+role+"; drop role "+role); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "viewer")
	viewer := clitest.NewShell(t, u.String())
	clitest.WantCode(t, viewer.Run("hooks", "list"), app.ExitFailed) // setup grants nothing by itself
	clitest.Exec(t, pool, `grant select on soniq_hook_status to `+role)
	var all strings.Builder
	for _, args := range [][]string{
		{"list"}, {"list", "--json"}, {"show", "w"}, {"show", "w", "--json"}, {"show", "e"}, {"show", "slack"}, {"show", "x1", "--json"}, {"show", "x4"},
	} {
		all.WriteString(viewer.OK(append([]string{"hooks"}, args...)...).Out)
	}
	clitest.WantIn(t, "list", all.String(), "https://example.com/…", "env:SONIQ_HOOK_SLACK", "(hidden)", "(unreadable)", `{"team": "a"}`)
	var view string
	viewing, err := pgxpool.New(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer viewing.Close()
	if err := viewing.QueryRow(t.Context(), `select string_agg(v::text, ' ') from soniq_hook_status v`).Scan(&view); err != nil {
		t.Fatal(err)
	}
	for _, where := range []string{all.String(), view} {
		if strings.Contains(where, "hunter2") || strings.Contains(where, "whsec_") || strings.Contains(where, "notify") {
			t.Errorf("a secret is shown: %s", where)
		}
	}
	for _, sql := range []string{
		`select url from soniq_hooks`, `select secrets from soniq_hooks`, `select settings from soniq_hooks`, `select * from soniq_hook_deliveries`,
		`select soniq_hook_listeners()`,
	} {
		if _, err := viewing.Exec(t.Context(), sql); err == nil {
			t.Errorf("a viewer may: %s", sql)
		}
	}
	// Who may read the table sees the command, without what looks like a secret.
	list := s.OK("hooks", "list").Out
	clitest.WantIn(t, "list", list, "notify --password=[redacted]")
	if strings.Contains(list, "hunter2") {
		t.Errorf("%s", list)
	}
}

var errNoSpace error = &os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.ENOSPC}
