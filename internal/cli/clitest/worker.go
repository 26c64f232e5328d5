package clitest

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// WorkerProcess is a worker in a process of its own with one job under way,
// which has written the ids of its processes to a file.
type WorkerProcess struct {
	*Program
	pool *pgxpool.Pool
	s    *Shell
	job  string
	Pids string
}

// StartWorker runs a command of three parts: before, writing the ids of
// its processes, and after.
func StartWorker(t *testing.T, before, after string) *WorkerProcess {
	t.Helper()
	w := &WorkerProcess{pool: testdb.New(t), Pids: filepath.Join(t.TempDir(), "pids")}
	url := w.pool.Config().ConnString()
	w.s = NewShell(t, url)
	command := before + "echo $$ > " + w.Pids + ".new; sleep 300 & echo $! >> " + w.Pids + ".new; mv " + w.Pids + ".new " + w.Pids + "; " + after
	w.Program = NewProgram(t, t.TempDir(), url, "worker", "--handle", "j=exec:"+command)
	w.Begin(t)
	w.job = strings.TrimSpace(w.s.OK("enqueue", "j", "--max-attempts", "1").Out)
	eventually.True(t, "the job to start", func() bool { _, err := os.Stat(w.Pids); return err == nil })
	return w
}

// Status is the job as 'soniq job' shows it.
func (w *WorkerProcess) Status(t *testing.T) engine.Job {
	t.Helper()
	return Decode[engine.Job](t, w.s.OK("job", w.job, "--json").Out)
}

// Signal sends SIGTERM, and waits for this text on standard error.
func (w *WorkerProcess) Signal(t *testing.T, answer string) {
	t.Helper()
	if err := w.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the answer to a signal", func() bool { return strings.Contains(w.Err.String(), answer) })
}
