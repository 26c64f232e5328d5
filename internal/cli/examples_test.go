package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

const examplesDir = "../../docs/examples"

// exampleJob is a job for one of the examples, and how it must end.
type exampleJob struct {
	interpreter, name, args string

	status   engine.JobStatus
	reason   classify.Reason
	attempts int
	result   string
	error    string
}

// The examples of docs/examples, by the worker and the configuration that lie
// beside them. An interpreter that a machine lacks is named in the test's log;
// SONIQ_TEST_EXAMPLES=must makes it a failure.
func TestExamples_eachVerdict(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "busy"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	jobs := []exampleJob{
		{interpreter: "python3", name: "thumbnails.make", args: `{"image": "a.png", "width": 64}`, status: engine.StatusDone, attempts: 1, result: `{"thumbnail": "a.png-64", "attempt": 1}`},
		{interpreter: "python3", name: "thumbnails.make", args: `{"image": "flaky.png"}`, status: engine.StatusDone, attempts: 2, result: `{"thumbnail": "flaky.png-200", "attempt": 2}`},
		{interpreter: "python3", name: "thumbnails.make", args: `{"width": 64}`, status: engine.StatusDeadLetter, reason: classify.InvalidArguments, attempts: 1, error: "KeyError('image')"},
		{interpreter: "python3", name: "thumbnails.make", args: `{"image": "a.exe"}`, status: engine.StatusDeadLetter, reason: classify.PermanentFailure, attempts: 1, error: "never be an image"},
		{interpreter: "node", name: "emails.send", args: `{"to": "ada@example.com"}`, status: engine.StatusDone, attempts: 1},
		{interpreter: "node", name: "emails.send", args: `{"to": "flaky@example.com"}`, status: engine.StatusDone, attempts: 2},
		{interpreter: "node", name: "emails.send", args: `{"to": 42}`, status: engine.StatusDeadLetter, reason: classify.InvalidArguments, attempts: 1, error: "not an address: 42"},
		{interpreter: "node", name: "emails.send", args: `{"to": "ada@closed.example"}`, status: engine.StatusDeadLetter, reason: classify.PermanentFailure, attempts: 1, error: "closed for good"},
		{interpreter: "sh", name: "folders.backup", args: `{"folder": "` + folder + `"}`, status: engine.StatusDone, attempts: 2, result: `{"files": 1}`},
		{interpreter: "sh", name: "folders.backup", args: `{}`, status: engine.StatusDeadLetter, reason: classify.InvalidArguments, attempts: 1, error: "folder is missing"},
		{interpreter: "sh", name: "folders.backup", args: `{"folder": "/no/such"}`, status: engine.StatusDeadLetter, reason: classify.PermanentFailure, attempts: 1, error: "no such folder"},
	}
	installed := map[string]bool{}
	for _, j := range jobs {
		if _, known := installed[j.interpreter]; !known {
			installed[j.interpreter] = testkit.Installed(t, j.interpreter)
		}
	}
	worker := s.Start("worker", "--config", filepath.Join(examplesDir, "soniq.yaml"))
	ids := make([]string, len(jobs))
	for i, j := range jobs {
		if installed[j.interpreter] {
			ids[i] = strings.TrimSpace(s.OK("enqueue", j.name, "--args", j.args).Out)
		}
	}
	for i, j := range jobs {
		if installed[j.interpreter] {
			t.Run(j.name+" "+j.args, func(t *testing.T) { j.check(t, s.Env, ids[i]) })
		}
	}
	s.Signals <- syscall.SIGTERM
	if code := worker.Wait(t); code != app.ExitDone {
		t.Errorf("the worker's exit code is %d: %s", code, worker.Err.String())
	}
}

func (j *exampleJob) check(t *testing.T, env map[string]string, id string) {
	t.Helper()
	r := (&clitest.Shell{T: t, Env: env}).Run("job", id, "--wait", "--json")
	got := clitest.Decode[engine.Job](t, r.Out)
	if got.Status != j.status || got.DeadLetterReason != j.reason || got.Attempts != j.attempts {
		t.Errorf("%s %s on attempt %d, want %s %s on attempt %d: %s",
			got.Status, got.DeadLetterReason, got.Attempts, j.status, j.reason, j.attempts, got.LastError)
	}
	clitest.WantIn(t, "the error", got.LastError, j.error)
	if j.result != "" && !testkit.SameJSON(t, got.Result, j.result) {
		t.Errorf("result %s, want %s", got.Result, j.result)
	}
	want := app.ExitDone
	if j.status != engine.StatusDone {
		want = app.ExitFailed
	}
	clitest.WantCode(t, r, want)
}

func TestExamples_goWorker(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	url := pool.Config().ConnString()
	binary := filepath.Join(t.TempDir(), "goworker")
	if out, err := exec.Command("go", "build", "-o", binary, examplesDir+"/goworker").CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	p := clitest.NewProgram(t, t.TempDir(), url)
	p.Path, p.Args = binary, []string{"goworker"}
	p.Begin(t)
	s := clitest.NewShell(t, url)
	if r := s.OK("enqueue", "numbers.add", "--args", `{"A": 2, "B": 40}`, "--wait"); r.Out != "42\n" {
		t.Errorf("2 + 40 = %q", r.Out)
	}
	r := s.Run("enqueue", "numbers.add", "--args", `{"A": -2}`, "--wait")
	clitest.WantCode(t, r, app.ExitFailed)
	clitest.WantIn(t, "stderr", r.Err, "dead letter, permanent_failure: a is negative")
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
	if n := clitest.Count(t, pool, `select count(*) from soniq_jobs where status = 'processing'`); n != 0 {
		t.Errorf("%d jobs are still processing", n)
	}
	clitest.WantIn(t, "its log", p.Err.String(), "worker stopped")
	p = clitest.NewProgram(t, t.TempDir(), "postgres://nobody@127.0.0.1:1/none")
	p.Path, p.Args = binary, []string{"goworker"}
	p.Begin(t)
	if err := p.Wait(); p.ProcessState.ExitCode() != 1 {
		t.Errorf("without a database: %v, %s", err, p.Err.String())
	}
	source, err := os.ReadFile(filepath.Join(examplesDir, "goworker", "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for line := range strings.Lines(string(source)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
			lines++
		}
	}
	if lines > 40 {
		t.Errorf("the example has grown to %d lines", lines)
	}
}
