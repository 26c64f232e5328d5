package main

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
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	prepare := func(line string) *process {
		p := program(t, dir, url)
		fields := strings.Fields(line)
		p.Path, p.Args = binary, fields
		for i, field := range p.Args {
			p.Args[i] = strings.Trim(field, `"'`)
		}
		return p
	}
	must := func(line string) result {
		t.Helper()
		p := prepare(line)
		if err := p.Run(); err != nil {
			t.Fatalf("%s: %v: %s%s", line, err, p.out.String(), p.err.String())
		}
		return result{out: p.out.String(), err: p.err.String()}
	}
	work := func(command string, until func() bool) {
		t.Helper()
		w := prepare("soniq worker --handle")
		w.Args = append(w.Args, "send_welcome_email=exec:"+command)
		w.begin(t)
		eventually.True(t, "the worker", until)
		if err := w.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := w.Wait(); err != nil {
			t.Fatalf("worker: %v: %s", err, w.err.String())
		}
	}

	// Setup
	wantIn(t, "setup", must("soniq setup").out, "Applied 0001_core", "Applied 0002_dead_letter")
	wantIn(t, "setup", must("soniq setup").out, "up to date")

	// How jobs get there
	id := strings.TrimSpace(must(`soniq enqueue send_welcome_email --args {"user_id":42} --max-attempts 1`).out)
	work(`echo "ConnectionRefusedError: nobody listens" >&2; exit 1`, func() bool {
		return strings.Contains(must("soniq dead-letter list").out, id)
	})

	// List dead-letter jobs
	for _, line := range []string{
		"soniq dead-letter list",
		"soniq dead-letter list --limit 20",
		`soniq dead-letter list --filter "send_welcome_email"`,
	} {
		wantIn(t, line, must(line).out, id, "max_retries_exceeded", "ConnectionRefusedError")
	}
	// Read the error
	wantIn(t, "show", must("soniq dead-letter show "+id).out, "ConnectionRefusedError: nobody listens", `"user_id": 42`)

	// Export for analysis
	must("soniq dead-letter export --format json --output dead_jobs.json")
	must("soniq dead-letter export --format csv --output dead_jobs.csv")
	data, err := os.ReadFile(filepath.Join(dir, "dead_jobs.json"))
	if err != nil {
		t.Fatal(err)
	}
	if jobs := decode[[]deadletter.Job](t, string(data)); len(jobs) != 1 || jobs[0].ID.String() != id {
		t.Errorf("dead_jobs.json: %s", data)
	}
	if data, err = os.ReadFile(filepath.Join(dir, "dead_jobs.csv")); err != nil || !strings.Contains(string(data), id) {
		t.Errorf("dead_jobs.csv: %s, %v", data, err)
	}

	// Replay a job, and verify
	replay := must("soniq dead-letter replay " + id).out
	words := strings.Fields(replay)
	newID := words[len(words)-1]
	if replay != "Replayed "+id+" as "+newID+"\n" {
		t.Errorf("replay: %q", replay)
	}
	work("cat", func() bool {
		return decode[engine.Job](t, must("soniq job "+newID+" --json").out).Status == engine.StatusDone
	})
	j := decode[deadletter.Job](t, must("soniq dead-letter show "+id+" --json").out)
	if j.State != deadletter.StateResolved || j.ResurrectionCount != 1 {
		t.Errorf("after the replay: %+v", j)
	}

	// Clean up old entries
	wantIn(t, "preview", must("soniq dead-letter cleanup --days 7 --dry-run").out, "Would remove 0 dead letters older than 7 days.")
	wantIn(t, "cleanup", must("soniq dead-letter cleanup --days 30").out, "Removed 0 dead letters older than 30 days.")

	// Delete a dead-letter job
	wantIn(t, "delete", must("soniq dead-letter delete "+id).out, "Deleted "+id)
	if r := must("soniq dead-letter list"); r.err != "no dead letters\n" {
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
	work("exit 1", func() bool { return strings.Contains(must("soniq dead-letter list").out, example) })
	wantIn(t, "replay", must("soniq dead-letter replay abc123-def456").out, "Replayed "+example+" as ")
	wantIn(t, "delete", must("soniq dead-letter delete abc123-def456").out, "Deleted "+example)
	p := prepare("soniq dead-letter replay abc123-def456")
	_ = p.Run()
	if p.ProcessState.ExitCode() != app.ExitFailed || !strings.Contains(p.err.String(), "abc123-def456: no such dead letter") {
		t.Errorf("exit %d: %s", p.ProcessState.ExitCode(), p.err.String())
	}
}
