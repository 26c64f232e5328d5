package cli_test

import (
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
