package cli_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// readmeBlock returns the README's first code block in that language, after
// the heading.
func readmeBlock(t *testing.T, heading, language string) string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("the README has no section %q", heading)
	}
	_, block, found := strings.Cut(section, "\n```"+language+"\n")
	block, _, closed := strings.Cut(block, "\n```\n")
	if !found || !closed {
		t.Fatalf("the README's section %q has no %s", heading, language)
	}
	return block + "\n"
}

// The README's way from nothing to a retried, dead-lettered and replayed job
// in Python, by its own files and commands, with the program in processes of
// its own.
func TestReadme_aJobInPython_asWritten(t *testing.T) {
	t.Parallel()
	if !testkit.Installed(t, "python3") {
		return
	}
	const heading = "A job in Python, in five minutes"
	dir := t.TempDir()
	for name, language := range map[string]string{"thumbnail.py": "python", "soniq.yaml": "yaml"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(readmeBlock(t, heading, language)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	url := testdb.EmptyURL(t)
	soniq := func(code int, args ...string) clitest.Result {
		t.Helper()
		p := clitest.NewProgram(t, dir, url, args...)
		_ = p.Run()
		r := clitest.Result{Code: p.ProcessState.ExitCode(), Out: p.Out.String(), Err: p.Err.String()}
		if r.Code != code {
			t.Fatalf("soniq %q: exit %d, want %d: %s%s", args, r.Code, code, r.Out, r.Err)
		}
		return r
	}
	job := []string{"thumbnails.make", "--args", `{"image": "cat"}`}

	soniq(app.ExitDone, "setup")
	clitest.WantIn(t, "check", soniq(app.ExitDone, "worker", "--check-config").Out, "thumbnails.make", "python3 thumbnail.py")
	clitest.WantIn(t, "dry run", soniq(app.ExitFailed, append([]string{"worker", "run-once"}, job...)...).Err, "would be retried")
	clitest.WantIn(t, "second dry run", soniq(app.ExitFailed, append([]string{"worker", "run-once", "--attempt", "2"}, job...)...).Err,
		"would be a dead letter: permanent_failure")

	worker := clitest.NewProgram(t, dir, url, "worker")
	worker.Begin(t)
	dead := soniq(app.ExitFailed, append([]string{"enqueue", "--wait"}, job...)...)
	id := regexp.MustCompile(`dead-letter show ([0-9a-f-]{36})`).FindStringSubmatch(dead.Err)
	if id == nil {
		t.Fatalf("--wait doesn't name the dead letter: %s", dead.Err)
	}
	clitest.WantIn(t, "list", soniq(app.ExitDone, "dead-letter", "list").Out, id[1], "permanent_failure", "no such store")
	clitest.WantIn(t, "show", soniq(app.ExitDone, "dead-letter", "show", id[1]).Out, "no such store", `"image": "cat"`)
	if err := os.WriteFile(filepath.Join(dir, "store-is-up"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(soniq(app.ExitDone, "dead-letter", "replay", id[1]).Out)
	clitest.WantIn(t, "replay", soniq(app.ExitDone, "job", words[len(words)-1], "--wait").Out, "cat-200")
	letter := clitest.Decode[deadletter.Job](t, soniq(app.ExitDone, "dead-letter", "show", id[1], "--json").Out)
	if letter.State != deadletter.StateResolved || letter.Attempts != 2 {
		t.Errorf("in the end it is %s, dead after %d attempts; want resolved, 2", letter.State, letter.Attempts)
	}
}
