package poolers_test

import (
	"net/url"
	"strings"
	"testing"

	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

func TestMain(m *testing.M) { clitest.Main(m) }

// execModes are pgx's; "" is what Soniq chooses.
var execModes = []string{"", "cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"}

func withMode(t *testing.T, databaseURL, mode string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	if mode != "" {
		query := u.Query()
		query.Set("default_query_exec_mode", mode)
		u.RawQuery = query.Encode()
	}
	return u.String()
}

const config = `
jobs:
  good: {exec: 'true'}
  bad: {exec: 'exit 78'}
hooks:
  audit: {exec: 'true'}
`

func TestX(t *testing.T) {
	direct := testdb.EmptyURL(t)
	pooled := testkit.PgBouncer(t, direct, "transaction")
	for _, mode := range execModes {
		t.Run("mode "+mode, func(t *testing.T) {
			s := clitest.NewShell(t, withMode(t, pooled, mode))
			for _, line := range []string{
				"setup", "enqueue good", "enqueue bad", "status", "dead-letter list", "dead-letter stats", "worker list", "job list",
				"hooks list",
			} {
				r := s.Run(strings.Fields(line)...)
				t.Logf("%s: %d %s %s", line, r.Code, r.Out, r.Err)
			}
			file := testkit.ConfigFile(t, config)
			w := s.Start("worker", "--config", file, "--hook-exec")
			r := s.Run("enqueue", "good", "--wait", "--wait-timeout", "10s")
			t.Logf("wait %d %s %s", r.Code, r.Out, r.Err)
			r = s.Run("enqueue", "bad", "--wait", "--wait-timeout", "10s")
			t.Logf("wait %d %s %s", r.Code, r.Out, r.Err)
			s.Signals <- nil
			t.Log(w.Wait(t), w.Err.String())
		})
	}
}
