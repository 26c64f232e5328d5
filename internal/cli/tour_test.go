package cli_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

const tourDir = "../../docs/examples/tour"

// tourStep is a command of docs/tour.md, and what it prints there; empty where
// that isn't shown.
type tourStep struct {
	command, want string
	code          int
}

var exitComment = regexp.MustCompile(` +# exit code (\d)$`)

// tourSteps reads the commands of docs/tour.md, in their order.
func tourSteps(t *testing.T) (steps []tourStep) {
	t.Helper()
	text, err := os.ReadFile("../../docs/tour.md")
	if err != nil {
		t.Fatal(err)
	}
	tour, _, found := strings.Cut(string(text), "\n## Follow it yourself\n")
	if !found {
		t.Fatal("docs/tour.md doesn't say how to follow it")
	}
	for _, block := range regexp.MustCompile("(?ms)^```(sh|text)\n(.*?)^```$").FindAllStringSubmatch(tour, -1) {
		if block[1] == "text" {
			steps[len(steps)-1].want = block[2]
			continue
		}
		step := tourStep{command: strings.TrimSuffix(block[2], "\n")}
		if comment := exitComment.FindStringSubmatch(step.command); comment != nil {
			step.command = strings.TrimSuffix(step.command, comment[0])
			step.code, _ = strconv.Atoi(comment[1])
		}
		if strings.Contains(step.command, "\n") {
			t.Fatalf("docs/tour.md has two commands in one block: %s", step.command)
		}
		steps = append(steps, step)
	}
	return steps
}

// What differs from one run to the next.
var tourMasks = []struct {
	pattern *regexp.Regexp
	name    string
}{
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "ID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+`), "TIME"},
	{regexp.MustCompile(`(?m)\b(after )?(\d+(\.\d+)?(h|m|s|ms|µs))+( ago)?( |$)`), "AGE "},
	{regexp.MustCompile(`oldest=\d+s`), "oldest=AGE"},
	{regexp.MustCompile(`[·▁▂▃▄▅▆▇█]{12}`), "TREND"},
}

// isAsShown compares what a command printed with what the page shows. A line of
// three dots stands for any number of lines.
func isAsShown(got, want string) bool {
	var pattern strings.Builder
	pattern.WriteString(`\A`)
	for line := range strings.Lines(masked(want)) {
		if line == "...\n" {
			pattern.WriteString(`(?:.*\n)*?`)
		} else {
			pattern.WriteString(regexp.QuoteMeta(line))
		}
	}
	pattern.WriteString(`\z`)
	return regexp.MustCompile(pattern.String()).MatchString(masked(got))
}

func masked(text string) string {
	for _, m := range tourMasks {
		text = m.pattern.ReplaceAllString(text, m.name)
	}
	return regexp.MustCompile(` +`).ReplaceAllString(text, " ")
}

// docs/tour.md as it stands there: fifty dead letters of six causes, and six
// commands from the alarm to the fix confirmed.
func TestTour_asWritten(t *testing.T) {
	t.Parallel()
	steps := tourSteps(t)
	const soniqCommands = 6
	for n, step := range steps {
		if n < soniqCommands && step.want == "" && strings.HasPrefix(step.command, "soniq ") {
			t.Errorf("docs/tour.md doesn't show what this prints: %s", step.command)
		}
	}
	pool := testdb.New(t)
	dir, url := t.TempDir(), pool.Config().ConnString()
	if err := os.CopyFS(dir, os.DirFS(tourDir)); err != nil {
		t.Fatal(err)
	}
	// Whoever has walked the tour in this checkout may have left it.
	if err := os.Remove(filepath.Join(dir, "gateway-is-up")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	bin := t.TempDir()
	// The test binary is the program, as the environment of the commands says.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(bin, "soniq")); err != nil {
		t.Fatal(err)
	}
	prepare := func(command string) *clitest.Program {
		p := clitest.NewProgram(t, dir, url)
		p.Path, p.Args = "/bin/sh", []string{"sh", "-c", command}
		p.Env = append(p.Env, "PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
		p.Stderr = &p.Out // as a terminal shows it
		return p
	}
	tell := func(step tourStep) string {
		t.Helper()
		p := prepare(step.command)
		_ = p.Run()
		if code := p.ProcessState.ExitCode(); code != step.code {
			t.Fatalf("%s: exit code %d, want %d: %s", step.command, code, step.code, p.Out.String())
		}
		return p.Out.String()
	}

	clitest.WantIn(t, "enqueue", tell(tourStep{command: "soniq enqueue --from jobs.jsonl"}), "50 jobs enqueued")
	move, err := os.ReadFile(filepath.Join(tourDir, "move.sql"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), string(move)); err != nil {
		t.Fatal(err)
	}
	worker := prepare("exec soniq worker")
	worker.Begin(t)
	eventually.True(t, "fifty dead letters", func() bool { return clitest.CountLetters(t, pool) == 50 })

	shown := 0
	for _, step := range steps {
		out := tell(step)
		if step.want == "" {
			continue
		}
		shown++
		if shown == soniqCommands {
			// The replays are jobs: the last of them may still run.
			eventually.True(t, "the fix", func() bool { out = tell(step); return isAsShown(out, step.want) })
		}
		if !isAsShown(out, step.want) {
			t.Errorf("%s prints\n%s\nand docs/tour.md has\n%s", step.command, masked(out), masked(step.want))
		}
	}
	if shown != soniqCommands {
		t.Errorf("docs/tour.md shows %d commands, want %d", shown, soniqCommands)
	}
	// That was the one cause that was mended, and nothing else was touched.
	if n := clitest.Count(t, pool, `select count(*) from soniq_dead_letter_jobs where state = 'dead' and job_name <> 'orders.charge'`); n != 28 {
		t.Errorf("%d others are dead, want 28", n)
	}
	if err := worker.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := worker.Wait(); err != nil {
		t.Errorf("worker: %v: %s", err, worker.Out.String())
	}
}
