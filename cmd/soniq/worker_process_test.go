package main

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

// workerProcess is a worker in a process of its own with one job under way,
// which has written the ids of its processes to a file.
type workerProcess struct {
	*process
	pool *pgxpool.Pool
	s    *shell
	job  string
	pids string
}

// startWorkerProcess runs a command of three parts: before, writing the ids of
// its processes, and after.
func startWorkerProcess(t *testing.T, before, after string) *workerProcess {
	t.Helper()
	w := &workerProcess{pool: testdb.New(t), pids: filepath.Join(t.TempDir(), "pids")}
	url := w.pool.Config().ConnString()
	w.s = newShell(t, url)
	command := before + "echo $$ > " + w.pids + ".new; sleep 300 & echo $! >> " + w.pids + ".new; mv " + w.pids + ".new " + w.pids + "; " + after
	w.process = program(t, t.TempDir(), url, "worker", "--handle", "j=exec:"+command)
	w.begin(t)
	w.job = strings.TrimSpace(w.s.ok("enqueue", "j", "--max-attempts", "1").out)
	eventually.True(t, "the job to start", func() bool { _, err := os.Stat(w.pids); return err == nil })
	return w
}

func (w *workerProcess) status(t *testing.T) engine.Job {
	t.Helper()
	return decode[engine.Job](t, w.s.ok("job", w.job, "--json").out)
}

func (w *workerProcess) signal(t *testing.T, answer string) {
	t.Helper()
	if err := w.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the answer to a signal", func() bool { return strings.Contains(w.err.String(), answer) })
}
