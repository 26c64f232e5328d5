package workers_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// The verdicts, with real processes, from enqueue to the row.
func TestWorker_exitCodeIsTheVerdict(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	left := filepath.Join(t.TempDir(), "left")
	big := `{"x": "` + strings.Repeat("y", 200_000) + `"}`
	tests := []struct {
		name     string
		command  string
		args     string
		attempts string // default 1, so that a failure is final
		status   engine.JobStatus
		reason   classify.Reason
		error    string
		code     string
		result   string
	}{
		{name: "json", command: `cat`, args: `{"a": [1, "é"]}`, status: engine.StatusDone, result: `{"a": [1, "é"]}`},
		{name: "number", command: `echo 42`, status: engine.StatusDone, result: `42`},
		{name: "silent", command: `true`, status: engine.StatusDone},
		{name: "text", command: `echo all went well`, status: engine.StatusDone},
		{name: "complaint", command: `echo careful >&2`, status: engine.StatusDone},
		{name: "nul-result", command: `printf '{"a": "\\u0000"}'`, status: engine.StatusDone},
		{name: "surrogates", command: `printf '["\\ud83d\\ude00", "\\ud83d"]'`, status: engine.StatusDone, result: `["😀", "` + "\ufffd" + `"]`},
		{name: "commas,and", command: `test "a,b" = "a,b"`, status: engine.StatusDone},
		{name: "deaf", command: `exec 0<&-; exit 0`, args: big, status: engine.StatusDone},
		{name: "environment", command: `printf '["%s", "%s", "%s", "%s"]' "$SONIQ_JOB_NAME" "$SONIQ_QUEUE" "$SONIQ_ATTEMPT" "$SONIQ_MAX_ATTEMPTS"`, attempts: "7", status: engine.StatusDone, result: `["environment", "default", "1", "7"]`},
		{name: "invalid", command: `echo "user_id: missing" >&2; exit 65`, attempts: "5", status: engine.StatusDeadLetter, reason: classify.InvalidArguments, error: "user_id: missing", code: "exit status 65"},
		{name: "permanent", command: `echo "account closed" >&2; exit 78`, attempts: "5", status: engine.StatusDeadLetter, reason: classify.PermanentFailure, error: "account closed", code: "exit status 78"},
		{name: "failed", command: `exit 3`, status: engine.StatusDeadLetter, reason: classify.MaxRetriesExceeded, error: "exit status 3", code: "exit status 3"},
		{name: "again", command: `echo flaky >&2; exit 1`, attempts: "5", status: engine.StatusQueued, error: "flaky"},
		{name: "killed", command: `kill -KILL $$`, status: engine.StatusDeadLetter, reason: classify.MaxRetriesExceeded, error: "signal: killed", code: "signal: killed"},
		{name: "not-found", command: `no-such-command-anywhere`, status: engine.StatusDeadLetter, reason: classify.MaxRetriesExceeded, error: "not found", code: "exit status 127"},
		{name: "not-executable", command: `/`, status: engine.StatusDeadLetter, reason: classify.MaxRetriesExceeded, error: "/", code: "exit status 126"},
		{name: "hostile", command: `printf 'a\000b\377c\033[2J' >&2; exit 1`, status: engine.StatusDeadLetter, reason: classify.MaxRetriesExceeded, error: "\x1b[2J"},
		{name: "timeout", command: `echo working >&2; sleep 60`, status: engine.StatusDeadLetter, reason: classify.Timeout, error: "working"},
		{name: "polite", command: `trap 'echo "[\"saved\"]"; exit 0' TERM; sleep 60 & wait`, status: engine.StatusDone, result: `["saved"]`},
		{name: "leaves", command: `sleep 300 & echo $! > ` + left, status: engine.StatusDone},
		{name: "escapes", command: `setsid sleep 3 & exit 0`, status: engine.StatusDone},
	}
	worker := []string{"worker", "--timeout", "2s", "--concurrency", "30", "--result-ttl", "1h"}
	ids := map[string]string{}
	for _, test := range tests {
		worker = append(worker, "--handle", test.name+"=exec:"+test.command)
		args, attempts := test.args, test.attempts
		if args == "" {
			args = "{}"
		}
		if attempts == "" {
			attempts = "1"
		}
		enqueue := clitest.NewShell(t, s.Env["SONIQ_DATABASE_URL"])
		enqueue.Stdin = args
		ids[test.name] = strings.TrimSpace(enqueue.OK("enqueue", test.name, "--args", "-", "--max-attempts", attempts).Out)
	}
	running := s.Start(worker...)
	for _, test := range tests {
		eventually.True(t, test.name, func() bool {
			return clitest.Count(t, pool, settledSQL, ids[test.name]) == 1
		})
		job := clitest.Decode[engine.Job](t, s.OK("job", ids[test.name], "--json").Out)
		if job.Status != test.status {
			t.Errorf("%s: %s, want %s", test.name, job.Status, test.status)
		}
		if job.DeadLetterReason != test.reason || !strings.Contains(job.LastError, test.error) || test.error == "" && job.LastError != "" {
			t.Errorf("%s: reason %q, error %q", test.name, job.DeadLetterReason, job.LastError)
		}
		if !testkit.SameJSON(t, job.Result, test.result) {
			t.Errorf("%s: result %s, want %s", test.name, job.Result, test.result)
		}
		if test.code != "" {
			if j := clitest.Decode[deadletter.Job](t, s.OK("dead-letter", "show", ids[test.name], "--json").Out); j.ErrorCode != test.code {
				t.Errorf("%s: code %q, want %q", test.name, j.ErrorCode, test.code)
			}
		}
	}
	testkit.ProcessesEnd(t, left)
	s.Signals <- syscall.SIGTERM
	if code := running.Wait(t); code != 0 {
		t.Errorf("exit %d", code)
	}
	clitest.WantIn(t, "log", running.Err.String(), "stopping once running jobs have ended", "the command of a handler can't be run", "no-such-command-anywhere", "can't be stored as the job's result")
}

// settledSQL counts the job once its first attempt has an outcome.
const settledSQL = `
select
  (select count(*) from soniq_jobs where id = $1::uuid and (status = 'done' or last_error is not null))
  + (select count(*) from soniq_dead_letter_jobs where id = $1::uuid)`

func TestWorker_command_hasNoSecretOfTheFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := filepath.Join(dir, "soniq.yaml")
	if err := os.WriteFile(config, []byte(`
jobs:
  show: {exec: env}
  given: {exec: env, env: {OWN: env:T_HEADER}}
  send:
    http: env:T_URL
    headers: {X-Key: env:T_HEADER}
    secret: env:T_SECRET
hooks:
  team: {slack: env:T_SLACK}
  orders: {webhook: "https://example.com/x", secret: env:T_HOOK, headers: {X-Key: env:T_HOOKHEADER}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{
		"T_URL": "https://example.com/one", "T_HEADER": "two", "T_SECRET": testkit.Secret,
		"T_SLACK": "https://hooks.slack.com/services/three", "T_HOOK": testkit.Secret, "T_HOOKHEADER": "four",
		"SONIQ_HOOK_X": "five",
	}
	for job, mayHave := range map[string]string{"show": "", "given": "OWN=two"} {
		p := clitest.NewProgram(t, dir, "", "worker", "run-once", job, "--config", config)
		p.Env = append(p.Env, "T_MINE=mine", "SONIQ_DATABASE_URL=postgres://stays.invalid/x")
		for name, value := range secrets {
			p.Env = append(p.Env, name+"="+value)
		}
		if err := p.Run(); err != nil {
			t.Fatalf("%v: %s", err, p.Err.String())
		}
		said := "\n" + p.Out.String() + p.Err.String()
		clitest.WantIn(t, "the environment", said, "\nT_MINE=mine\n", "\nSONIQ_DATABASE_URL=", mayHave)
		for name := range secrets {
			if strings.Contains(said, "\n"+name+"=") {
				t.Errorf("%s: the command got %s", job, name)
			}
		}
	}
}

// The network's error is all that an operator has of an endpoint that is away: it
// is shown, though a port stands before it.
func TestHTTP_networkError_isShown(t *testing.T) {
	t.Parallel()
	address := testkit.ClosedAddress(t)
	r := clitest.NewShell(t, "").Run("worker", "run-once", "j", "--handle", "j=http://"+address, "--args", "{}")
	clitest.WantCode(t, r, app.ExitFailed)
	clitest.WantIn(t, "verdict", r.Err, "POST http://"+address+": dial tcp "+address+": connect: connection refused")
}

// The work is done, whatever number the answer has.
func TestWorker_resultThatPostgreSQLCantHold_isDone(t *testing.T) {
	t.Parallel()
	r := clitest.NewShell(t, "").Run("worker", "run-once", "j", "--handle", "j=exec:echo 1e999999999", "--args", "{}")
	clitest.WantCode(t, r, app.ExitDone)
	clitest.WantIn(t, "log", r.Err, "it holds a number out of the range of numeric", "would be done")
}
