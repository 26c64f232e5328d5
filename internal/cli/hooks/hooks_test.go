package hooks_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/hooks"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

func TestHooks_failingJob_isOnSlackWithinASecond(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	database := pool.Config().ConnString()
	s := clitest.NewShell(t, database)
	url, bodies := clitest.HookServer(t)
	s.OK("hooks", "add", "slack", url+"/T0/B0/hunter2", "--allow", "127.0.0.1")
	w := clitest.NewProgram(t, t.TempDir(), database, "worker", "--handle", "emails.send=exec:echo boom >&2; exit 1")
	w.Begin(t)
	eventually.True(t, "the worker", func() bool { return strings.Contains(w.Err.String(), "worker started") })
	s.OK("enqueue", "emails.send", "--max-attempts", "1")
	body := clitest.Receive(t, bodies)
	var id string
	var took float64
	err := pool.QueryRow(t.Context(), `
		select id::text, extract(epoch from clock_timestamp() - moved_to_dead_letter_at)::float8
		from soniq_dead_letter_jobs`).Scan(&id, &took)
	if err != nil {
		t.Fatal(err)
	}
	clitest.WantIn(t, "message", body, "emails.send", "boom", "max_retries_exceeded", "soniq dead-letter replay "+id)
	if took > 1 {
		t.Errorf("it took %.3f s from the death to the message", took)
	}
	eventually.True(t, "the mark", func() bool { return strings.Contains(s.OK("hooks", "deliveries").Out, "delivered") })
	shown := s.OK("hooks", "show", "slack").Out + s.OK("hooks", "list").Out + s.OK("hooks", "list", "--json").Out + w.Err.String()
	if strings.Contains(shown, "hunter2") {
		t.Errorf("the URL is shown: %s", shown)
	}
}

func TestHooks_test_printsTheAnswer(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, testdb.NewURL(t))
	url, bodies := clitest.HookServer(t)
	added := s.OK("hooks", "add", "webhook", url, "--name", "orders", "--allow", "127.0.0.0/8")
	if !strings.HasPrefix(added.Out, "whsec_") {
		t.Errorf("no secret: %s", added.Out)
	}
	clitest.WantIn(t, "answer", s.OK("hooks", "test", "orders").Out, "Delivered; the answer was 200 ok")
	clitest.WantIn(t, "body", clitest.Receive(t, bodies), `"sample":true`)
	if shown := s.OK("hooks", "show", "orders").Out + s.OK("hooks", "show", "orders", "--json").Out; strings.Contains(shown, strings.TrimSpace(added.Out)) {
		t.Errorf("the secret is shown again: %s", shown)
	}
	rotated := s.OK("hooks", "rotate-secret", "orders")
	if rotated.Out == added.Out || !strings.HasPrefix(rotated.Out, "whsec_") {
		t.Errorf("rotated to %s", rotated.Out)
	}
	clitest.WantIn(t, "answer", s.OK("hooks", "test", "orders").Out, "Delivered")
}

func TestHooks_show_hasEverySettingAndNoSecret(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.OK("hooks", "add", "webhook", "https://example.com/hunter2", "--name", "w", "--header", "X-Team: hunter2", "--header", "Authorization: env:TOKEN",
		"--allow", "10.0.0.0/8", "--include-args", "--queue", "q")
	s.OK("hooks", "add", "webhook", "env:URL", "--name", "e", "--secret", "env:SECRET")
	s.OK("hooks", "add", "slack", "https://hooks.slack.com/hunter2", "--base-url", "https://soniq.example.com/d")
	s.OK("hooks", "add", "log")
	show := func(name string, want ...string) {
		t.Helper()
		out := s.OK("hooks", "show", name).Out
		clitest.WantIn(t, name, out, want...)
		if asJSON := s.OK("hooks", "show", name, "--json").Out; strings.Contains(out+asJSON, "hunter2") || strings.Contains(out+asJSON, "whsec_") {
			t.Errorf("a secret is shown: %s %s", out, asJSON)
		}
	}
	show("w", "Secret     in the database\n", "Headers    Authorization: env:TOKEN, X-Team: (hidden)\n", "May reach  10.0.0.0/8\n", "Arguments  sent\n", "Queues     q\n")
	s.OK("hooks", "rotate-secret", "w")
	show("w", "Secret     two in the database")
	show("e", "Target     env:URL\n", "Secret     env:SECRET\n", "Arguments  not sent\n")
	show("slack", "Link       https://soniq.example.com/d\n")
	clitest.Exec(t, pool, `update soniq_hooks set failures = 5, blocked_until = now() + interval '1 hour' where name = 'log'`)
	clitest.Seed(t, pool, clitest.Letter{Queue: "q"})
	clitest.Exec(t, pool, `update soniq_hook_deliveries set next_attempt_at = now() + interval '90 minutes', last_error = 'refused'`)
	clitest.WantIn(t, "deliveries", s.OK("hooks", "deliveries", "w").Out, "due in 1h", " refused")
	clitest.Exec(t, pool, `update soniq_hook_deliveries set lease = gen_random_uuid()`)
	clitest.WantIn(t, "deliveries", s.OK("hooks", "deliveries", "w").Out, "being sent refused")
	show("log", "State      failing (5)\n", "Next try   in ")
	h := clitest.Decode[hooks.Info](t, s.OK("hooks", "show", "w", "--json").Out)
	if h.SecretFrom != "database" || h.Secrets != 2 || h.Headers["X-Team"] != "(hidden)" || h.Headers["Authorization"] != "env:TOKEN" || !h.Args {
		t.Errorf("%+v", h)
	}
}

// A command that is printed can be pasted into a shell, whatever the hook is called.
func TestHooks_addNamesACommandThatWorks(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, testdb.NewURL(t))
	for name, want := range map[string]string{
		"plain":        `'soniq hooks test plain'`,
		"two words":    `'soniq hooks test 'two words''`,
		`the "x" it's`: `'soniq hooks test 'the "x" it'\''s''`,
		"$(reboot)":    `'soniq hooks test '$(reboot)''`,
	} {
		clitest.WantIn(t, "add", s.OK("hooks", "add", "log", "--name", name).Err, want)
		clitest.WantIn(t, "change", s.OK("hooks", "add", "log", "--name", name, "--replace").Err, want)
	}
}

func TestHooks_mistakes_areNamed(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, testdb.NewURL(t))
	s.OK("hooks", "add", "log")
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{2, "must begin with https://", []string{"add", "webhook", "ftp://example.com"}},
		{2, "user name or password", []string{"add", "slack", "https://a:b@example.com"}},
		{2, "--secret must be env:NAME", []string{"add", "webhook", "https://example.com", "--secret", "whsec_x"}},
		{2, "--event must be job.dead_lettered, job.resurrected or job.resolved, not", []string{"add", "log", "--event", "x"}},
		{2, "neither an address nor a network", []string{"add", "slack", "https://example.com", "--allow", "x"}},
		{2, "is set by Soniq itself", []string{"add", "webhook", "https://example.com", "--header", "webhook-id: 1"}},
		{2, "the command is empty", []string{"add", "exec", " "}},
		{1, `there is a hook "log" already`, []string{"add", "log"}},
		{1, `there is no hook "x"`, []string{"test", "x"}},
		{1, `there is no hook "x"`, []string{"remove", "x"}},
		{4, `there is no hook "x"`, []string{"disable", "log", "x"}},
		{2, "--state must be", []string{"deliveries", "--state", "x"}},
		{2, "is not the id of a delivery", []string{"retry", "x"}},
		{3, "nothing was changed", []string{"retry", "--hook", "log"}},
	} {
		r := s.Run(append([]string{"hooks"}, c.args...)...)
		if r.Code != c.code || !strings.Contains(r.Err, c.want) || r.Out != "" && c.code != 4 {
			t.Errorf("%v: exit %d, %q, %q; want %d and %q", c.args, r.Code, r.Out, r.Err, c.code, c.want)
		}
	}
}

func TestHooks_killedBetweenSendAndMark_sendsAgainWithTheSameID(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	database := pool.Config().ConnString()
	s := clitest.NewShell(t, database)
	ids, hold := make(chan string, 10), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		ids <- r.Header.Get("webhook-id")
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	s.OK("hooks", "add", "webhook", server.URL, "--allow", "127.0.0.1")
	clitest.Seed(t, pool, clitest.Letter{Job: "j"})
	first := clitest.NewProgram(t, t.TempDir(), database, "hooks", "run")
	first.Begin(t)
	id := clitest.Receive(t, ids)
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	close(hold)
	// The lease is over.
	if _, err := pool.Exec(t.Context(), `update soniq_hook_deliveries set next_attempt_at = now() where state = 'pending'`); err != nil {
		t.Fatal(err)
	}
	second := clitest.NewProgram(t, t.TempDir(), database, "hooks", "run")
	second.Begin(t)
	if again := clitest.Receive(t, ids); again != id {
		t.Errorf("sent as %s, then as %s", id, again)
	}
	eventually.True(t, "the mark", func() bool { return strings.Contains(s.OK("hooks", "deliveries").Out, "delivered") })
}

// A command that a row names runs only where somebody said that it may, and
// dies with its dispatcher.
func TestHooks_exec_isAskedFor_andDiesWithItsDispatcher(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	database := pool.Config().ConnString()
	s := clitest.NewShell(t, database)
	pids := filepath.Join(t.TempDir(), "pids")
	added := s.OK("hooks", "add", "exec", "cat >/dev/null; printf 'paged\\033[2J'", "--name", "pager", "--queue", "none")
	clitest.WantIn(t, "note", added.Err, "--allow-exec-hooks")
	r := s.Run("hooks", "test", "pager")
	clitest.WantCode(t, r, app.ExitUsage)
	clitest.WantIn(t, "refusal", r.Err, "hook \"pager\" runs a command: cat >/dev/null; printf 'paged", "--allow-exec-hooks")
	if out := s.OK("hooks", "test", "pager", "--allow-exec-hooks").Out; out != "Delivered; the answer was paged\\x1b[2J\n" {
		t.Errorf("%q", out)
	}
	s.OK("hooks", "add", "exec", "sleep 300 & echo $! $$ > "+pids+".new; mv "+pids+".new "+pids+"; wait", "--name", "slow")
	clitest.WantIn(t, "list", s.OK("hooks", "list").Out, "sleep 300 & echo")
	clitest.Seed(t, pool, clitest.Letter{Job: "j"})
	first := clitest.NewProgram(t, t.TempDir(), database, "hooks", "run", "--allow-exec-hooks")
	first.Begin(t)
	eventually.True(t, "the command", func() bool { _, err := os.Stat(pids); return err == nil })
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	testkit.ProcessesEnd(t, pids)
}

func TestHooks_fiveProcesses_deliverEachOnce(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	database := pool.Config().ConnString()
	var mu sync.Mutex
	times := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		times[r.Header.Get("webhook-id")]++
	}))
	t.Cleanup(server.Close)
	clitest.NewShell(t, database).OK("hooks", "add", "webhook", server.URL, "--allow", "127.0.0.1")
	var processes []*clitest.Program
	for range 5 {
		p := clitest.NewProgram(t, t.TempDir(), database, "hooks", "run")
		p.Begin(t)
		processes = append(processes, p)
	}
	for _, p := range processes {
		eventually.True(t, "a dispatcher", func() bool { return strings.Contains(p.Err.String(), "sending hooks") })
	}
	for range 10 {
		if _, err := pool.Exec(t.Context(), `
			insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason,
			  original_created_at, moved_to_dead_letter_at)
			select gen_random_uuid(), 'j', '{}', 'default', 1, 1, 1, 'timeout', now(), now()
			from generate_series(1, 100)`); err != nil {
			t.Fatal(err)
		}
	}
	eventually.Count(t, "deliveries", 1000, func() int {
		return clitest.Count(t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered'`)
	})
	for _, p := range processes {
		if err := p.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err != nil {
			t.Errorf("%v: %s", err, p.Err.String())
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for id, n := range times {
		if n != 1 {
			t.Errorf("%s was sent %d times", id, n)
		}
	}
	if len(times) != 1000 {
		t.Errorf("%d deliveries, want 1000", len(times))
	}
}

// Slack is away, the worker that tries it is killed, and every connection to
// the database is cut: the message comes once all are back.
func TestHooks_everyPlugPulled_onlyDelaysTheMessage(t *testing.T) {
	t.Parallel()
	config := testdb.New(t).Config()
	config.MaxConns = 1 // whose backend is the one that cuts the others
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	database := config.ConnString()
	var up atomic.Bool
	tried, bodies := make(chan string, 1000), make(chan string, 1000)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		tried <- string(b)
		if up.Load() {
			bodies <- string(b)
			return
		}
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = conn.Close()
		}
	}))
	t.Cleanup(server.Close)
	s := clitest.NewShell(t, database)
	s.OK("hooks", "add", "slack", server.URL, "--allow", "127.0.0.1")
	first := clitest.NewProgram(t, t.TempDir(), database, "worker", "--handle", "emails.send=exec:exit 1")
	first.Begin(t)
	id := strings.TrimSpace(s.OK("enqueue", "emails.send", "--max-attempts", "1").Out)
	clitest.Receive(t, tried)
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	second := clitest.NewProgram(t, t.TempDir(), database, "hooks", "run")
	second.Begin(t)
	eventually.True(t, "a dispatcher", func() bool { return strings.Contains(second.Err.String(), "sending hooks") })
	clitest.Count(t, pool, `
		select count(pg_terminate_backend(pid)) from pg_stat_activity
		where datname = current_database() and pid <> pg_backend_pid()`)
	up.Store(true)
	eventually.True(t, "the delivery", func() bool {
		// As if the time of the lease and of the next try had come.
		clitest.Exec(t, pool, `update soniq_hooks set blocked_until = null`)
		clitest.Exec(t, pool, `update soniq_hook_deliveries set next_attempt_at = now() where state = 'pending'`)
		clitest.Exec(t, pool, `select pg_notify('soniq_hook', '')`)
		return clitest.Count(t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered'`) == 1
	})
	clitest.WantIn(t, "message", clitest.Receive(t, bodies), "soniq dead-letter replay "+id)
}
