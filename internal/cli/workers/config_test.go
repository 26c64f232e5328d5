package workers_test

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/cli/workers"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// A whole life of soniq.yaml: the worker is started in its folder without a
// flag, and everything in it holds.
func TestWorker_configFile_isServedAsWritten(t *testing.T) {
	t.Parallel()
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer hunter2" || r.Header.Get("Webhook-Signature") == "" {
			w.WriteHeader(http.StatusGone)
			return
		}
		_, _ = io.Copy(w, r.Body)
	}))
	t.Cleanup(endpoint.Close)
	dir, pool := t.TempDir(), testdb.New(t)
	if err := os.Mkdir(filepath.Join(dir, "inner"), 0o700); err != nil {
		t.Fatal(err)
	}
	config := `
timeout: 20s
result_ttl: 1h
jobs:
  command:
    exec: printf '["%s", "%s", "%s"]' "$GREETING" "$TOKEN" "$(basename "$PWD")"
    queue: side
    env: {GREETING: hello, TOKEN: env:SONIQ_TEST_TOKEN}
    dir: inner
  endpoint:
    http: ` + endpoint.URL + `/x?token=hunter2
    headers: {Authorization: env:SONIQ_TEST_TOKEN}
    secret: ` + testkit.Secret + `
  permanent: {exec: echo gone >&2; exit 7, permanent_exit_codes: [6, 7]}
  sent-away: {exec: exit 127, max_attempts: 1}
  tried-twice: {exec: exit 8, max_attempts: 2, retry: [1ms], permanent_exit_codes: [7]}
  slow: {exec: sleep 60, timeout: 100ms, max_attempts: 1}
  later: {exec: exit 1, retry: {base: 90s, jitter: false}}
`
	if err := os.WriteFile(filepath.Join(dir, "soniq.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s := clitest.NewShell(t, pool.Config().ConnString())
	w := clitest.NewProgram(t, dir, pool.Config().ConnString(), "worker")
	w.Env = append(w.Env, "SONIQ_TEST_TOKEN=Bearer hunter2")
	w.Begin(t)
	for _, test := range []struct {
		name   string
		flags  []string
		status engine.JobStatus
		reason classify.Reason
		result string
	}{
		{name: "command", flags: []string{"--queue", "side"}, status: engine.StatusDone, result: `["hello", "Bearer hunter2", "inner"]`},
		{name: "endpoint", flags: []string{"--args", `{"n": 1}`}, status: engine.StatusDone, result: `{"n": 1}`},
		{name: "permanent", status: engine.StatusDeadLetter, reason: classify.PermanentFailure},
		{name: "sent-away", status: engine.StatusDeadLetter, reason: classify.MaxRetriesExceeded},
		{name: "tried-twice", status: engine.StatusDeadLetter, reason: classify.MaxRetriesExceeded},
		{name: "slow", status: engine.StatusDeadLetter, reason: classify.Timeout},
		{name: "later", status: engine.StatusQueued},
	} {
		id := strings.TrimSpace(s.OK(append([]string{"enqueue", test.name}, test.flags...)...).Out)
		var job engine.Job
		eventually.True(t, test.name, func() bool {
			job = clitest.Decode[engine.Job](t, s.OK("job", id, "--json").Out)
			return job.Status == test.status && (test.status != engine.StatusQueued || job.LastError != "")
		})
		if job.DeadLetterReason != test.reason || !testkit.SameJSON(t, job.Result, test.result) {
			t.Errorf("%s: %+v", test.name, job)
		}
		if test.name == "tried-twice" && job.Attempts != 2 {
			t.Errorf("%s: %d attempts", test.name, job.Attempts)
		}
		if test.name == "later" && (job.ScheduledAt == nil || job.ScheduledAt.Sub(job.UpdatedAt).Round(1e9) != 90e9) {
			t.Errorf("%s: due at %v, failed at %v", test.name, job.ScheduledAt, job.UpdatedAt)
		}
	}
	if err := w.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := w.Wait(); err != nil {
		t.Errorf("%v: %s", err, w.Err.String())
	}
	clitest.WantIn(t, "log", w.Err.String(), `"queues":["default","side"]`, `"from":"soniq.yaml:5"`, `"job_name":"endpoint"`, "the command of a handler can't be run")
	if strings.Contains(w.Err.String(), "hunter2") || strings.Contains(w.Err.String(), testkit.Secret) {
		t.Errorf("a secret was logged: %s", w.Err.String())
	}
}

func TestWorker_checkConfig_needsNoDatabase_showsNoSecret(t *testing.T) {
	t.Parallel()
	path := testkit.ConfigFile(t, `
concurrency: 3
timeout: 2m
jobs:
  a: {exec: ./a, queue: q, timeout: 0, max_attempts: 5, retry: [1s, 1m30s], concurrency: 2, permanent_exit_codes: [3], env: {TOKEN: hunter2}, dir: .}
  b: {http: "https://user:hunter2@h/path?token=hunter2#", secret: `+testkit.Secret+`}
  c: {http: "env:URL", headers: {X-Token: hunter2}, secret: "env:SECRET", retry: {base: 2s, max: 1m, jitter: false}}
`)
	// A '#' is a mistake: see that it is one, then go on without.
	s := clitest.NewShell(t, "")
	s.Env["URL"], s.Env["SECRET"] = "http://h/hunter2", testkit.Secret
	r := s.Run("worker", "--config", path, "--check-config")
	clitest.WantCode(t, r, app.ExitUsage)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(data), `hunter2#"`, `hunter2"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	text := s.OK("worker", "--config", path, "--check-config", "--handle", "d=exec:./d", "--handle", "e=HTTP://u:hunter2@h:8080/?hunter2", "--queues", "q,r")
	clitest.WantIn(t, "table", text.Out,
		"JOB  HANDLER ", "a    exec ./a ", "none ", "1s, 1m30s ",
		"b    http https://h/path?... ", "2m ", "1s, doubled up to 1h ",
		"c    http env:URL ", "2s, doubled up to 1m, exact ", "d    exec ./d", "e    http http://h:8080/?...")
	if want := path + " is valid; queues q, r; 3 jobs at once\nattempts '-': as many as each job says, 4 unless its producer set it\n"; text.Err != want {
		t.Errorf("stderr %q, want %q", text.Err, want)
	}
	asJSON := s.OK("worker", "--config", path, "--check-config", "--json")
	c := clitest.Decode[workers.CheckedConfig](t, asJSON.Out)
	if c.Config != path || !slices.Equal(c.Queues, []string{"default", "q"}) || c.Concurrency != 3 || len(c.Jobs) != 3 {
		t.Errorf("%+v", c)
	}
	if a := c.Jobs[0]; a.Timeout != "none" || a.MaxAttempts != 5 || a.Concurrency != 2 || !slices.Equal(a.Env, []string{"TOKEN"}) || !slices.Equal(a.PermanentExitCodes, []int{3}) {
		t.Errorf("%+v", a)
	}
	if b := c.Jobs[2]; !b.Signed || !slices.Equal(b.Headers, []string{"X-Token"}) || b.HTTP != "env:URL" {
		t.Errorf("%+v", b)
	}
	if all := r.Err + text.Out + text.Err + asJSON.Out + asJSON.Err; strings.Contains(all, "hunter2") || strings.Contains(all, testkit.Secret) {
		t.Errorf("a secret was printed: %s", all)
	}
}

func TestWorker_flagsAndFile_sameName_isAMistake(t *testing.T) {
	t.Parallel()
	path := testkit.ConfigFile(t, "timeout: 1s\njobs:\n  a: {exec: x}\n")
	r := clitest.NewShell(t, "").Run("worker", "--config", path, "--handle", "a=exec:y")
	clitest.WantCode(t, r, app.ExitUsage)
	clitest.WantIn(t, "stderr", r.Err, `--handle names "a", which `+path+" has in line 3 already")
	clitest.CheckComplaint(t, r)
}

// A URL in the wrong place may hold a password, which nothing tells.
func TestWorker_badHandleFlag_isOneLineWithoutTheURL(t *testing.T) {
	t.Parallel()
	for handle, want := range map[string]string{
		"https://u:hunter2@h/":           "there is a URL in place of the name",
		"https://u:hunter2@h/?a=b":       "there is a URL in place of the name",
		"=https://u:hunter2@h/":          "has no name",
		"j=ftp://u:hunter2@h/":           `is followed by "ftp", not by exec:, http:// or https://`,
		"j=http://u:hunter2@h:port/":     "--handle j: the URL",
		"j=https://":                     "--handle j: the URL has no host",
		"j=https://u:hunter2@h/#hunter2": "--handle j: the URL has a '#'",
		"j=":                             "not by exec:, http:// or https://",
	} {
		for _, command := range [][]string{{"worker"}, {"worker", "--check-config"}, {"worker", "run-once", "j"}} {
			r := clitest.NewShell(t, "").Run(append(command, "--handle", handle)...)
			clitest.WantCode(t, r, app.ExitUsage)
			clitest.WantIn(t, handle, r.Err, want)
			clitest.CheckComplaint(t, r)
		}
	}
}

// A file without jobs serves nothing by itself; its settings hold for flags.
func TestWorker_fileOfSettings_takesHandlersFromFlags(t *testing.T) {
	t.Parallel()
	path := testkit.ConfigFile(t, "timeout: 1s\n")
	s := clitest.NewShell(t, "")
	r := s.Run("worker", "--config", path)
	clitest.WantCode(t, r, app.ExitUsage)
	clitest.WantIn(t, "stderr", r.Err, "no handler", "has no jobs", "--handle NAME=exec:COMMAND")
	c := clitest.Decode[workers.CheckedConfig](t, s.OK("worker", "--config", path, "--handle", "a=exec:x", "--check-config", "--json").Out)
	if c.Jobs[0].Timeout != "1s" {
		t.Errorf("%+v", c)
	}
	c = clitest.Decode[workers.CheckedConfig](t, s.OK("worker", "--config", path, "--handle", "a=exec:x", "--timeout", "1h", "--concurrency", "2", "--check-config", "--json").Out)
	if c.Jobs[0].Timeout != "1h" || c.Concurrency != 2 {
		t.Errorf("%+v", c)
	}
}

func TestWorkerHelp_hasTheFlagsOfBothAndTheOtherCommand(t *testing.T) {
	t.Parallel()
	r := clitest.NewShell(t, "").OK("worker", "--help")
	clitest.WantIn(t, "help", r.Out, "Usage: soniq worker [<command>] [flags]", "--handle=NAME=HANDLER", "--check-config", "--timeout", "worker run-once", "soniq.yaml")
}

// Each verdict of a dry run, by real commands and a real server.
func TestWorkerRunOnce_saysTheVerdict(t *testing.T) {
	t.Parallel()
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/busy" {
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = io.WriteString(w, "to: missing")
	}))
	t.Cleanup(endpoint.Close)
	path := testkit.ConfigFile(t, `
timeout: 10s
jobs:
  echo: {exec: 'echo "sending" >&2; cat'}
  where: {exec: 'printf "{\"n\": \"$SONIQ_JOB_NAME\", \"q\": \"$SONIQ_QUEUE\", \"a\": $SONIQ_ATTEMPT, \"m\": $SONIQ_MAX_ATTEMPTS, \"v\": \"$V\"}"', queue: side, max_attempts: 9, env: {V: w}}
  text: {exec: echo hello}
  flaky: {exec: 'echo "no route" >&2; exit 3', retry: [1s, 2s]}
  last: {exec: exit 3, max_attempts: 1}
  listed: {exec: exit 4, permanent_exit_codes: [4]}
  permanent: {exec: 'echo "account closed" >&2; exit 78'}
  invalid: {exec: exit 65}
  missing: {exec: no-such-command-anywhere, retry: [1s]}
  slow: {exec: sleep 60, timeout: 50ms, max_attempts: 1}
  busy: {http: `+endpoint.URL+`/busy}
  refused: {http: `+endpoint.URL+`}
`)
	s := clitest.NewShell(t, "")
	s.Stdin = `{"from": "stdin"}`
	for _, test := range []struct {
		name, args string
		code       int
		out        string
		err        []string
	}{
		{name: "echo", args: `{"a": 1}`, out: `{"a":1}` + "\n", err: []string{"sending\n", "would be done, in "}},
		// Whatever stands in it, what is printed is JSON.
		{name: "echo", args: "{\"a\": \"x\x7f\u202e\U000e0041\"}", out: `{"a":"x\u007f\u202e\udb40\udc41"}` + "\n", err: []string{"would be done"}},
		{name: "echo", args: "-", out: `{"from":"stdin"}` + "\n", err: []string{"would be done"}},
		{name: "where", args: "{}", out: `{"n":"where","q":"side","a":1,"m":9,"v":"w"}` + "\n", err: []string{"would be done"}},
		{name: "text", args: "{}", err: []string{"hello\n", "no JSON that can be kept", "would be done"}},
		{name: "flaky", args: "{}", code: 1, err: []string{"no route\n", "would be retried in 1s, as attempt 2 of 4: exit status 3"}},
		{name: "last", args: "{}", code: 1, err: []string{"would be a dead letter: max_retries_exceeded: exit status 3"}},
		{name: "listed", args: "{}", code: 1, err: []string{"would be a dead letter: permanent_failure: exit status 4"}},
		{name: "permanent", args: "{}", code: 1, err: []string{"account closed\n", "would be a dead letter: permanent_failure: exit status 78"}},
		{name: "invalid", args: "{}", code: 1, err: []string{"would be a dead letter: invalid_arguments: exit status 65"}},
		{name: "missing", args: "{}", code: 1, err: []string{"not found", "the command of a handler can't be run", "would be retried in 1s, as attempt 2 of 4: exit status 127"}},
		{name: "slow", args: "{}", code: 1, err: []string{"would be a dead letter: timeout: "}},
		{name: "busy", args: "{}", code: 1, err: []string{"would run again in 30s, without that counting as an attempt"}},
		{name: "refused", args: "{}", code: 1, err: []string{"would be a dead letter: invalid_arguments: HTTP 422: to: missing"}},
		{name: "echo", args: "[1]", code: 2, err: []string{"args must be a JSON object"}},
		{name: "ecco", args: "{}", code: 2, err: []string{`no handler for "ecco"; did you mean "echo"?`}},
		{name: "zzz", args: "{}", code: 2, err: []string{`no handler for "zzz"; there is one for echo, where, text`}},
	} {
		r := s.Run("worker", "run-once", test.name, "--args", test.args, "--config", path)
		clitest.WantCode(t, r, test.code)
		clitest.WantIn(t, test.name, r.Err, test.err...)
		if r.Out != test.out {
			t.Errorf("%s: stdout %q, want %q", test.name, r.Out, test.out)
		}
	}
	v := clitest.Decode[workers.Tried](t, s.Run("worker", "run-once", "flaky", "--config", path, "--json").Out)
	if v.Outcome != engine.OutcomeRetry || v.Delay != "1s" || v.Error != "no route" || v.Code != "exit status 3" || v.Attempt != 1 || v.MaxAttempts != 4 {
		t.Errorf("%+v", v)
	}
	clitest.WantIn(t, "by flag", s.OK("worker", "run-once", "x", "--handle", "x=exec:echo 42").Out, "42\n")
	clitest.WantIn(t, "a duration in the log", s.Run("worker", "run-once", "busy", "--config", path, "--log-format", "json").Err, `"pause":"30s"`)
	r := s.Run("worker", "run-once", "x")
	clitest.WantCode(t, r, app.ExitUsage)
	clitest.WantIn(t, "no handler", r.Err, "soniq.yaml", "--config", "--handle NAME=exec:COMMAND", "see 'soniq worker run-once --help'")
}

// A handler is tried with what a worker would give it: as much as max_args_size allows.
func TestWorkerRunOnce_argumentsAreThoseOfAWorker(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, "")
	dir := t.TempDir()
	args, path := filepath.Join(dir, "args.json"), filepath.Join(dir, "soniq.yaml")
	err := errors.Join(
		os.WriteFile(args, []byte(`{"a": "`+strings.Repeat("x", 2<<20)+`"}`), 0o600),
		os.WriteFile(path, []byte("max_args_size: 64KiB\njobs: {x: {exec: wc -c}}\n"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	clitest.WantIn(t, "2 MiB", s.OK("worker", "run-once", "x", "--handle", "x=exec:wc -c", "--args", "@"+args).Out, "2097161")
	r := s.Run("worker", "run-once", "x", "--config", path, "--args", "@"+args)
	clitest.WantCode(t, r, app.ExitUsage)
	clitest.WantIn(t, "over max_args_size", r.Err, "longer than 65536 bytes")
	r = s.Run("worker", "run-once", "x", "--config", path, "--args", `{"a": "`+strings.Repeat("x", 65_536)+`"}`)
	clitest.WantCode(t, r, app.ExitUsage)
	clitest.WantIn(t, "over max_args_size", r.Err, "over the limit of 65536", "max_args_size")
}

func TestWorkerRunOnce_interrupted_endsTheCommand(t *testing.T) {
	t.Parallel()
	pids := filepath.Join(t.TempDir(), "pids")
	s := clitest.NewShell(t, "")
	running := s.Start("worker", "run-once", "x", "--handle", "x=exec:sleep 300 & echo $! $$ > "+pids+".new; mv "+pids+".new "+pids+"; wait")
	eventually.True(t, "the command", func() bool { _, err := os.Stat(pids); return err == nil })
	s.Signals <- syscall.SIGINT
	if code := running.Wait(t); code != app.ExitFailed {
		t.Errorf("exit %d", code)
	}
	clitest.WantIn(t, "stderr", running.Err.String(), "soniq: interrupted")
	testkit.ProcessesEnd(t, pids)
}

// What the documents tell people to write works.
func TestDocs_everyConfigIsValid(t *testing.T) {
	t.Parallel()
	env := map[string]string{
		"SMTP_PASSWORD": "p", "REPORTS_AUTHORIZATION": "Bearer t", "REPORTS_SECRET": testkit.Secret, "BUCKET_KEY": "k",
		"SLACK_URL": "https://hooks.slack.com/services/x", "ORDERS_SECRET": testkit.Secret, "ORDERS_TOKEN": "Bearer t",
	}
	fence := regexp.MustCompile("(?ms)^```ya?ml\n(.*?)^```$")
	seen := 0
	for _, file := range []string{"../../../README.md", "../../../docs/worker.md", "../../../docs/hooks.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
			// Those of others say so first.
			if strings.HasPrefix(m[1], "# Kubernetes\n") || strings.HasPrefix(m[1], "# Docker Compose\n") {
				continue
			}
			seen++
			s := clitest.NewShell(t, "")
			s.Env = env
			s.OK("worker", "--check-config", "--config", testkit.ConfigFile(t, m[1]))
		}
	}
	if seen < 4 {
		t.Errorf("only %d examples found", seen)
	}
	// The one in the help, too.
	var lines []string
	for _, line := range strings.Split(workers.Help(), "\n") {
		if yaml, ok := strings.CutPrefix(line, "    "); ok {
			lines = append(lines, yaml)
		} else if len(lines) > 0 {
			break
		}
	}
	s := clitest.NewShell(t, "")
	s.Env = env
	s.OK("worker", "--check-config", "--config", testkit.ConfigFile(t, strings.Join(lines, "\n")))
}

// A soniq.yaml that another user left in a folder that both can write to is not
// read unless somebody names it: its commands would be run as the user who started
// the worker there.
func TestConfig_leftByAnotherUser_isNotRunUnlessNamed(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return // nobody else can give a file away
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "soniq.yaml")
	text := "jobs: {a: {exec: touch ran}}\nhooks: {h: {exec: touch ran}}\n"
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chown(path, 12345, 12345), os.Chmod(dir, 0o777|fs.ModeSticky)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"worker"}, {"worker", "--check-config"}, {"worker", "run-once", "a", "--args", "{}"}, {"hooks", "run"},
	} {
		p := clitest.NewProgram(t, dir, "postgres://nobody@127.0.0.1:1/none", args...)
		err := p.Run()
		if p.ProcessState.ExitCode() != app.ExitUsage || strings.Count(p.Err.String(), "\n") != 1 {
			t.Errorf("%v: %v, %q", args, err, p.Err.String())
		}
		clitest.WantIn(t, "error", p.Err.String(), "soniq.yaml: belongs to another user (12345)", "--config FILE")
	}
	named := clitest.NewProgram(t, dir, "", "worker", "run-once", "a", "--args", "{}", "--config", "soniq.yaml")
	if err := named.Run(); err != nil {
		t.Errorf("%v, %q", err, named.Err.String())
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); err != nil {
		t.Error(err)
	}
}
