package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/engine"
	"soniq/internal/command"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// The verdicts, with real processes, from enqueue to the row.
func TestWorker_exitCodeIsTheVerdict(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	left := filepath.Join(t.TempDir(), "left")
	big := `{"x": "` + strings.Repeat("y", 200_000) + `"}`
	tests := []struct {
		name     string
		command  string
		args     string
		attempts string // default 1, so that a failure is final
		status   engine.JobStatus
		reason   deadletter.Reason
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
		{name: "invalid", command: `echo "user_id: missing" >&2; exit 65`, attempts: "5", status: engine.StatusDeadLetter, reason: deadletter.InvalidArguments, error: "user_id: missing", code: "exit status 65"},
		{name: "permanent", command: `echo "account closed" >&2; exit 78`, attempts: "5", status: engine.StatusDeadLetter, reason: deadletter.PermanentFailure, error: "account closed", code: "exit status 78"},
		{name: "failed", command: `exit 3`, status: engine.StatusDeadLetter, reason: deadletter.MaxRetriesExceeded, error: "exit status 3", code: "exit status 3"},
		{name: "again", command: `echo flaky >&2; exit 1`, attempts: "5", status: engine.StatusQueued, error: "flaky"},
		{name: "killed", command: `kill -KILL $$`, status: engine.StatusDeadLetter, reason: deadletter.MaxRetriesExceeded, error: "signal: killed", code: "signal: killed"},
		{name: "not-found", command: `no-such-command-anywhere`, status: engine.StatusDeadLetter, reason: deadletter.MaxRetriesExceeded, error: "not found", code: "exit status 127"},
		{name: "not-executable", command: `/`, status: engine.StatusDeadLetter, reason: deadletter.MaxRetriesExceeded, error: "/", code: "exit status 126"},
		{name: "hostile", command: `printf 'a\000b\377c\033[2J' >&2; exit 1`, status: engine.StatusDeadLetter, reason: deadletter.MaxRetriesExceeded, error: "\x1b[2J"},
		{name: "timeout", command: `echo working >&2; sleep 60`, status: engine.StatusDeadLetter, reason: deadletter.Timeout, error: "working"},
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
		enqueue := newShell(t, s.env["SONIQ_DATABASE_URL"])
		enqueue.stdin = args
		ids[test.name] = strings.TrimSpace(enqueue.ok("enqueue", test.name, "--args", "-", "--max-attempts", attempts).out)
	}
	running := s.start(worker...)
	for _, test := range tests {
		eventually.True(t, test.name, func() bool {
			return count(t, pool, settledSQL, ids[test.name]) == 1
		})
		job := decode[engine.Job](t, s.ok("job", ids[test.name], "--json").out)
		if job.Status != test.status {
			t.Errorf("%s: %s, want %s", test.name, job.Status, test.status)
		}
		if job.DeadLetterReason != test.reason || !strings.Contains(job.LastError, test.error) || test.error == "" && job.LastError != "" {
			t.Errorf("%s: reason %q, error %q", test.name, job.DeadLetterReason, job.LastError)
		}
		if !sameJSON(t, job.Result, test.result) {
			t.Errorf("%s: result %s, want %s", test.name, job.Result, test.result)
		}
		if test.code != "" {
			if j := decode[deadletter.Job](t, s.ok("dead-letter", "show", ids[test.name], "--json").out); j.ErrorCode != test.code {
				t.Errorf("%s: code %q, want %q", test.name, j.ErrorCode, test.code)
			}
		}
	}
	wantGone(t, left)
	s.signals <- syscall.SIGTERM
	if code := running.wait(t); code != 0 {
		t.Errorf("exit %d", code)
	}
	wantIn(t, "log", running.err.String(), "stopping once running jobs have ended", "the command of a handler can't be run", "no-such-command-anywhere", "can't be stored as the job's result")
}

// settledSQL counts the job once its first attempt has an outcome.
const settledSQL = `
select
  (select count(*) from soniq_jobs where id = $1::uuid and (status = 'done' or last_error is not null))
  + (select count(*) from soniq_dead_letter_jobs where id = $1::uuid)`

func sameJSON(t *testing.T, got json.RawMessage, want string) bool {
	t.Helper()
	if want == "" || got == nil {
		return want == "" && got == nil
	}
	canonical := func(raw string) string {
		v, err := json.Marshal(decode[any](t, raw))
		if err != nil {
			t.Fatal(err)
		}
		return string(v)
	}
	return canonical(string(got)) == canonical(want)
}

// wantGone waits until the processes whose ids are in file have ended.
func wantGone(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range strings.Fields(string(data)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		eventually.True(t, "process "+field+" to end", func() bool { return ended(pid) })
	}
}

// ended reports whether a process is gone, or only waits for its parent to
// notice.
func ended(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && bytes.Contains(stat, []byte(") Z "))
}

func newHandler(t *testing.T, line string) *execHandler {
	t.Helper()
	w, err := command.NewWarden()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return &execHandler{command: line, warden: w, grace: 200 * time.Millisecond, log: slog.New(slog.DiscardHandler)}
}

func testJob() *engine.Job {
	return &engine.Job{ID: uuid.Must(uuid.NewV7()), Name: "j", Args: json.RawMessage(`{}`), Attempts: 1, MaxAttempts: 1}
}

func TestExec_ignoresSIGTERM_isKilledWithItsChildren(t *testing.T) {
	t.Parallel()
	pids := filepath.Join(t.TempDir(), "pids")
	h := newHandler(t, `trap '' TERM; sleep 300 & echo $! $$ > `+pids+`.new; mv `+pids+`.new `+pids+`; wait; wait; sleep 300`)
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := h.run(ctx, testJob())
		done <- err
	}()
	eventually.True(t, "the command", func() bool { _, err := os.Stat(pids); return err == nil })
	cancel(engine.ErrShutdown)
	if err := <-done; !errors.Is(err, engine.ErrShutdown) {
		t.Errorf("error %v, want the cause", err)
	}
	wantGone(t, pids)
}

func TestExec_error_isTheEndOfStandardError(t *testing.T) {
	t.Parallel()
	h := newHandler(t, `i=0; while [ $i -lt 2000 ]; do echo "line $i" >&2; i=$((i+1)); done; exit 1`)
	_, err := h.run(t.Context(), testJob())
	if err == nil || len(err.Error()) > maxStderr+4 || !strings.HasPrefix(err.Error(), "...\nline ") || !strings.HasSuffix(err.Error(), "line 1999") {
		t.Errorf("%d bytes: %.60s", len(err.Error()), err)
	}
}

func TestExec_exitCodes_ofTheUsersOwn_arePermanent(t *testing.T) {
	t.Parallel()
	for status, permanent := range map[string]bool{"3": true, "4": false, "78": true, "255": true} {
		h := newHandler(t, "echo said >&2; exit "+status)
		h.permanentCodes = []int{3, 255}
		_, err := h.run(t.Context(), testJob())
		var marker interface{ Permanent() bool }
		if err == nil || err.Error() != "said" || errors.As(err, &marker) != permanent {
			t.Errorf("exit %s: %v, permanent is not %v", status, err, permanent)
		}
	}
}

func TestExec_environment_cannotHideTheJobsOwn(t *testing.T) {
	t.Parallel()
	h := newHandler(t, `printf '"%s %s"' "$ADDED" "$SONIQ_JOB_NAME"`)
	h.env = []string{"ADDED=yes", "SONIQ_JOB_NAME=forged"}
	result, err := h.run(t.Context(), testJob())
	if raw, _ := result.(json.RawMessage); err != nil || string(raw) != `"yes j"` {
		t.Errorf("%s, %v", result, err)
	}
}

func TestExec_tooLongForAResult_isDoneWithoutOne(t *testing.T) {
	t.Parallel()
	h := newHandler(t, `printf '["'; head -c 2000000 /dev/zero | tr '\0' x; printf '"]'`)
	result, err := h.run(t.Context(), testJob())
	if result != nil || err != nil {
		t.Errorf("%v, %v", result, err)
	}
}

// What is sent to endpoints and hooks is not handed to commands, unless their
// own env says so; the database is, for those that enqueue jobs.
func TestExec_environment_hasNoSecretOfOthers(t *testing.T) {
	t.Parallel()
	got := commandEnvironment([]string{
		"PATH=/bin", "DATABASE_URL=a", "SONIQ_DATABASE_URL=b", "PGPASSWORD=c", "MINE=d", "EMPTY=",
		"SONIQ_SLACK_WEBHOOK_URL=e", "SONIQ_WEBHOOK_URL=f", "SONIQ_WEBHOOK_SECRET=g", "SONIQ_HOOK_ORDERS=h", "CRM_TOKEN=i=j", "CRM_TOKENS=k",
	}, []string{"CRM_TOKEN"})
	want := []string{"PATH=/bin", "DATABASE_URL=a", "SONIQ_DATABASE_URL=b", "PGPASSWORD=c", "MINE=d", "EMPTY=", "CRM_TOKENS=k"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

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
		"T_URL": "https://example.com/one", "T_HEADER": "two", "T_SECRET": vectorSecret,
		"T_SLACK": "https://hooks.slack.com/services/three", "T_HOOK": vectorSecret, "T_HOOKHEADER": "four",
		"SONIQ_HOOK_X": "five",
	}
	for job, mayHave := range map[string]string{"show": "", "given": "OWN=two"} {
		p := program(t, dir, "", "worker", "run-once", job, "--config", config)
		p.Env = append(p.Env, "T_MINE=mine", "SONIQ_DATABASE_URL=postgres://stays.invalid/x")
		for name, value := range secrets {
			p.Env = append(p.Env, name+"="+value)
		}
		if err := p.Run(); err != nil {
			t.Fatalf("%v: %s", err, p.err.String())
		}
		said := "\n" + p.out.String() + p.err.String()
		wantIn(t, "the environment", said, "\nT_MINE=mine\n", "\nSONIQ_DATABASE_URL=", mayHave)
		for name := range secrets {
			if strings.Contains(said, "\n"+name+"=") {
				t.Errorf("%s: the command got %s", job, name)
			}
		}
	}
}
