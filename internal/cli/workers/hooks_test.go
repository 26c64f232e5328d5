package workers_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"soniq/hooks"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/cli/workers"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// From a file and the environment alone to the messages; the table holds no
// secret, and what is taken out of the file isn't told any more.
func TestWorker_hooksOfItsConfiguration_areTold(t *testing.T) {
	t.Parallel()
	dir, pool := t.TempDir(), testdb.New(t)
	database := pool.Config().ConnString()
	fileURL, fileBodies := clitest.HookServer(t)
	slackURL, slackBodies := clitest.HookServer(t)
	paged := filepath.Join(dir, "paged")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "soniq.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const jobs = "jobs:\n  emails.send: {exec: exit 1, max_attempts: 1}\n"
	write(jobs + `hooks:
  orders:
    webhook: env:SONIQ_TEST_URL
    secret: env:SONIQ_TEST_SECRET
    headers: {Authorization: env:SONIQ_TEST_TOKEN}
    jobs: ["emails.*"]
    allow: [127.0.0.1]
  pager: {exec: "cat > paged.new; mv paged.new paged", reasons: [max_retries_exceeded]}
  audit: {log: true}
`)
	env := []string{
		"SONIQ_TEST_URL=" + fileURL + "/hunter2", "SONIQ_TEST_SECRET=" + testkit.Secret, "SONIQ_TEST_TOKEN=Bearer hunter2",
		"SONIQ_SLACK_WEBHOOK_URL=" + slackURL + "/hunter2", "SONIQ_HOOKS_ALLOW=127.0.0.0/8, 10.0.0.0/8",
	}
	run := func(args ...string) *clitest.Program {
		w := clitest.NewProgram(t, dir, database, args...)
		w.Env = append(w.Env, env...)
		w.Begin(t)
		return w
	}
	end := func(w *clitest.Program) {
		t.Helper()
		if err := w.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := w.Wait(); err != nil {
			t.Errorf("%v: %s", err, w.Err.String())
		}
	}
	s := clitest.NewShell(t, database)
	w := run("worker")
	s.OK("enqueue", "emails.send")
	clitest.WantIn(t, "webhook", clitest.Receive(t, fileBodies), "emails.send", "job.dead_lettered")
	clitest.WantIn(t, "message", clitest.Receive(t, slackBodies), "emails.send", "soniq dead-letter replay")
	eventually.True(t, "the command", func() bool { _, err := os.Stat(paged); return err == nil })
	eventually.True(t, "the log", func() bool {
		return strings.Contains(w.Err.String(), `"hook":"audit"`) && strings.Contains(w.Err.String(), `"msg":"dead letter"`)
	})
	clitest.WantIn(t, "log", w.Err.String(), `"from":"soniq.yaml:4"`, `"from":"the environment"`)
	end(w)
	rows := s.OK("hooks", "list", "--json").Out
	var table string
	if err := pool.QueryRow(t.Context(), `select string_agg(h::text, ' ') from soniq_hooks h`).Scan(&table); err != nil {
		t.Fatal(err)
	}
	clitest.WantIn(t, "table", table, "env:SONIQ_TEST_URL", "env:SONIQ_TEST_SECRET", "env:SONIQ_TEST_TOKEN", "env:SONIQ_SLACK_WEBHOOK_URL")
	for _, text := range []string{table, rows, w.Err.String()} {
		if strings.Contains(text, "hunter2") || strings.Contains(text, testkit.Secret) {
			t.Errorf("a secret is shown: %s", text)
		}
	}
	// 'pager' is out of the file; the rest goes on without jobs.
	if err := os.Remove(paged); err != nil {
		t.Fatal(err)
	}
	write(jobs + "hooks:\n  audit: {log: true}\n")
	w = run("hooks", "run")
	clitest.Seed(t, pool, clitest.Letter{Job: "emails.send"})
	clitest.WantIn(t, "message", clitest.Receive(t, slackBodies), "emails.send")
	eventually.True(t, "the mark", func() bool {
		return clitest.Count(t, pool, `select count(*) from soniq_hook_deliveries d join soniq_hooks h on h.id = d.hook_id where h.name in ('audit', 'env-slack') and state = 'delivered'`) == 4
	})
	end(w)
	if _, err := os.Stat(paged); err == nil {
		t.Error("what was taken out of the file was told")
	}
	clitest.WantIn(t, "removed", s.OK("hooks", "remove", "pager").Err, "stands in a configuration")
}

func TestWorker_hookOfTheFile_hasTheNameOfAnother_isOneError(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, testdb.NewURL(t))
	s.OK("hooks", "add", "log", "--name", "audit")
	path := testkit.ConfigFile(t, "jobs: {a: {exec: x}}\nhooks: {audit: {exec: x}}\n")
	for _, command := range []string{"worker", "hooks run"} {
		r := s.Run(append(strings.Fields(command), "--log-format", "text", "--config", path)...)
		clitest.WantCode(t, r, app.ExitFailed)
		clitest.WantIn(t, command, r.Err, path+`:2: 'soniq hooks add' has made a hook "audit" already`)
	}
	if h := clitest.Decode[hooks.Info](t, s.OK("hooks", "show", "audit", "--json").Out); h.Kind != "log" {
		t.Errorf("%+v", h)
	}
}

func TestWorker_checkConfig_showsTheHooks(t *testing.T) {
	t.Parallel()
	path := testkit.ConfigFile(t, `
jobs: {a: {exec: x}}
hooks:
  orders: {webhook: "https://example.com/hunter2", secret: env:SECRET, queues: [q], tags: {team: a}}
`)
	s := clitest.NewShell(t, "")
	clitest.WantCode(t, s.Run("worker", "--config", path, "--check-config"), app.ExitUsage)
	// Nothing is sent from here, so nothing is looked up.
	if out := s.OK("worker", "--config", path, "--check-config", "--no-hooks").Out; strings.Contains(out, "orders") {
		t.Errorf("%s", out)
	}
	s.OK("worker", "run-once", "a", "--config", testkit.ConfigFile(t, "jobs: {a: {exec: 'true'}}\nhooks: {b: {slack: env:NOT_SET}}\n"))
	s.Env["SECRET"], s.Env["SONIQ_SLACK_WEBHOOK_URL"] = testkit.Secret, "https://hooks.slack.com/hunter2"
	text := s.OK("worker", "--config", path, "--check-config").Out
	clitest.WantIn(t, "table", text, "orders     webhook  https://example.com/…", "queues q; tag team=a", "env-slack  slack    env:SONIQ_SLACK_WEBHOOK_URL", "all dead letters")
	asJSON := s.OK("worker", "--config", path, "--check-config", "--json").Out
	c := clitest.Decode[workers.CheckedConfig](t, asJSON)
	if len(c.Hooks) != 2 || c.Hooks[0].Secret != "env:SECRET" || c.Hooks[0].Tags["team"] != "a" {
		t.Errorf("%+v", c.Hooks)
	}
	if strings.Contains(text+asJSON, "hunter2") || strings.Contains(text+asJSON, testkit.Secret) {
		t.Errorf("a secret is shown: %s %s", text, asJSON)
	}
	for name, want := range map[string]string{
		"SONIQ_WEBHOOK_URL":       "SONIQ_WEBHOOK_URL is set, but not SONIQ_WEBHOOK_SECRET",
		"SONIQ_SLACK_WEBHOOK_URL": "SONIQ_SLACK_WEBHOOK_URL: the URL must begin with https://",
		"SONIQ_HOOKS_ALLOW":       "SONIQ_HOOKS_ALLOW: \"hunter\" is neither an address nor a network",
	} {
		other := clitest.NewShell(t, "")
		other.Env["SECRET"], other.Env["SONIQ_SLACK_WEBHOOK_URL"] = testkit.Secret, "https://hooks.slack.com/x"
		other.Env[name] = "hunter"
		r := other.Run("worker", "--config", path, "--check-config")
		clitest.WantCode(t, r, app.ExitUsage)
		clitest.WantIn(t, name, r.Err, want)
	}
}
