package cli_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"soniq/deadletter"
	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// The user's document on the dead-letter queue, from top to bottom, by the
// built program in a folder of its own. Where the document has an example id,
// a real one stands here.
func TestDocument_worksAsWritten(t *testing.T) {
	t.Parallel()
	dir, url := t.TempDir(), testdb.EmptyURL(t)
	binary := filepath.Join(dir, "soniq")
	if out, err := exec.Command("go", "build", "-o", binary, "soniq/cmd/soniq").CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	prepare := func(line string) *clitest.Program {
		p := clitest.NewProgram(t, dir, url)
		fields := strings.Fields(line)
		p.Path, p.Args = binary, fields
		for i, field := range p.Args {
			p.Args[i] = strings.Trim(field, `"'`)
		}
		return p
	}
	must := func(line string) clitest.Result {
		t.Helper()
		p := prepare(line)
		if err := p.Run(); err != nil {
			t.Fatalf("%s: %v: %s%s", line, err, p.Out.String(), p.Err.String())
		}
		return clitest.Result{Out: p.Out.String(), Err: p.Err.String()}
	}
	work := func(command string, until func() bool) {
		t.Helper()
		w := prepare("soniq worker --handle")
		w.Args = append(w.Args, "send_welcome_email=exec:"+command)
		w.Begin(t)
		eventually.True(t, "the worker", until)
		if err := w.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := w.Wait(); err != nil {
			t.Fatalf("worker: %v: %s", err, w.Err.String())
		}
	}

	// Setup
	clitest.WantIn(t, "setup", must("soniq setup").Out, "Applied 0001_core", "Applied 0002_dead_letter")
	clitest.WantIn(t, "setup", must("soniq setup").Out, "up to date")

	// How jobs get there
	id := strings.TrimSpace(must(`soniq enqueue send_welcome_email --args {"user_id":42} --max-attempts 1`).Out)
	work(`echo "ConnectionRefusedError: nobody listens" >&2; exit 1`, func() bool {
		return strings.Contains(must("soniq dead-letter list").Out, id)
	})

	// List dead-letter jobs
	for _, line := range []string{
		"soniq dead-letter list",
		"soniq dead-letter list --limit 20",
		`soniq dead-letter list --filter "send_welcome_email"`,
	} {
		clitest.WantIn(t, line, must(line).Out, id, "max_retries_exceeded", "ConnectionRefusedError")
	}
	// Read the error
	clitest.WantIn(t, "show", must("soniq dead-letter show "+id).Out, "ConnectionRefusedError: nobody listens", `"user_id": 42`)

	// Export for analysis
	must("soniq dead-letter export --format json --output dead_jobs.json")
	must("soniq dead-letter export --format csv --output dead_jobs.csv")
	data, err := os.ReadFile(filepath.Join(dir, "dead_jobs.json"))
	if err != nil {
		t.Fatal(err)
	}
	if jobs := clitest.Decode[[]deadletter.Job](t, string(data)); len(jobs) != 1 || jobs[0].ID.String() != id {
		t.Errorf("dead_jobs.json: %s", data)
	}
	if data, err = os.ReadFile(filepath.Join(dir, "dead_jobs.csv")); err != nil || !strings.Contains(string(data), id) {
		t.Errorf("dead_jobs.csv: %s, %v", data, err)
	}

	// Replay a job, and verify
	replay := must("soniq dead-letter replay " + id).Out
	words := strings.Fields(replay)
	newID := words[len(words)-1]
	if replay != "Replayed "+id+" as "+newID+"\n" {
		t.Errorf("replay: %q", replay)
	}
	work("cat", func() bool {
		return clitest.Decode[engine.Job](t, must("soniq job "+newID+" --json").Out).Status == engine.StatusDone
	})
	j := clitest.Decode[deadletter.Job](t, must("soniq dead-letter show "+id+" --json").Out)
	if j.State != deadletter.StateResolved || j.ResurrectionCount != 1 {
		t.Errorf("after the replay: %+v", j)
	}

	// Clean up old entries
	clitest.WantIn(t, "preview", must("soniq dead-letter cleanup --days 7 --dry-run").Out, "Would remove 0 dead letters older than 7 days.")
	clitest.WantIn(t, "cleanup", must("soniq dead-letter cleanup --days 30").Out, "Removed 0 dead letters older than 30 days.")

	// Delete a dead-letter job
	clitest.WantIn(t, "delete", must("soniq dead-letter delete "+id).Out, "Deleted "+id)
	if r := must("soniq dead-letter list"); r.Err != "no dead letters\n" {
		t.Errorf("after the delete: %+v", r)
	}

	// The document's own id, which is the beginning of one.
	const example = "abc123de-f456-4000-8000-000000000001"
	must(`soniq enqueue send_welcome_email --args {"user_id":43}`)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), `update soniq_jobs set id = $1, max_attempts = 1 where status = 'queued'`, example); err != nil {
		t.Fatal(err)
	}
	work("exit 1", func() bool { return strings.Contains(must("soniq dead-letter list").Out, example) })
	clitest.WantIn(t, "replay", must("soniq dead-letter replay abc123-def456").Out, "Replayed "+example+" as ")
	clitest.WantIn(t, "delete", must("soniq dead-letter delete abc123-def456").Out, "Deleted "+example)
	p := prepare("soniq dead-letter replay abc123-def456")
	_ = p.Run()
	if p.ProcessState.ExitCode() != app.ExitFailed || !strings.Contains(p.Err.String(), "abc123-def456: no such dead letter") {
		t.Errorf("exit %d: %s", p.ProcessState.ExitCode(), p.Err.String())
	}
}
