package cli_test

import (
	"os"
	"strings"
	"testing"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
)

func TestHints_verbsThatPeopleGuess(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"retry ID": "dead-letter replay ID", "replay ID": "dead-letter replay ID", "requeue": "dead-letter replay", "ls": "job list", "rm x": "dead-letter delete",
		"get x": "dead-letter show", "count": "dead-letter stats", "purge": "dead-letter cleanup", "inspect x": "dead-letter show",
		"dlq retry x": "dead-letter replay", "dlq get x": "dead-letter show", "dlq inspect x": "dead-letter show", "dlq remove x": "dead-letter delete",
		"dlq purge": "dead-letter cleanup", "dead-letter count": "dead-letter stats", `enqueue x {"a":1}`: "--args",
	} {
		r := clitest.NewShell(t, "").Run(strings.Fields(line)...)
		if r.Code != app.ExitUsage || !strings.Contains(r.Err, want) {
			t.Errorf("soniq %s: exit code %d, %q, want %q", line, r.Code, r.Err, want)
		}
		clitest.CheckComplaint(t, r)
	}
}

func TestWorker_soniqYML_isNamed(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("soniq.yml", []byte("jobs: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := clitest.NewShell(t, "").Run("worker")
	if r.Code != app.ExitUsage || !strings.Contains(r.Err, "name it soniq.yaml") {
		t.Errorf("exit code %d, %q", r.Code, r.Err)
	}
}
