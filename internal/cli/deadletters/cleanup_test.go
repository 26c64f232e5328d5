package deadletters_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// A cleanup that is killed after its file is safe, and before or while it
// deletes, has lost nothing: what is gone from the table comes back from the file.
func TestCleanup_killedBetweenTheFileAndTheDeletion_losesNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	seedMany(t, pool, 50)
	s := clitest.NewShell(t, pool.Config().ConnString())
	before := s.OK("dead-letter", "export", "--format", "json").Out
	dir := t.TempDir()
	path := filepath.Join(dir, "old.jsonl")

	// Rows can be read, and none can be deleted.
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), "lock table soniq_dead_letter_jobs in share mode"); err != nil {
		t.Fatal(err)
	}
	p := clitest.NewProgram(t, dir, pool.Config().ConnString(), "dead-letter", "cleanup", "--export", path)
	p.Begin(t)
	const waiting = `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
	eventually.True(t, "the cleanup to want to delete", func() bool { return clitest.Count(t, pool, waiting) > 0 })
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait()
	// Its statement may still be done by the server.
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	const others = `select count(*) from pg_stat_activity where datname = current_database() and state = 'active' and pid <> pg_backend_pid()`
	eventually.True(t, "the killed one's statement to end", func() bool { return clitest.Count(t, pool, others) == 0 })

	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "old.jsonl" {
		t.Errorf("%v, %v", entries, err)
	}
	whole, err := os.ReadFile(path)
	if err != nil || strings.Count(string(whole), "\n") != 50 {
		t.Errorf("the file has %d lines, %v", strings.Count(string(whole), "\n"), err)
	}
	left := clitest.CountLetters(t, pool)
	s.OK("dead-letter", "import", path)
	if after := s.OK("dead-letter", "export", "--format", "json").Out; withoutXID(t, after) != withoutXID(t, before) {
		t.Errorf("of 50, %d were left; then %d", left, clitest.CountLetters(t, pool))
	}
}
