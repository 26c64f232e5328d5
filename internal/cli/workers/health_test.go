package workers_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// A worker's probes are asked over its socket while it starts, works, drains and is gone.
func TestHealth_workerOfTheCommandLine_isAsked(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	url := pool.Config().ConnString()
	dir := t.TempDir()
	socket := "unix:" + filepath.Join(dir, "h")
	began, end := filepath.Join(dir, "began"), filepath.Join(dir, "end")
	s := clitest.NewShell(t, url)
	s.Env["SONIQ_HEALTH_LISTEN"] = socket
	if r := s.Run("health"); r.Code != app.ExitFailed || !strings.Contains(r.Err, "ask "+socket+": ") {
		t.Errorf("without a worker: %+v", r)
	}
	w := s.Start("worker", "--handle", "j=exec:touch "+began+"; while [ ! -e "+end+" ]; do sleep 0.02; done")
	eventually.True(t, "the worker to be ready", func() bool {
		r := s.Run("health")
		return r.Code == app.ExitDone && strings.HasPrefix(r.Out, "ready")
	})
	if r := s.OK("health", "--live"); !strings.HasPrefix(r.Out, "live") {
		t.Errorf("%+v", r)
	}
	if r := s.OK("health", "--json"); !strings.Contains(r.Out, `"ready": true`) {
		t.Errorf("%+v", r)
	}
	s.OK("enqueue", "j")
	eventually.True(t, "the job to begin", func() bool { _, err := os.Stat(began); return err == nil })
	s.OK("health")
	s.Signals <- syscall.SIGTERM
	eventually.True(t, "the drain", func() bool {
		r := s.Run("health")
		return r.Code == app.ExitFailed && strings.HasPrefix(r.Out, "not ready (draining: ")
	})
	s.OK("health", "--live")
	if err := os.WriteFile(end, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := w.Wait(t); code != app.ExitDone {
		t.Errorf("the worker: exit %d, %s", code, w.Err.String())
	}
	if r := s.Run("health", "--live"); r.Code != app.ExitFailed {
		t.Errorf("after its end: %+v", r)
	}
	if _, err := os.Stat(filepath.Join(dir, "h")); err == nil {
		t.Error("the socket is left behind")
	}
}

// An address that can't be bound ends the worker before it takes a job.
func TestHealth_addressInUse_workerDoesNotStart(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	r := clitest.NewShell(t, testdb.NewURL(t)).Run("worker", "--handle", "j=exec:true", "--health-listen", taken.Addr().String())
	if r.Code != app.ExitFailed || !strings.Contains(r.Err, "address already in use") {
		t.Errorf("%+v", r)
	}
}

func TestHealth_wrongUse_saysWhatIsRight(t *testing.T) {
	t.Parallel()
	closed := testkit.ClosedAddress(t)
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	defer page.Close()
	hang, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hang.Close()
	host := func(url string) string { return strings.TrimPrefix(url, "http://") }
	for _, c := range []struct {
		line []string
		code int
		says string
	}{
		{[]string{"health"}, app.ExitUsage, "SONIQ_HEALTH_LISTEN"},
		{[]string{"health", "http://127.0.0.1:1"}, app.ExitUsage, "must be PORT"},
		{[]string{"health", "9091", "--from-database"}, app.ExitUsage, "not both"},
		{[]string{"health", "9091", "--host", "x"}, app.ExitUsage, "--host is for --from-database"},
		{[]string{"health", "9091", "--timeout", "0"}, app.ExitUsage, "--timeout must be above 0"},
		{[]string{"health", closed}, app.ExitFailed, "connection refused"},
		{[]string{"health", host(other.URL)}, app.ExitFailed, "it is no worker: it answered 404"},
		{[]string{"health", host(page.URL)}, app.ExitFailed, "it is no worker"},
		{[]string{"health", hang.Addr().String(), "--timeout", "20ms"}, app.ExitFailed, "no answer within 20ms"},
		{[]string{"worker", "--handle", "j=exec:true", "--health-listen", "here", "--check-config"}, app.ExitUsage, "--health-listen must be PORT"},
	} {
		r := clitest.NewShell(t, "").Run(c.line...)
		if r.Code != c.code || !strings.Contains(r.Err, c.says) || r.Out != "" {
			t.Errorf("%q: %+v", c.line, r)
		}
	}
}

// The database knows the workers of a host, Python's too.
func TestHealth_fromDatabase_looksForAWorkerOfTheHost(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	add := func(host, version, age string) {
		id := uuid.New()
		if version != "" {
			host += "/" + id.String()
		}
		testkit.Exec(t, pool, `insert into soniq_workers (id, hostname, pid, version, last_heartbeat) values ($1, $2, 7, nullif($3, ''), now() - $4::interval)`, id, host, version, age)
	}
	add("go", "go/x", "1 second")
	add("go", "go/x", "10 minutes")
	add("python", "", "200 seconds")
	add("dead", "", "400 seconds")
	for host, want := range map[string]struct {
		code int
		says string
	}{
		"go": {0, "1 of 2 workers of host go live"}, "python": {0, "1 of 1"}, "dead": {1, "0 of 1"}, "none": {1, "0 of 0"},
	} {
		if r := s.Run("health", "--from-database", "--host", host); r.Code != want.code || !strings.Contains(r.Out, want.says) {
			t.Errorf("%s: %+v", host, r)
		}
	}
	if r := s.Run("health", "--from-database", "--json"); r.Code != app.ExitFailed || !strings.Contains(r.Out, `"live": false`) {
		t.Errorf("%+v", r)
	}
	away := clitest.NewShell(t, "postgres://ann@"+testkit.ClosedAddress(t)+"/x")
	if r := away.Run("health", "--from-database"); r.Code != app.ExitFailed || !strings.Contains(r.Err, "cannot reach PostgreSQL") {
		t.Errorf("%+v", r)
	}
}
