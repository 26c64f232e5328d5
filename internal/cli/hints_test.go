package cli_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"soniq/internal/cli"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
)

func TestHints_verbsThatPeopleGuess(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"retry ID": "dead-letter replay ID", "replay ID": "dead-letter replay ID", "requeue": "dead-letter replay", "ls": "job list", "rm x": "dead-letter delete",
		"get x": "dead-letter show", "count": "dead-letter stats", "purge": "dead-letter cleanup", "inspect x": "dead-letter show",
		"dlq retry x": "dead-letter replay", "dlq get x": "dead-letter show", "dlq inspect x": "dead-letter show", "dlq remove x": "dead-letter delete",
		"dlq purge": "dead-letter cleanup", "dead-letter count": "dead-letter stats", `enqueue x {"a":1}`: "--args",
		"job ls": "job list", "job get x": "job show", "job rm x": "job delete", "job inspect": "job show", "job purge": "job delete ID", "job kill x": "job cancel",
		"job replay x": "dead-letter replay ID", "job count": "queue list", "job create x": "enqueue NAME",
		"queue ls": "queue list", "queue show x": "queue list", "queue rm x": "exists while it has jobs", "queue create x": "exists as soon as", "queue stop x": "queue pause",
		"worker ls": "worker list", "worker stop": "SIGTERM", "worker start": "'soniq worker'", "worker inspect x": "worker list",
		"hooks ls": "hooks list", "hooks rm x": "hooks remove", "hooks delete x": "hooks remove", "hooks get x": "hooks show", "hooks create x": "hooks add", "hooks update x": "add --replace",
		"migrate status": "migrate list", "migrate rollback": "migrate down", "dev start": "dev up", "init": "soniq setup",
		"dead-letter cleanup --day 3": `did you mean "--days"`, "dead-letter list --reson x": `did you mean "--reason"`, "enqueue x --max-atempts 3": `did you mean "--max-attempts"`,
		"worker --queue x":                  `did you mean "--queues"`,
		"dead-letter list --reason tiemout": `did you mean "timeout"`, "dlq list --state deda": `did you mean "dead"`, "job list --status runing": `did you mean`,
	} {
		r := clitest.NewShell(t, "").Run(strings.Fields(line)...)
		if r.Code != app.ExitUsage || !strings.Contains(r.Err, want) {
			t.Errorf("soniq %s: exit code %d, %q, want %q", line, r.Code, r.Err, want)
		}
		clitest.CheckComplaint(t, r)
		if strings.Count(r.Err, "did you mean")+strings.Count(r.Err, "try ") > 1 {
			t.Errorf("soniq %s: two hints: %q", line, r.Err)
		}
	}
	for _, line := range []string{"help", "help dead-letter replay", "help job"} {
		if r := clitest.NewShell(t, "").OK(strings.Fields(line)...); !strings.Contains(r.Out, "Usage: soniq") {
			t.Errorf("soniq %s: %q", line, r.Out)
		}
	}
}

// Each hint is a command that exists.
func TestHints_nameCommandsThatExist(t *testing.T) {
	t.Parallel()
	command := regexp.MustCompile(`'soniq ([^']+)'`)
	known := map[string]bool{}
	_, all := leaves(t)
	for _, l := range all {
		known[strings.Join(l.path, " ")] = true
	}
	hints := slices.Collect(maps.Values(cli.TopVerbs))
	for _, verbs := range cli.NounVerbs {
		hints = slices.AppendSeq(hints, maps.Values(verbs))
	}
	for _, hint := range hints {
		for _, named := range command.FindAllStringSubmatch(hint, -1) {
			words := strings.Fields(named[1])
			if !known[words[0]] && !known[words[0]+" run"] && !known[words[0]+" show"] && (len(words) < 2 || !known[words[0]+" "+words[1]]) {
				t.Errorf("%q names no command", named[0])
			}
		}
	}
}

func TestHooks_misspeltName_isGuessed(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, testdb.NewURL(t))
	s.OK("hooks", "add", "log", "--name", "orders")
	for _, args := range [][]string{{"show"}, {"test"}, {"remove"}, {"disable"}, {"enable"}, {"deliveries"}} {
		r := s.Run(slices.Concat([]string{"hooks"}, args, []string{"order"})...)
		clitest.WantCode(t, r, app.ExitFailed)
		clitest.WantIn(t, args[0], r.Err, `there is no hook "order"`, `did you mean "orders"?`)
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
