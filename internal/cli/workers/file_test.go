package workers_test

import (
	"path/filepath"
	"testing"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/testkit"
)

func TestConfig_unreadable_isOneLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for path, want := range map[string]string{
		filepath.Join(dir, "none.yaml"): "none.yaml: no such file or directory",
		dir:                             "is a directory",
		"/dev/zero":                     "is longer than 1048576 bytes",
		"":                              "--config is empty",
	} {
		for _, command := range [][]string{{"worker"}, {"worker", "run-once", "j"}, {"worker", "--check-config", "--json", "--handle", "j=exec:a"}} {
			r := clitest.NewShell(t, "").Run(append(command, "--config", path)...)
			clitest.WantCode(t, r, app.ExitUsage)
			clitest.WantIn(t, "stderr", r.Err, want)
			clitest.CheckComplaint(t, r)
		}
	}
}

// The mistakes come first, one a line, then how many there are and where help is.
func TestWorker_mistakesInTheFile_areListed(t *testing.T) {
	t.Parallel()
	path := testkit.ConfigFile(t, "timeout: 30\njobs:\n  a: {http: 'http://u:hunter2@h/', headers: {Authorization: hunter2}}\n")
	r := clitest.NewShell(t, "").Run("worker", "--config", path, "--check-config")
	clitest.WantCode(t, r, app.ExitUsage)
	want := path + ":1: timeout: 30 has no unit: write 30s, 30m, 30h or 30d\n" +
		path + ":3: a: header \"Authorization\": the URL has a user name, which becomes this header; remove one of the two\n" +
		"soniq: " + path + " has 2 mistakes (see 'soniq worker --help')\n"
	if r.Err != want || r.Out != "" {
		t.Errorf("stdout %q, stderr\n%s\nwant\n%s", r.Out, r.Err, want)
	}
}
