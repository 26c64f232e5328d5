package workers_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

func TestWorker_killed_itsCommandsDieWithIt(t *testing.T) {
	t.Parallel()
	w := clitest.StartWorker(t, "", "wait")
	if err := w.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = w.Wait()
	testkit.ProcessesEnd(t, w.Pids)
}

func TestWorker_firstSignal_letsJobsEnd(t *testing.T) {
	t.Parallel()
	gate := filepath.Join(t.TempDir(), "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	w := clitest.StartWorker(t, "", "read -r x < "+gate+"; echo '[true]'")
	w.Signal(t, "stopping once running jobs have ended")
	f, err := os.OpenFile(gate, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Wait(); err != nil {
		t.Errorf("%v: %s", err, w.Err.String())
	}
	if job := w.Status(t); job.Status != engine.StatusDone || !testkit.SameJSON(t, job.Result, "[true]") {
		t.Errorf("%+v", job)
	}
	testkit.ProcessesEnd(t, w.Pids)
}

func TestWorker_secondSignal_givesJobsBackUncharged(t *testing.T) {
	t.Parallel()
	w := clitest.StartWorker(t, "", "wait")
	w.Signal(t, "stopping once running jobs have ended")
	w.Signal(t, "giving running jobs back")
	if err := w.Wait(); err != nil {
		t.Errorf("%v: %s", err, w.Err.String())
	}
	if job := w.Status(t); job.Status != engine.StatusQueued || job.Attempts != 0 {
		t.Errorf("%+v", job)
	}
	testkit.ProcessesEnd(t, w.Pids)
}

func TestWorker_thirdSignal_exitsAtOnce(t *testing.T) {
	t.Parallel()
	w := clitest.StartWorker(t, "trap '' TERM; ", "wait")
	w.Signal(t, "stopping once running jobs have ended")
	w.Signal(t, "giving running jobs back")
	if err := w.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = w.Wait()
	if code := w.ProcessState.ExitCode(); code != app.ExitFailed {
		t.Errorf("exit %d", code)
	}
	testkit.ProcessesEnd(t, w.Pids)
}

// The README's promise to people without Go: psql is enough to enqueue.
func TestWorker_plainInsert_startsWithoutAPoll(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	running := s.Start("worker", "--handle", "j=exec:cat")
	eventually.True(t, "the worker", func() bool { return strings.Contains(running.Err.String(), "worker started") })
	if _, err := pool.Exec(context.Background(), `insert into soniq_jobs (id, job_name, args) values (gen_random_uuid(), 'j', '{"n": 1}')`); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the job", func() bool {
		return clitest.Count(t, pool, `select count(*) from soniq_jobs where status = 'done' and result = '{"n": 1}'`) == 1
	})
	status := s.OK("status")
	clitest.WantIn(t, "status", status.Out, "QUEUE", "default", "WORKER", "active")
	s.Signals <- syscall.SIGINT
	if code := running.Wait(t); code != 0 {
		t.Errorf("exit %d", code)
	}
}
