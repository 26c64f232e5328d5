package deadletters_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
)

// What the shell has opened is written to as it has opened it.
func TestExport_toDevStdout_appendsWhereTheShellDoes(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	clitest.Seed(t, pool, clitest.Letter{})
	for _, name := range []string{"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"} {
		dir := t.TempDir()
		path := filepath.Join(dir, "all.jsonl")
		if err := os.WriteFile(path, []byte("old\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		all, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		p := clitest.NewProgram(t, dir, pool.Config().ConnString(), "dead-letter", "export", "--format", "jsonl", "-o", name)
		p.Stdout = all
		if err := p.Run(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, p.Err.String())
		}
		_ = all.Close()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Split(string(text), "\n"); len(lines) != 3 || lines[0] != "old" || !strings.HasPrefix(lines[1], `{"id":`) {
			t.Errorf("%s: %q", name, text)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("%s: %v, %v", name, entries, err)
		}
	}
}

// Nobody else can read what an export or a cleanup wrote.
func TestExport_newFiles_areTheUsersAlone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	seedMany(t, pool, 3)
	s := clitest.NewShell(t, pool.Config().ConnString())
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.csv.gz"), filepath.Join(dir, "b.jsonl")
	s.OK("dead-letter", "export", "-o", a)
	s.OK("dead-letter", "cleanup", "--days", "1", "--export", b)
	for _, path := range []string{a, b} {
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}
