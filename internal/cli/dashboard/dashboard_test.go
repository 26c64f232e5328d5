package dashboard_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

func TestMain(m *testing.M) { clitest.Main(m) }

const key = "0123456789abcdef-key"

// address is where a command has said that it serves the dashboard.
func address(t *testing.T, log func() string) (url string) {
	t.Helper()
	eventually.True(t, "the address of the dashboard", func() bool {
		for line := range strings.Lines(log()) {
			var record struct{ Msg, URL string }
			if json.Unmarshal([]byte(line), &record) == nil && strings.Contains(record.Msg, "serving the dashboard") {
				url = record.URL
			}
		}
		return url != ""
	})
	return url
}

func get(t *testing.T, url, bearer string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func TestDashboard_serves_untilItIsStopped(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, testdb.NewURL(t))
	clitest.Seed(t, testkit.Open(t, s.Env["SONIQ_DATABASE_URL"]), clitest.Letter{Error: "no route to host"})
	r := s.Start("dashboard", "--port", "0", "--title", "staging")
	url := address(t, r.Err.String)
	if !strings.HasPrefix(url, "http://127.0.0.1:") {
		t.Errorf("without a host it listens on %s", url)
	}
	status, text := get(t, url+"groups", "")
	clitest.WantIn(t, "the page", text, "no route to host", "staging", "read-only")
	if status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	s.Signals <- syscall.SIGTERM
	if code := r.Wait(t); code != app.ExitDone || r.Out.String() != "" {
		t.Errorf("exit %d, %q", code, r.Out.String())
	}
}

func TestDashboard_key_letsOneIn(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, testdb.NewURL(t))
	s.Env["SONIQ_DASHBOARD_API_KEY"], s.Env["SONIQ_DASHBOARD_WRITE_ENABLED"] = key, "true"
	r := s.Start("dashboard", "--port", "0", "--host", "0.0.0.0")
	url := strings.Replace(address(t, r.Err.String), "[::]", "127.0.0.1", 1)
	if status, _ := get(t, url+"groups", ""); status != http.StatusSeeOther {
		t.Errorf("without the key: %d", status)
	}
	status, text := get(t, url+"groups", key)
	if status != http.StatusOK || strings.Contains(text, "read-only") {
		t.Errorf("with the key: %d\n%s", status, text)
	}
	s.Signals <- syscall.SIGTERM
	if code := r.Wait(t); code != app.ExitDone || strings.Contains(r.Err.String(), key) {
		t.Errorf("exit %d, %s", code, r.Err.String())
	}
}

func TestDashboard_wrongUse_saysWhatToDo(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, testdb.NewURL(t))
	for name, test := range map[string]struct {
		env  map[string]string
		line string
		want string
	}{
		"writes without a key":     {map[string]string{"SONIQ_DASHBOARD_WRITE_ENABLED": "true"}, "dashboard", "needs SONIQ_DASHBOARD_API_KEY"},
		"neither true nor false":   {map[string]string{"SONIQ_DASHBOARD_WRITE_ENABLED": "ja"}, "dashboard", "neither true nor false"},
		"a short key":              {map[string]string{"SONIQ_DASHBOARD_API_KEY": "short-secret"}, "dashboard", "16 characters"},
		"other machines, no key":   {nil, "dashboard --host 0.0.0.0", "--insecure"},
		"other machines, by name":  {nil, "dashboard --host ops.example.com", "--insecure"},
		"no host":                  {nil, "dashboard --host=", "--host is empty"},
		"a host with a port":       {nil, "dashboard --allow-host a:80", "without scheme and port"},
		"a port that can't be one": {nil, "dashboard --port 70000", "--port must be from 0 to 65535"},
	} {
		for variable := range s.Env {
			if strings.HasPrefix(variable, "SONIQ_DASHBOARD") {
				delete(s.Env, variable)
			}
		}
		for variable, value := range test.env {
			s.Env[variable] = value
		}
		r := s.Run(strings.Fields(test.line)...)
		if r.Code != app.ExitUsage || !strings.Contains(r.Err, test.want) || strings.Contains(r.Err, "short-secret") {
			t.Errorf("%s: exit %d, %s", name, r.Code, r.Err)
		}
	}
}

func TestDashboard_besideAWorker(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, testdb.NewURL(t))
	r := s.Start("worker", "--dashboard", "0", "--handle", "none=exec:true", "--no-hooks")
	url := address(t, r.Err.String)
	if status, text := get(t, url+"groups", ""); status != http.StatusOK || !strings.Contains(text, "No dead letters") {
		t.Errorf("%d\n%s", status, text)
	}
	s.Signals <- syscall.SIGTERM
	if code := r.Wait(t); code != app.ExitDone {
		t.Errorf("exit %d, %s", code, r.Err.String())
	}
	for _, addr := range []string{"x", "1:2:3", ":6161", "0.0.0.0:6161", "70000"} {
		if r := s.Run("worker", "--dashboard", addr, "--handle", "none=exec:true"); r.Code != app.ExitUsage {
			t.Errorf("%s: exit %d, %s", addr, r.Code, r.Err)
		}
	}
}

func TestDashboard_noTables_saysRunSetup(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, testdb.EmptyURL(t))
	if r := s.Run("dashboard", "--port", "0"); r.Code != app.ExitFailed || !strings.Contains(r.Err, "soniq setup") {
		t.Errorf("exit %d, %s", r.Code, r.Err)
	}
}
