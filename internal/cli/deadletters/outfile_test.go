package deadletters_test

import (
	"context"
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
	for path, mode := range map[string]os.FileMode{a: 0o600, b: 0o400} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}

// An export replaces an export, and neither command what a cleanup has removed.
func TestExport_andCleanup_noneReplacesAnArchive(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	seedMany(t, pool, 3)
	s := clitest.NewShell(t, pool.Config().ConnString())
	path := filepath.Join(t.TempDir(), "dead.jsonl")
	s.OK("dead-letter", "export", "-o", path)
	s.OK("dead-letter", "export", "-o", path)
	if r := s.Run("dead-letter", "cleanup", "--days", "1", "--export", path); r.Code != 1 || !strings.Contains(r.Err, "is there already") {
		t.Errorf("%+v", r)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	s.OK("dead-letter", "cleanup", "--days", "1", "--export", path)
	archived, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"export", "-o", path}, {"cleanup", "--days", "1", "--export", path}} {
		r := s.Run(append([]string{"dead-letter"}, args...)...)
		if now, err := os.ReadFile(path); r.Code != 1 || err != nil || string(now) != string(archived) {
			t.Errorf("%v: %+v, %v", args, r, err)
		}
	}
	if r := s.Run("dead-letter", "export", "--force"); r.Code != 2 {
		t.Errorf("%+v", r)
	}
	s.OK("dead-letter", "import", path)
	s.OK("dead-letter", "export", "--force", "-o", path)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o400 {
		t.Errorf("%v, %v", info, err)
	}
}

// A cleanup says how many of its file's dead letters are in the queue too.
func TestCleanup_export_saysHowManyStayed(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	seedMany(t, pool, 3)
	s := clitest.NewShell(t, pool.Config().ConnString())
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), "select from soniq_dead_letter_jobs where last_error = 'error 1' for update"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := s.OK("dead-letter", "cleanup", "--days", "1", "--export", filepath.Join(dir, "a.jsonl"))
	if !strings.Contains(r.Out, "Removed 2 dead letters") || !strings.Contains(r.Err, "It also has 1 dead letter that stayed: changed since, or locked") {
		t.Errorf("%+v", r)
	}
	r = s.OK("dead-letter", "cleanup", "--days", "1", "--export", filepath.Join(dir, "b.jsonl"), "--json")
	if !strings.Contains(r.Out, `"stayed": 1`) && !strings.Contains(r.Out, `"stayed":1`) {
		t.Errorf("%+v", r)
	}
}
