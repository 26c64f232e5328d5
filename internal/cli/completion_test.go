package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
)

// lines and what completes their last word.
var completions = []struct {
	line string
	want string
}{
	{"dead", "dead-letter"},
	{"dl", "dlq"},
	{"dead-letter rep", "replay"},
	{"dlq export --form", "--format"},
	{"dlq export --format j", "json jsonl"},
	{"dlq export --format=c", "--format=csv"},
	{"dead-letter list --reason t", "timeout"},
	{"dead-letter list --reason timeout,job", "timeout,job_not_found"},
	{"dead-letter list --limit 3 --state re", "replaying resolved"},
	{"--log-level debug stat", "status"},
	{"status --log-format j", "json"},
	{"completion z", "zsh"},
	{"dev re", "reset"},
	{"worker --concur", "--concurrency"},
	{"worker run-", "run-once"},
	{"worker li", "list"},
	{"job ca", "cancel"},
	{"job --wait-", "--wait-timeout"},
	{"job list --status c", "cancelled"},
	{"queue ", "list pause resume"},
	{"enqueue name --wait-", "--wait-timeout"},
	{"__comp", ""},
	{"dead-letter list --no-such=", ""},
	{"dead-letter list -- --limi", ""},
}

func TestCompletion_candidates(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, "")
	for _, c := range completions {
		var found []string
		for line := range strings.Lines(s.OK(append([]string{"__complete", "--"}, strings.Split(c.line, " ")...)...).Out) {
			text, _, ok := strings.Cut(line, "\t")
			if !ok {
				t.Errorf("%s: no tab in %q", c.line, line)
			}
			found = append(found, text)
		}
		if got := strings.Join(found, " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.line, got, c.want)
		}
	}
	if r := s.OK("__complete", "--", ""); !strings.Contains(r.Out, "enqueue\tAdd a job") || strings.Contains(r.Out, "__complete") {
		t.Errorf("all commands: %s", r.Out)
	}
	clitest.WantCode(t, s.Run("completion", "tcsh"), app.ExitUsage)
}

// Each driver prints what its shell offers for the words in "$@", a line each.
var shellDrivers = map[string]string{
	"bash": `
source "$SCRIPT"
COMP_WORDS=(soniq "$@")
COMP_CWORD=$#
"$(complete -p soniq | sed 's/.*-F \([^ ]*\).*/\1/')" soniq
printf '%s\n' "${COMPREPLY[@]}"`,
	"zsh": `
compdef() { completer=$1 }
_describe() { print -rl -- "${(@P)2%%:*}" }
_files() { }
source "$SCRIPT"
words=(soniq "$@")
CURRENT=$#words
$completer`,
	"fish": `
source $SCRIPT
complete -C "soniq $argv" | string split -f1 \t
true`,
}

// bash is always there; where zsh and fish are, they run too.
func TestCompletion_realShells(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(dir, "soniq")); err != nil {
		t.Fatal(err)
	}
	s := clitest.NewShell(t, "")
	for name, driver := range shellDrivers {
		shell, err := exec.LookPath(name)
		if err != nil {
			if name == "bash" {
				t.Error(err)
			}
			t.Logf("%s is not installed: its script was not run", name)
			continue
		}
		script := filepath.Join(dir, name)
		if err := os.WriteFile(script, []byte(s.OK("completion", name).Out), 0o600); err != nil {
			t.Fatal(err)
		}
		for line, want := range map[string]string{
			"dead-letter rep":             "replay",
			"dead-letter list --reason t": "timeout",
			"dlq export --format j":       "json jsonl",
			"completion ":                 "bash fish zsh",
		} {
			args := strings.Split(line, " ")
			switch name {
			case "bash":
				args = append([]string{"-c", driver, "bash"}, args...)
			case "zsh":
				args = append([]string{"-f", "-c", driver, "zsh"}, args...)
			default:
				args = append([]string{"--no-config", "-c", driver}, args...)
			}
			cmd := exec.Command(shell, args...)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), clitest.BeMain+"=1", "SCRIPT="+script, "HOME="+dir, "PATH="+dir+":"+os.Getenv("PATH"))
			out, err := cmd.Output()
			got := strings.Fields(string(out))
			slices.Sort(got)
			if err != nil || strings.Join(got, " ") != want {
				t.Errorf("%s: soniq %s: %q, %v, want %q", name, line, got, err, want)
			}
		}
	}
}
