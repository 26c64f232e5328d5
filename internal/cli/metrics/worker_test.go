package metrics_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// A worker and a dispatcher serve what they do, and what the database holds, and stop doing
// so with their end.
func TestMetricsListen_programs_serveTheirs(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.OK("hooks", "add", "log", "--name", "l")
	w := s.Start("worker", "--handle", "j=exec:true", "--handle", "bad=exec:exit 78", "--metrics-listen", "0")
	url := "http://" + address(t, w.Err.String) + "/metrics"
	s.OK("enqueue", "j", "--wait")
	s.Run("enqueue", "bad", "--wait")
	eventually.True(t, "the metrics of the worker", func() bool {
		_, text := get(t, url)
		for _, line := range []string{
			`soniq_jobs_completed_total{job_name="j",queue="default",status="done"} 1`,
			`soniq_jobs_dead_lettered_total{job_name="bad",queue="default",reason="permanent_failure"} 1`,
			`soniq_hook_deliveries_total{hook="l",outcome="delivered"} 1`, "soniq_database_up 1", "soniq_listener_up 1", "go_goroutines",
		} {
			if !strings.Contains(text, line) {
				return false
			}
		}
		return true
	})
	s.Signals <- syscall.SIGTERM
	if code := w.Wait(t); code != app.ExitDone {
		t.Errorf("the worker: exit %d", code)
	}

	d := clitest.NewShell(t, pool.Config().ConnString())
	d.Env["SONIQ_METRICS_LISTEN"] = "unix:" + filepath.Join(t.TempDir(), "m")
	r := d.Start("hooks", "run")
	eventually.True(t, "the dispatcher", func() bool { return strings.Contains(r.Err.String(), "sending hooks") })
	clitest.WantIn(t, "the log", r.Err.String(), "serving /metrics", d.Env["SONIQ_METRICS_LISTEN"])
	d.Signals <- syscall.SIGTERM
	if code := r.Wait(t); code != app.ExitDone {
		t.Errorf("the dispatcher: exit %d", code)
	}
}

func TestMetricsListen_wrongAddress_isRefused(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, testdb.NewURL(t))
	for _, line := range [][]string{{"worker", "--handle", "j=exec:true"}, {"hooks", "run"}} {
		if r := s.Run(append(line, "--metrics-listen", "here")...); r.Code != app.ExitUsage || !strings.Contains(r.Err, "--metrics-listen must be PORT") {
			t.Errorf("%q: %+v", line, r)
		}
	}
	s.Env["SONIQ_METRICS_LISTEN"] = "there"
	if r := s.Run("hooks", "run"); r.Code != app.ExitUsage || !strings.Contains(r.Err, "SONIQ_METRICS_LISTEN must be PORT") {
		t.Errorf("%+v", r)
	}
}
