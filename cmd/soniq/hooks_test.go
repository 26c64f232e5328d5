package main

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
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

func TestHooks_failingJob_isOnSlackWithinASecond(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	database := pool.Config().ConnString()
	s := newShell(t, database)
	url, bodies := hookServer(t)
	s.ok("hooks", "add", "slack", url+"/T0/B0/hunter2", "--allow", "127.0.0.1")
	w := program(t, t.TempDir(), database, "worker", "--handle", "emails.send=exec:echo boom >&2; exit 1")
	w.begin(t)
	eventually.True(t, "the worker", func() bool { return strings.Contains(w.err.String(), "worker started") })
	s.ok("enqueue", "emails.send", "--max-attempts", "1")
	body := receive(t, bodies)
	var id string
	var took float64
	err := pool.QueryRow(t.Context(), `
		select id::text, extract(epoch from clock_timestamp() - moved_to_dead_letter_at)::float8
		from soniq_dead_letter_jobs`).Scan(&id, &took)
	if err != nil {
		t.Fatal(err)
	}
	wantIn(t, "message", body, "emails.send", "boom", "max_retries_exceeded", "soniq dead-letter replay "+id)
	if took > 1 {
		t.Errorf("it took %.3f s from the death to the message", took)
	}
	eventually.True(t, "the mark", func() bool { return strings.Contains(s.ok("hooks", "deliveries").out, "delivered") })
	shown := s.ok("hooks", "show", "slack").out + s.ok("hooks", "list").out + s.ok("hooks", "list", "--json").out + w.err.String()
	if strings.Contains(shown, "hunter2") {
		t.Errorf("the URL is shown: %s", shown)
	}
}

func TestHooks_test_printsTheAnswer(t *testing.T) {
	t.Parallel()
	s := newShell(t, testdb.NewURL(t))
	url, bodies := hookServer(t)
	added := s.ok("hooks", "add", "webhook", url, "--name", "orders", "--allow", "127.0.0.0/8")
	if !strings.HasPrefix(added.out, "whsec_") {
		t.Errorf("no secret: %s", added.out)
	}
	wantIn(t, "answer", s.ok("hooks", "test", "orders").out, "Delivered; the answer was 200 ok")
	wantIn(t, "body", receive(t, bodies), `"sample":true`)
	if shown := s.ok("hooks", "show", "orders").out + s.ok("hooks", "show", "orders", "--json").out; strings.Contains(shown, strings.TrimSpace(added.out)) {
		t.Errorf("the secret is shown again: %s", shown)
	}
	rotated := s.ok("hooks", "rotate-secret", "orders")
	if rotated.out == added.out || !strings.HasPrefix(rotated.out, "whsec_") {
		t.Errorf("rotated to %s", rotated.out)
	}
	wantIn(t, "answer", s.ok("hooks", "test", "orders").out, "Delivered")
}

func TestHooks_show_hasEverySettingAndNoSecret(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	s.ok("hooks", "add", "webhook", "https://example.com/hunter2", "--name", "w", "--header", "X-Team: hunter2", "--header", "Authorization: env:TOKEN",
		"--allow", "10.0.0.0/8", "--include-args", "--queue", "q")
	s.ok("hooks", "add", "webhook", "env:URL", "--name", "e", "--secret", "env:SECRET")
	s.ok("hooks", "add", "slack", "https://hooks.slack.com/hunter2", "--base-url", "https://soniq.example.com/d")
	s.ok("hooks", "add", "log")
	show := func(name string, want ...string) {
		t.Helper()
		out := s.ok("hooks", "show", name).out
		wantIn(t, name, out, want...)
		if asJSON := s.ok("hooks", "show", name, "--json").out; strings.Contains(out+asJSON, "hunter2") || strings.Contains(out+asJSON, "whsec_") {
			t.Errorf("a secret is shown: %s %s", out, asJSON)
		}
	}
	show("w", "Secret     in the database\n", "Headers    Authorization: env:TOKEN, X-Team: (hidden)\n", "May reach  10.0.0.0/8\n", "Arguments  sent\n", "Queues     q\n")
	s.ok("hooks", "rotate-secret", "w")
	show("w", "Secret     two in the database")
	show("e", "Target     env:URL\n", "Secret     env:SECRET\n", "Arguments  not sent\n")
	show("slack", "Link       https://soniq.example.com/d\n")
	change(t, pool, `update soniq_hooks set failures = 5, blocked_until = now() + interval '1 hour' where name = 'log'`)
	seed(t, pool, letter{queue: "q"})
	change(t, pool, `update soniq_hook_deliveries set next_attempt_at = now() + interval '90 minutes', last_error = 'refused'`)
	wantIn(t, "deliveries", s.ok("hooks", "deliveries", "w").out, "due in 1h", " refused")
	change(t, pool, `update soniq_hook_deliveries set lease = gen_random_uuid()`)
	wantIn(t, "deliveries", s.ok("hooks", "deliveries", "w").out, "being sent refused")
	show("log", "State      failing (5)\n", "Next try   in ")
	h := decode[hooks.Info](t, s.ok("hooks", "show", "w", "--json").out)
	if h.SecretFrom != "database" || h.Secrets != 2 || h.Headers["X-Team"] != "(hidden)" || h.Headers["Authorization"] != "env:TOKEN" || !h.Args {
		t.Errorf("%+v", h)
	}
}

func TestHooks_mistakes_areNamed(t *testing.T) {
	t.Parallel()
	s := newShell(t, testdb.NewURL(t))
	s.ok("hooks", "add", "log")
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
		r := s.run(append([]string{"hooks"}, c.args...)...)
		if r.code != c.code || !strings.Contains(r.err, c.want) || r.out != "" && c.code != 4 {
			t.Errorf("%v: exit %d, %q, %q; want %d and %q", c.args, r.code, r.out, r.err, c.code, c.want)
		}
	}
}

func TestHooks_killedBetweenSendAndMark_sendsAgainWithTheSameID(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	database := pool.Config().ConnString()
	s := newShell(t, database)
	ids, hold := make(chan string, 10), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		ids <- r.Header.Get("webhook-id")
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	s.ok("hooks", "add", "webhook", server.URL, "--allow", "127.0.0.1")
	seed(t, pool, letter{job: "j"})
	first := program(t, t.TempDir(), database, "hooks", "run")
	first.begin(t)
	id := receive(t, ids)
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	close(hold)
	// The lease is over.
	if _, err := pool.Exec(t.Context(), `update soniq_hook_deliveries set next_attempt_at = now() where state = 'pending'`); err != nil {
		t.Fatal(err)
	}
	second := program(t, t.TempDir(), database, "hooks", "run")
	second.begin(t)
	if again := receive(t, ids); again != id {
		t.Errorf("sent as %s, then as %s", id, again)
	}
	eventually.True(t, "the mark", func() bool { return strings.Contains(s.ok("hooks", "deliveries").out, "delivered") })
}

// A command that a row names runs only where somebody said that it may, and
// dies with its dispatcher.
func TestHooks_exec_isAskedFor_andDiesWithItsDispatcher(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	database := pool.Config().ConnString()
	s := newShell(t, database)
	pids := filepath.Join(t.TempDir(), "pids")
	added := s.ok("hooks", "add", "exec", "cat >/dev/null; printf 'paged\\033[2J'", "--name", "pager", "--queue", "none")
	wantIn(t, "note", added.err, "--allow-exec-hooks")
	r := s.run("hooks", "test", "pager")
	wantCode(t, r, app.ExitUsage)
	wantIn(t, "refusal", r.err, "hook \"pager\" runs a command: cat >/dev/null; printf 'paged", "--allow-exec-hooks")
	if out := s.ok("hooks", "test", "pager", "--allow-exec-hooks").out; out != "Delivered; the answer was paged\\x1b[2J\n" {
		t.Errorf("%q", out)
	}
	s.ok("hooks", "add", "exec", "sleep 300 & echo $! $$ > "+pids+".new; mv "+pids+".new "+pids+"; wait", "--name", "slow")
	wantIn(t, "list", s.ok("hooks", "list").out, "sleep 300 & echo")
	seed(t, pool, letter{job: "j"})
	first := program(t, t.TempDir(), database, "hooks", "run", "--allow-exec-hooks")
	first.begin(t)
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
	newShell(t, database).ok("hooks", "add", "webhook", server.URL, "--allow", "127.0.0.1")
	var processes []*process
	for range 5 {
		p := program(t, t.TempDir(), database, "hooks", "run")
		p.begin(t)
		processes = append(processes, p)
	}
	for _, p := range processes {
		eventually.True(t, "a dispatcher", func() bool { return strings.Contains(p.err.String(), "sending hooks") })
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
		return count(t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered'`)
	})
	for _, p := range processes {
		if err := p.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err != nil {
			t.Errorf("%v: %s", err, p.err.String())
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
	s := newShell(t, database)
	s.ok("hooks", "add", "slack", server.URL, "--allow", "127.0.0.1")
	first := program(t, t.TempDir(), database, "worker", "--handle", "emails.send=exec:exit 1")
	first.begin(t)
	id := strings.TrimSpace(s.ok("enqueue", "emails.send", "--max-attempts", "1").out)
	receive(t, tried)
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	second := program(t, t.TempDir(), database, "hooks", "run")
	second.begin(t)
	eventually.True(t, "a dispatcher", func() bool { return strings.Contains(second.err.String(), "sending hooks") })
	count(t, pool, `
		select count(pg_terminate_backend(pid)) from pg_stat_activity
		where datname = current_database() and pid <> pg_backend_pid()`)
	up.Store(true)
	eventually.True(t, "the delivery", func() bool {
		// As if the time of the lease and of the next try had come.
		change(t, pool, `update soniq_hooks set blocked_until = null`)
		change(t, pool, `update soniq_hook_deliveries set next_attempt_at = now() where state = 'pending'`)
		change(t, pool, `select pg_notify('soniq_hook', '')`)
		return count(t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered'`) == 1
	})
	wantIn(t, "message", receive(t, bodies), "soniq dead-letter replay "+id)
}
