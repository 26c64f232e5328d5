package database_test

import (
	"encoding/json"
	"strings"
	"testing"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/doctor"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// What doctor finds is a line, its exit code is a monitor's, and the script that it prints
// mends it.
func TestDoctor_driftIsFoundAndMended(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	well := s.OK("doctor", "--only", "drift", "--only", "schema,rights")
	if want := "SCHEMA\nok        schema: the tables are this release's\nok        drift: all is as the schema has it\nok        rights: the role may run a worker\n"; well.Out != want || well.Err != "" {
		t.Errorf("%q, %q", well.Out, well.Err)
	}
	if r := s.OK("doctor", "--only", "drift", "--sql"); r.Out != "" {
		t.Errorf("nothing to mend: %q", r.Out)
	}
	testkit.Exec(t, pool, `alter table soniq_jobs disable trigger soniq_jobs_inserted`)
	testkit.Exec(t, pool, `drop function soniq_queue_resumed() cascade`)
	ill := s.Run("doctor", "--only", "drift")
	clitest.WantCode(t, ill, 2)
	clitest.WantIn(t, "the report", ill.Out,
		"critical  drift: trigger soniq_jobs_inserted of soniq_jobs is disabled -> alter table public.soniq_jobs enable trigger soniq_jobs_inserted\n",
		"critical  drift: function soniq_queue_resumed() is missing -> soniq setup (--sql prints the statements)\n")
	clitest.WantIn(t, "the sum", ill.Err, "4 critical")
	document := s.Run("doctor", "--only", "drift", "--json")
	clitest.WantCode(t, document, 2)
	var report doctor.Report
	if err := json.Unmarshal([]byte(document.Out), &report); err != nil || report.Status != doctor.Critical || len(report.Findings) != 4 || len(report.Findings[0].SQL) == 0 {
		t.Errorf("%v: %s", err, document.Out)
	}
	script := s.Run("doctor", "--only", "drift", "--sql")
	clitest.WantCode(t, script, 2)
	if _, err := pool.Exec(t.Context(), "begin;"+script.Out+"commit"); err != nil {
		t.Fatalf("%v: %s", err, script.Out)
	}
	s.OK("doctor", "--only", "drift")
}

func TestDoctor_exitCodes_areAMonitors(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	warning := func() { testkit.Exec(t, pool, `drop index idx_soniq_jobs_expires_at`) }
	for _, c := range []struct {
		before func()
		line   []string
		code   int
		says   string
	}{
		{func() {}, []string{"--only", "drift"}, 0, "ok "},
		{warning, []string{"--only", "drift"}, 1, "warning   drift: index idx_soniq_jobs_expires_at of soniq_jobs is missing"},
		{func() {}, []string{"--only", "dirft"}, 3, `--only: no such check: "dirft"; 'soniq doctor --list' lists them`},
		{func() {}, []string{"--timeout", "0"}, 3, "--timeout must be above 0"},
		{func() {}, []string{"--sql", "--json"}, 3, "give --sql or --json, not both"},
		{func() {}, []string{"--listen-url", "http://x"}, 3, "--listen-url is not a database URL"},
		{func() {}, []string{"--database-url", "postgres://ann@" + testkit.ClosedAddress(t) + "/x"}, 3, "cannot reach PostgreSQL"},
		{func() {}, []string{"--database-url", testdb.EmptyURL(t), "--only", "schema"}, 2, "there are no Soniq tables in schema public -> soniq setup"},
		{func() {}, []string{"--list"}, 0, "notify-queue"},
	} {
		c.before()
		r := s.Run(append([]string{"doctor"}, c.line...)...)
		if r.Code != c.code || !strings.Contains(r.Out+r.Err, c.says) {
			t.Errorf("%q: %+v", c.line, r)
		}
	}
	if r := s.OK("doctor", "--list", "--json"); len(clitest.Decode[[]map[string]string](t, r.Out)) != len(doctor.Checks()) {
		t.Errorf("%s", r.Out)
	}
	if r := s.Run("doctor"); r.Code == app.ExitFailed && !strings.Contains(r.Out, "warning") {
		t.Errorf("%+v", r)
	}
	ahead := *s
	ahead.ClockAhead = 3 * 3600 * 1e9
	if r := ahead.Run("doctor", "--only", "clock"); r.Code != 1 || !strings.Contains(r.Out, "this machine's clock is 3h0m0") {
		t.Errorf("%+v", r)
	}
}
