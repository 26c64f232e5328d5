package hooks_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"soniq/hooks"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// What 'hooks list' and 'hooks show' say is so: a hook whose deliveries nobody sends is
// not ok.
func TestList_state_isTrue(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.OK("hooks", "add", "slack", "env:SONIQ_HOOK_S", "--name", "h")
	state := func() string {
		t.Helper()
		s.OK("hooks", "list")
		for line := range strings.Lines(s.OK("hooks", "show", "h").Out) {
			if text, ok := strings.CutPrefix(line, "State"); ok {
				return strings.TrimSpace(text)
			}
		}
		return ""
	}
	if got := state(); got != "ok" {
		t.Errorf("without deliveries: %q", got)
	}
	clitest.Seed(t, pool, clitest.Letter{})
	for _, test := range []struct{ hook, delivery, want string }{
		{"", "next_attempt_at = now()", "due"},
		{"", "next_attempt_at = now() - interval '24 minutes'", "waiting: no dispatcher"},
		{"", "next_attempt_at = now() + interval '1 minute', lease = gen_random_uuid()", "sending"},
		{"", "next_attempt_at = now() + interval '53 seconds', lease = null", "digest due in 5"},
		{"failures = 3", "next_attempt_at = now()", "failing (3)"},
		{"failures = 3", "next_attempt_at = now() - interval '24 minutes'", "failing (3); waiting: no dispatcher"},
		{"blocked_until = now() + interval '1 hour'", "next_attempt_at = now() - interval '24 minutes'", "failing (3)"},
		{"failures = 0, lacks = 'SONIQ_HOOK_S is not set', blocked_until = null", "next_attempt_at = now() - interval '1 hour'", "waiting: SONIQ_HOOK_S is not set"},
		{"lacks = null, declared_at = now()", "next_attempt_at = now() - interval '1 hour'", "waiting: no dispatcher with its configuration"},
		{"enabled = false, disabled_reason = 'by hand'", "next_attempt_at = now()", "disabled: by hand"},
	} {
		if test.hook != "" {
			testkit.Exec(t, pool, "update soniq_hooks set "+test.hook)
		}
		testkit.Exec(t, pool, "update soniq_hook_deliveries set "+test.delivery)
		if got := state(); !strings.HasPrefix(got, test.want) || test.want == "failing (3)" && got != test.want {
			t.Errorf("%s, %s: %q, want %q", test.hook, test.delivery, got, test.want)
		}
	}
	testkit.Exec(t, pool, "update soniq_hook_deliveries set created_at = now() - interval '24 minutes'")
	clitest.WantIn(t, "list", s.OK("hooks", "list").Out, "OLDEST", "24m")
}

// 'hooks deliveries' says which job, which dead letter, and that a digest gathers it. Its
// flag is that of 'hooks retry', which takes what waits, too.
func TestDeliveries_andRetry_agree(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.OK("hooks", "add", "slack", "env:SONIQ_HOOK_S")
	id := clitest.Seed(t, pool, clitest.Letter{Job: "orders.ship"})
	testkit.Exec(t, pool, "update soniq_hook_deliveries set next_attempt_at = now() + interval '50 seconds'")
	clitest.WantIn(t, "deliveries", s.OK("hooks", "deliveries", "--hook", "slack").Out, "orders.ship", id.String(), "digest due in ")
	clitest.WantCode(t, s.Run("hooks", "deliveries", "slack", "--hook", "other"), app.ExitUsage)
	if r := s.OK("hooks", "retry", "--hook", "slack"); r.Out != "1 delivery is due now\n" {
		t.Errorf("%+v", r)
	}
	if d := clitest.Decode[[]hooks.DeliveryInfo](t, s.OK("hooks", "deliveries", "slack", "--json").Out); len(d) != 1 || d[0].JobName != "orders.ship" || d[0].Kind != hooks.Slack {
		t.Errorf("%+v", d)
	}
}

// What a retry makes due is sent, or it says why not.
func TestRetry_disabledHook_saysThatItSendsNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.OK("hooks", "add", "log", "--name", "on call")
	s.OK("hooks", "add", "log", "--name", "other")
	clitest.Seed(t, pool, clitest.Letter{})
	s.OK("hooks", "disable", "on call")
	id := testkit.Value[string](t, pool, "select d.id::text from soniq_hook_deliveries d join soniq_hooks h on h.id = d.hook_id where not h.enabled")
	for _, args := range [][]string{{"--hook", "on call"}, {id}, {id, "--hook", "other", "--json"}} {
		r := s.OK(append([]string{"hooks", "retry"}, args...)...)
		clitest.WantIn(t, strings.Join(args, " "), r.Err, "hook on call is disabled (by hand): it sends what is due after 'soniq hooks enable 'on call''")
		if strings.Contains(r.Err, "other") {
			t.Errorf("%v: %s", args, r.Err)
		}
	}
	testkit.Exec(t, pool, "update soniq_hooks set enabled = true, lacks = 'it needs --hook-env X', lacks_at = now() where name = 'on call'")
	clitest.WantIn(t, "a hook that lacks something", s.OK("hooks", "retry", id).Err, "hook on call waits: it needs --hook-env X")
	if r := s.OK("hooks", "retry", "--hook", "other"); r.Err != "" {
		t.Errorf("nothing is in its way: %s", r.Err)
	}
}

// An id that is not made due is named, and is no success: it may be misspelt.
func TestRetry_namesWhatItLeaves(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.OK("hooks", "add", "log")
	clitest.Seed(t, pool, clitest.Letter{})
	clitest.Seed(t, pool, clitest.Letter{})
	testkit.Exec(t, pool, "update soniq_hook_deliveries set state = 'delivered', delivered_at = now() where seq = (select min(seq) from soniq_hook_deliveries)")
	delivered := testkit.Value[string](t, pool, "select id::text from soniq_hook_deliveries where state = 'delivered'")
	waits := testkit.Value[string](t, pool, "select id::text from soniq_hook_deliveries where state = 'pending'")
	const unknown = "01890a5d-ac96-774b-bcce-b302099a8057"
	r := s.Run("hooks", "retry", delivered, waits, unknown, waits)
	clitest.WantCode(t, r, app.ExitPartly)
	clitest.WantIn(t, "the count", r.Out, "1 delivery is due now")
	clitest.WantIn(t, "what is left", r.Err, delivered, unknown)
	if strings.Contains(r.Err, waits) {
		t.Errorf("it says that %s was left: %s", waits, r.Err)
	}
	clitest.WantCode(t, s.Run("hooks", "retry", delivered, unknown), app.ExitNothing)
	s.OK("hooks", "retry", waits, waits)
}

// A name that no hook has keeps no other hook from being changed.
func TestHooks_oneOfManyIsUnknown_othersAreChanged(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, testdb.NewURL(t))
	s.OK("hooks", "add", "log", "--name", "one")
	s.OK("hooks", "add", "log", "--name", "two")
	for _, verb := range []string{"disable", "enable", "remove"} {
		r := s.Run("hooks", verb, "one", "tow", "two", "--json")
		clitest.WantCode(t, r, app.ExitPartly)
		clitest.WantIn(t, verb, r.Out, `"one"`, `"two"`, `"id": "tow"`)
		clitest.WantIn(t, verb, r.Err, `there is no hook "tow"`)
	}
	if r := s.Run("hooks", "list"); strings.Contains(r.Out, "one") || strings.Contains(r.Out, "two") {
		t.Errorf("they are there still: %s", r.Out)
	}
}

// Where a name is taken, each way to add it says what has it, and what helps.
func TestAdd_nameIsTaken_saysWhatHelps(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.OK("hooks", "add", "log", "--name", "added")
	testkit.Exec(t, pool, "insert into soniq_hooks (name, kind, declared_at) values ('declared', 'log', now())")
	slack := []string{"hooks", "add", "slack", "env:SONIQ_HOOK_S", "--name"}
	log := []string{"hooks", "add", "log", "--name"}
	for _, c := range []struct {
		add     []string
		name    string
		replace bool
		want    string
	}{
		{log, "added", false, "--replace changes it"},
		{slack, "added", false, "is of the kind log, which --replace doesn't change"},
		{slack, "added", true, "is of the kind log, which --replace doesn't change"},
		{log, "declared", false, "stands in a configuration: change it there"},
		{log, "declared", true, "stands in a configuration: change it there"},
		{slack, "declared", true, "stands in a configuration: change it there"},
		{log, "none", true, "leave --replace out to add it"},
	} {
		args := append(slices.Clone(c.add), c.name)
		if c.replace {
			args = append(args, "--replace")
		}
		r := s.Run(args...)
		clitest.WantCode(t, r, app.ExitFailed)
		clitest.WantIn(t, strings.Join(args, " "), r.Err, c.want)
	}
}

// A hook is changed without losing what waits for it, and a misspelt reason is refused.
func TestAdd_replace_keepsWhatWaits(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.OK("hooks", "add", "webhook", "https://example.com/a", "--name", "h")
	clitest.Seed(t, pool, clitest.Letter{})
	secret := testkit.Value[string](t, pool, "select secrets from soniq_hooks")
	again := []string{"hooks", "add", "webhook", "https://example.com/b", "--name", "h", "--allow", "10.0.0.0/8", "--header", "X: y", "--tag", "team=a"}
	clitest.WantIn(t, "the name is taken", s.Run(again...).Err, "--replace changes it")
	r := s.OK(append(again, "--replace")...)
	if r.Out != "" || !strings.Contains(r.Err, "changed hook h") {
		t.Errorf("%+v", r)
	}
	h := clitest.Decode[hooks.Info](t, s.OK("hooks", "show", "h", "--json").Out)
	if h.Pending != 1 || len(h.Allow) != 1 || len(h.Headers) != 1 || string(h.Tags) == "null" || testkit.Value[string](t, pool, "select secrets from soniq_hooks") != secret {
		t.Errorf("%+v", h)
	}
	r = s.Run("hooks", "add", "log", "--name", "none", "--replace")
	clitest.WantCode(t, r, app.ExitFailed)
	clitest.WantIn(t, "no such hook", r.Err, "leave --replace out")
	r = s.Run("hooks", "add", "log", "--reason", "timout")
	clitest.WantCode(t, r, app.ExitUsage)
	clitest.WantIn(t, "reason", r.Err, `did you mean "timeout"?`)
	path := testkit.ConfigFile(t, "jobs: {a: {exec: x}}\nhooks:\n  h: {log: true, reasons: [timout]}\n")
	r = s.Run("worker", "--config", path, "--check-config")
	clitest.WantCode(t, r, app.ExitUsage)
	clitest.WantIn(t, "reasons", r.Err, ":3: h: reasons: ", `did you mean "timeout"?`)
}

// A line break at the end of a variable, as a file of secrets has it, is no part of a URL,
// a header or a secret. A byte order mark is no part of arguments.
func TestEnvironment_lineBreakAtTheEnd_isNoPartOfTheValue(t *testing.T) {
	pool := testdb.New(t)
	header := make(chan string, 1)
	endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { header <- r.Header.Get("X-Token") }))
	t.Cleanup(endpoint.Close)
	s := clitest.NewShell(t, pool.Config().ConnString())
	for name, value := range map[string]string{
		"SONIQ_HOOK_URL": endpoint.URL + "\n", "SONIQ_HOOK_TOKEN": "token\r\n", "SONIQ_HOOK_SECRET": testkit.Secret + "\n",
	} {
		t.Setenv(name, value)
		s.Env[name] = value
	}
	s.OK("hooks", "add", "webhook", "env:SONIQ_HOOK_URL", "--secret", "env:SONIQ_HOOK_SECRET", "--header", "X-Token: env:SONIQ_HOOK_TOKEN", "--allow", "127.0.0.0/8")
	s.OK("hooks", "test", "webhook", "--hook-allow", "127.0.0.0/8")
	if got := <-header; got != "token" {
		t.Errorf("the header was %q", got)
	}
	path := testkit.ConfigFile(t, "jobs: {a: {http: env:SONIQ_HOOK_URL, headers: {X-Token: env:SONIQ_HOOK_TOKEN}, secret: env:SONIQ_HOOK_SECRET}}\n")
	s.OK("worker", "--config", path, "--check-config")
	args := filepath.Join(t.TempDir(), "args.json")
	if err := os.WriteFile(args, []byte("\xef\xbb\xbf{\"a\": 1}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.OK("enqueue", "j", "--args", "@"+args)
}
