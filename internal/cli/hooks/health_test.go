package hooks_test

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// The probes of 'hooks run' are answered while it starts, works, drains and is gone, at the
// address of the flag, of the variable or of the file, in this order.
func TestRun_probes_areAnsweredUntilItsEnd(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	dir := t.TempDir()
	address := func(name string) string { return "unix:" + filepath.Join(dir, name) }
	asked, answer := make(chan struct{}, 10), make(chan struct{})
	endpoint := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-answer
	}))
	defer endpoint.Close()
	defer close(answer)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.OK("hooks", "add", "webhook", endpoint.URL, "--name", "w", "--allow", "127.0.0.0/8")
	s.Env["SONIQ_HEALTH_LISTEN"] = address("variable")
	file := testkit.ConfigFile(t, "health_listen: "+address("file")+"\nmetrics_listen: "+address("metrics")+"\n")
	r := s.Start("hooks", "run", "--config", file, "--health-listen", address("flag"))
	eventually.True(t, "the dispatcher to be ready", func() bool { return s.Run("health", address("flag")).Code == app.ExitDone })
	clitest.WantIn(t, "health", s.OK("health", address("flag"), "--json").Out, `"name": "dispatcher"`, `"name": "outbox"`)
	clitest.WantIn(t, "the log", r.Err.String(), address("flag"), address("metrics"))
	if log := r.Err.String(); strings.Contains(log, address("variable")) || strings.Contains(log, address("file")) {
		t.Errorf("the flag does not override the others: %s", log)
	}
	clitest.Seed(t, pool, clitest.Letter{})
	<-asked
	s.Signals <- syscall.SIGTERM
	eventually.True(t, "the drain", func() bool {
		h := s.Run("health", address("flag"))
		return h.Code == app.ExitFailed && strings.HasPrefix(h.Out, "not ready (draining: ")
	})
	s.OK("health", "--live", address("flag"))
	if code := r.Wait(t); code != app.ExitDone {
		t.Errorf("exit %d: %s", code, r.Err.String())
	}
	if h := s.Run("health", address("flag")); h.Code != app.ExitFailed || !strings.Contains(h.Err, "ask "+address("flag")) {
		t.Errorf("after its end: %+v", h)
	}

	for _, want := range []string{"variable", "file"} {
		r := s.Start("hooks", "run", "--config", file)
		eventually.True(t, "the dispatcher to be ready", func() bool { return s.Run("health", address(want)).Code == app.ExitDone })
		s.Signals <- syscall.SIGTERM
		if code := r.Wait(t); code != app.ExitDone {
			t.Errorf("exit %d: %s", code, r.Err.String())
		}
		delete(s.Env, "SONIQ_HEALTH_LISTEN")
	}
}

func TestRun_wrongAddressOfProbes_isRefused(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, testdb.NewURL(t))
	if r := s.Run("hooks", "run", "--health-listen", "here"); r.Code != app.ExitUsage || !strings.Contains(r.Err, "--health-listen must be PORT") {
		t.Errorf("%+v", r)
	}
	file := testkit.ConfigFile(t, "health_listen: here\n")
	if r := s.Run("hooks", "run", "--config", file); r.Code != app.ExitUsage || !strings.Contains(r.Err, ":1: health_listen must be PORT") {
		t.Errorf("%+v", r)
	}
}
