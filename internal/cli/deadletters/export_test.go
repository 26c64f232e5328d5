package deadletters_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/outfile"
	"soniq/internal/testdb"
)

// seedMany makes n dead letters in one statement, silently.
func seedMany(t *testing.T, pool *pgxpool.Pool, n int) {
	t.Helper()
	const sql = `
		with quiet as (select set_config('soniq.silent', 'on', true))
		insert into soniq_dead_letter_jobs (
		  id, job_name, args, queue, priority, max_attempts, attempts, last_error,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at
		)
		select gen_random_uuid(), 'bulk', jsonb_build_object('n', n), 'default', 100, 3, 3, 'error ' || n,
		  'timeout', now() - interval '90 days', now() - interval '80 days' + n * interval '1 second'
		from quiet, generate_series(1, $1) n`
	if _, err := pool.Exec(t.Context(), sql, n); err != nil {
		t.Fatal(err)
	}
}

func unzipped(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	zipped, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	text, err := io.ReadAll(zipped)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return string(text)
}

func TestExport_nameWithGz_isCompressed(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	seedMany(t, pool, 20)
	s := clitest.NewShell(t, pool.Config().ConnString())
	dir := t.TempDir()
	for name, format := range map[string]string{"a.json.gz": "json", "b.jsonl.GZ": "jsonl", "c.csv.gz": "csv", "d.NDJSON.gz": "jsonl"} {
		path := filepath.Join(dir, name)
		s.OK("dead-letter", "export", "--output", path)
		if want := s.OK("dead-letter", "export", "--format", format).Out; unzipped(t, path) != want {
			t.Errorf("%s differs from the export without compression", name)
		}
	}
	s.OK("dead-letter", "export", "--format", "csv", "--output", filepath.Join(dir, "e.gz"))
	if text := unzipped(t, filepath.Join(dir, "e.gz")); !strings.HasPrefix(text, `"id","job_name"`) {
		t.Errorf("e.gz: %.40q", text)
	}
	r := s.Run("dead-letter", "export", "--output", filepath.Join(dir, "f.gz"))
	clitest.WantCode(t, r, app.ExitUsage)
	clitest.WantIn(t, "stderr", r.Err, "say --format")
}

func TestExport_large_showsProgressOnATerminalAlone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	seedMany(t, pool, app.ProgressFrom)
	path := filepath.Join(t.TempDir(), "dead.jsonl")
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.TTY = true
	if r := s.OK("dead-letter", "export", "-o", path); !strings.Contains(r.Err, "exporting") || !strings.HasSuffix(r.Err, "Exported 5,000 dead letters to "+path+"\n") {
		t.Errorf("%+v", r)
	}
	s.TTY = false
	if r := s.OK("dead-letter", "export", "-o", path); r.Err != "Exported 5,000 dead letters to "+path+"\n" {
		t.Errorf("%+v", r)
	}
}

// The second Ctrl-C ends the process at once, and no half of a file stays.
func TestAbort_takesAwayWhatIsHalfDone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	codes := []int{}
	var said strings.Builder
	a := &app.App{Process: app.Process{Stderr: &said, Exit: func(code int) { codes = append(codes, code) }}}
	half, err := outfile.Create(t.Context(), filepath.Join(dir, "half.json"))
	if err != nil {
		t.Fatal(err)
	}
	whole, err := outfile.Create(t.Context(), filepath.Join(dir, "whole.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer a.OnAbort(half.Abandon)()
	done := a.OnAbort(whole.Abandon)
	if err := whole.Commit(); err != nil {
		t.Fatal(err)
	}
	done()
	a.Abort()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "whole.json" || len(codes) != 1 || codes[0] != app.ExitFailed {
		t.Errorf("left %v, %v; exits %v", entries, err, codes)
	}
	if said.String() != "soniq: ended at once, by another signal\n" {
		t.Errorf("it says %q", said.String())
	}
}
