package cli_test

import (
	"strings"
	"testing"

	"soniq"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// The schema is dropped under a worker, a dispatcher and a watch: each says in one line what to do, and goes on
// when it is back.
func TestCommands_schemaDropped_sayWhatToDoAndGoOn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		// begun is what it says at its start. wake is the channel on which it hears.
		begun, wake string
	}{
		"worker": {[]string{"worker", "--handle", "a.b=exec:true"}, "worker started", "app.soniq_new_job"},
		"hooks":  {[]string{"hooks", "run"}, "sending hooks", "app.soniq_hook"},
		"watch":  {[]string{"dead-letter", "watch"}, "watching for dead letters", "app.soniq_dead_letter"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := testdb.EmptyURL(t)
			pool := testkit.Open(t, url)
			cfg := soniq.Config{Schema: "app"}
			if _, err := soniq.Setup(t.Context(), pool, cfg); err != nil {
				t.Fatal(err)
			}
			p := clitest.NewProgram(t, t.TempDir(), url, append(c.args, "--schema", "app")...)
			p.Begin(t)
			eventually.True(t, "it begins", func() bool { return strings.Contains(p.Err.String(), c.begun) })
			// Its locks may meet those of what the program does.
			eventually.True(t, "the schema is dropped", func() bool {
				_, err := pool.Exec(t.Context(), "drop schema if exists app cascade")
				return err == nil
			})
			eventually.True(t, "it says what to do", func() bool {
				testkit.Exec(t, pool, `select pg_notify($1, '')`, c.wake)
				return strings.Contains(p.Err.String(), "has no Soniq tables any more: run 'soniq setup'")
			})
			// All that it says of missing tables is that line.
			for line := range strings.Lines(p.Err.String()) {
				if strings.Contains(line, "42P01") && !strings.Contains(line, "run 'soniq setup'") {
					t.Errorf("it also said %s", line)
				}
			}
			if _, err := soniq.Setup(t.Context(), pool, cfg); err != nil {
				t.Fatal(err)
			}
			eventually.True(t, "it says that they are back", func() bool { return strings.Contains(p.Err.String(), "Soniq's tables are there again") })
			if name == "worker" {
				sh := clitest.NewShell(t, url)
				sh.OK("enqueue", "a.b", "--wait", "--schema", "app")
			}
		})
	}
	r := clitest.NewShell(t, testdb.EmptyURL(t)).Run("dead-letter", "watch", "--schema", "nosuch")
	if clitest.CheckComplaint(t, r); r.Code == 0 || !strings.Contains(r.Err, "run 'soniq setup'") {
		t.Errorf("watch of no schema: exit %d: %s", r.Code, r.Err)
	}
}
