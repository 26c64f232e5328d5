package cli_test

import (
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/cli/terminal"
	"soniq/internal/command"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

func TestErrorLine_saysTheMost(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                       "",
		"connection refused":     "connection refused",
		"\n  first\nsecond\n":    "first",
		"exit status 1\nmore...": "exit status 1",
		"Traceback (most recent call last):\n  File \"x.py\", line 1\n    1/0\nZeroDivisionError: division by zero\n": "ZeroDivisionError: division by zero",
		command.CutOff + "half a li\nthe cause\n":      "the cause",
		"Traceback (most recent call last):":           "Traceback (most recent call last):",
		command.CutOff + "\x1b[31mred\x1b[0m and bold": `\x1b[31mred\x1b[0m and bold`,
	} {
		if got := terminal.ErrorLine(text); got != want {
			t.Errorf("errorLine(%q) = %q, want %q", text, got, want)
		}
	}
}

// On a narrow terminal nothing that an operator needs falls away, and no line
// is wrapped.
func TestList_narrowTerminal_takesTwoLinesEach(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	id := clitest.Seed(t, pool, clitest.Letter{Job: "thumbnails.make", Error: "no such store", State: "resolved", Reason: "permanent_failure"})
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.TTY = true
	for _, width := range []int{50, 80, 109} {
		s.Width = width
		out := s.OK("dead-letter", "list").Out
		clitest.WantIn(t, "list", out, id.String(), "resolved", "thumbnails.make: no such store")
		for line := range strings.Lines(out) {
			if n := terminal.TextWidth(strings.TrimSuffix(line, "\n")); n > width {
				t.Errorf("a line of %d columns on a terminal of %d: %q", n, width, line)
			}
		}
	}
	s.Width = 80
	clitest.WantIn(t, "list at 80 columns", s.OK("dead-letter", "list").Out, "permanent_failure")
	s.Width = 150
	clitest.WantIn(t, "wide list", s.OK("dead-letter", "list").Out, "STATE", "ERROR", "no such store")
}

func TestExport_unknownEnding_asksForTheFormat(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/dead.parquet"
	r := clitest.NewShell(t, testdb.NewURL(t)).Run("dead-letter", "export", "--output", path)
	if _, err := os.Stat(path); r.Code != app.ExitUsage || !strings.Contains(r.Err, "say --format") || err == nil {
		t.Errorf("exit %d: %s; %v", r.Code, r.Err, err)
	}
}

// A terminal that is closed is no crash: the job ends first.
func TestWorker_hangup_drains(t *testing.T) {
	t.Parallel()
	// Who runs the tests under nohup has the signal ignored, and a child inherits
	// that; one that is handled is at its default in the child.
	handled := make(chan os.Signal, 1)
	signal.Notify(handled, syscall.SIGHUP)
	defer signal.Stop(handled)
	w := clitest.StartWorker(t, "", "wait")
	if err := w.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the answer to a hangup", func() bool { return strings.Contains(w.Err.String(), "stopping once running jobs have ended") })
	w.Signal(t, "giving running jobs back")
	if err := w.Wait(); err != nil {
		t.Fatalf("worker: %v: %s", err, w.Err.String())
	}
	if j := w.Status(t); j.Status != "queued" || j.Attempts != 0 {
		t.Errorf("the job is %s after %d attempts, want it given back", j.Status, j.Attempts)
	}
}

// A command that runs on must not go on without its database for ever.
func TestDev_stopped_endsWhatUsesIt(t *testing.T) {
	t.Parallel()
	dir := clitest.DevDir(t)
	prepare := func(args ...string) *clitest.Program {
		p := clitest.NewProgram(t, dir, "", args...)
		p.Env = append(p.Env, "SONIQ_DEV_DIR="+dir, "DATABASE_URL=postgres://elsewhere.invalid/x", "SONIQ_DEV=1")
		return p
	}
	watch, worker := prepare("dead-letter", "watch"), prepare("worker", "--handle", "j=exec:cat")
	watch.Begin(t)
	worker.Begin(t)
	eventually.True(t, "the watch", func() bool { return strings.Contains(watch.Err.String(), "watching for dead letters") })
	eventually.True(t, "the worker", func() bool { return strings.Contains(worker.Err.String(), "worker started") })
	clitest.WantIn(t, "note", watch.Err.String(), "not the one of DATABASE_URL")

	stop := prepare("dev", "stop")
	if err := stop.Run(); err != nil {
		t.Fatalf("dev stop: %v: %s", err, stop.Err.String())
	}
	for _, p := range []*clitest.Program{watch, worker} {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = p.Wait()
		}()
		select {
		case <-ended:
		case <-time.After(clitest.Deadline):
			_ = p.Process.Kill()
			<-ended
			t.Fatalf("it goes on without its database: %s", p.Err.String())
		}
		if p.ProcessState.ExitCode() != app.ExitFailed || !strings.Contains(p.Err.String(), "the private database was stopped") {
			t.Errorf("exit %d: %s", p.ProcessState.ExitCode(), p.Err.String())
		}
	}
}
