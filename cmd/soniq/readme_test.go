package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"soniq/deadletter"
	"soniq/internal/cli/app"
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
	soniq := func(code int, args ...string) result {
		t.Helper()
		p := program(t, dir, url, args...)
		_ = p.Run()
		r := result{p.ProcessState.ExitCode(), p.out.String(), p.err.String()}
		if r.code != code {
			t.Fatalf("soniq %q: exit %d, want %d: %s%s", args, r.code, code, r.out, r.err)
		}
		return r
	}
	job := []string{"thumbnails.make", "--args", `{"image": "cat"}`}

	soniq(app.ExitDone, "setup")
	wantIn(t, "check", soniq(app.ExitDone, "worker", "--check-config").out, "thumbnails.make", "python3 thumbnail.py")
	wantIn(t, "dry run", soniq(app.ExitFailed, append([]string{"worker", "run-once"}, job...)...).err, "would be retried")
	wantIn(t, "second dry run", soniq(app.ExitFailed, append([]string{"worker", "run-once", "--attempt", "2"}, job...)...).err,
		"would be a dead letter: permanent_failure")

	worker := program(t, dir, url, "worker")
	worker.begin(t)
	dead := soniq(app.ExitFailed, append([]string{"enqueue", "--wait"}, job...)...)
	id := regexp.MustCompile(`dead-letter show ([0-9a-f-]{36})`).FindStringSubmatch(dead.err)
	if id == nil {
		t.Fatalf("--wait doesn't name the dead letter: %s", dead.err)
	}
	wantIn(t, "list", soniq(app.ExitDone, "dead-letter", "list").out, id[1], "permanent_failure", "no such store")
	wantIn(t, "show", soniq(app.ExitDone, "dead-letter", "show", id[1]).out, "no such store", `"image": "cat"`)
	if err := os.WriteFile(filepath.Join(dir, "store-is-up"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(soniq(app.ExitDone, "dead-letter", "replay", id[1]).out)
	wantIn(t, "replay", soniq(app.ExitDone, "job", words[len(words)-1], "--wait").out, "cat-200")
	letter := decode[deadletter.Job](t, soniq(app.ExitDone, "dead-letter", "show", id[1], "--json").out)
	if letter.State != deadletter.StateResolved || letter.Attempts != 2 {
		t.Errorf("in the end it is %s, dead after %d attempts; want resolved, 2", letter.State, letter.Attempts)
	}
}
