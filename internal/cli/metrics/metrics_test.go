package metrics_test

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

// address is where a command has said that it serves metrics.
func address(t *testing.T, log func() string) (addr string) {
	t.Helper()
	eventually.True(t, "the address of the metrics", func() bool {
		for line := range strings.Lines(log()) {
			var record struct{ Msg, Address string }
			if json.Unmarshal([]byte(line), &record) == nil && strings.Contains(record.Msg, "/metrics") {
				addr = record.Address
			}
		}
		return addr != ""
	})
	return addr
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	response, err := http.Get(url)
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

func TestMetrics_serves_untilItIsStopped(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, testdb.NewURL(t))
	s.OK("enqueue", "mail", "--queue", "post")
	r := s.Start("metrics", "--listen", "0", "--interval", "1s")
	url := "http://" + address(t, r.Err.String)
	if !strings.HasPrefix(url, "http://127.0.0.1:") {
		t.Errorf("without a host it listens on %s", url)
	}
	status, text := get(t, url+"/metrics")
	clitest.WantIn(t, "metrics", text, `soniq_queue_jobs{queue="post",state="due"} 1`, "soniq_database_up 1", "go_goroutines", "process_")
	if status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	if status, _ := get(t, url+"/"); status != http.StatusNotFound {
		t.Errorf("another path is answered with %d", status)
	}
	s.Signals <- syscall.SIGTERM
	if code := r.Wait(t); code != app.ExitDone || r.Out.String() != "" {
		t.Errorf("exit %d, %q", code, r.Out.String())
	}
	if response, err := http.Get(url + "/metrics"); err == nil {
		response.Body.Close()
		t.Error("it is served after the end")
	}
}

func TestMetrics_once_prints(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, testdb.NewURL(t))
	clitest.Seed(t, testkit.Open(t, s.Env["SONIQ_DATABASE_URL"]), clitest.Letter{})
	text := s.OK("metrics", "--once").Out
	clitest.WantIn(t, "metrics", text, "# TYPE soniq_dead_letters gauge", "soniq_dead_letters_dead 1")
	// For the collector of textfiles, which has these itself.
	for _, prefix := range []string{"go_", "process_", "target_info", "otel_"} {
		if strings.Contains(text, "\n"+prefix) {
			t.Errorf("%s* is printed", prefix)
		}
	}
	doc := clitest.Decode[struct {
		Dead int `json:"dead_total"`
	}](t, s.OK("metrics", "--once", "--json").Out)
	if doc.Dead != 1 {
		t.Errorf("%+v", doc)
	}
}

func TestMetrics_wrongUse_saysWhatIsRight(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		url  string
		line []string
		code int
		says string
	}{
		{"", []string{"metrics", "--listen", "here"}, app.ExitUsage, "--listen must be PORT"},
		{"", []string{"metrics", "--interval", "10ms"}, app.ExitUsage, "--interval must be at least 1s, not 10ms"},
		{"", []string{"metrics", "--json"}, app.ExitUsage, "--json needs --once"},
		{"", []string{"metrics", "--once"}, app.ExitUsage, "SONIQ_DATABASE_URL"},
		{testdb.EmptyURL(t), []string{"metrics", "--once"}, app.ExitFailed, "soniq setup"},
		{testdb.EmptyURL(t), []string{"metrics", "--listen", "0"}, app.ExitFailed, "soniq setup"},
		{"postgres://ann@" + testkit.ClosedAddress(t) + "/x", []string{"metrics", "--once"}, app.ExitFailed, "cannot reach PostgreSQL"},
	} {
		r := clitest.NewShell(t, c.url).Run(c.line...)
		if r.Code != c.code || !strings.Contains(r.Err, c.says) || r.Out != "" {
			t.Errorf("%q: %+v", c.line, r)
		}
	}
}
