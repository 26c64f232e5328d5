package deadletters_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
)

// What was exported, deleted and imported is exported as the same file again,
// but for moved_xid: that is a place among the deaths of this server, and an
// import is no news.
func TestImport_roundTrip_isTheSameFile(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for range 20 {
		clitest.Seed(t, pool, clitest.Letter{Error: "a\r\n=b\x1b[2J", Tags: new(`{"team": "a"}`)})
	}
	s := clitest.NewShell(t, pool.Config().ConnString())
	dir := t.TempDir()
	for _, name := range []string{"a.json", "b.jsonl", "c.csv", "d.json.gz", "e.csv.GZ", "f.ndjson"} {
		path := filepath.Join(dir, name)
		s.OK("dead-letter", "export", "-o", path)
		text := s.OK("dead-letter", "export", "--format", "json").Out
		s.OK("dead-letter", "delete", "--all", "--yes")
		if r := s.OK("dead-letter", "import", path); r.Out != "Imported 20 dead letters from "+path+".\n" || r.Err != "" {
			t.Errorf("%s: %+v", name, r)
		}
		again := s.OK("dead-letter", "export", "--format", "json").Out
		if withoutXID(t, again) != withoutXID(t, text) {
			t.Errorf("%s: %s became %s", name, text, again)
		}
	}
}

func withoutXID(t *testing.T, text string) string {
	t.Helper()
	rows := clitest.Decode[[]map[string]any](t, text)
	for _, row := range rows {
		delete(row, "moved_xid")
	}
	out, err := json.Marshal(rows)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestImport_saysWhatItWouldDo_didAndWhoDidIt(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	first := clitest.Seed(t, pool, clitest.Letter{})
	clitest.Seed(t, pool, clitest.Letter{State: "replaying"})
	s := clitest.NewShell(t, pool.Config().ConnString())
	path := filepath.Join(t.TempDir(), "dead.jsonl")
	s.OK("dead-letter", "export", "-o", path)
	if _, err := pool.Exec(t.Context(), "delete from soniq_dead_letter_jobs where state = 'replaying'"); err != nil {
		t.Fatal(err)
	}
	for _, dry := range []bool{true, false} {
		args, did, asJSON := []string{"dead-letter", "import", path, "--as", "ann", "--comment", "by mistake"}, "Imported", `{"imported":0,"settled":0,"skipped":2}`
		if dry {
			args, did, asJSON = append(args, "--dry-run"), "Would import", `{"count":1,"dry_run":true,"settled":1,"skipped":1}`
		}
		r := s.OK(args...)
		if r.Out != did+" 1 dead letter from "+path+".\n" {
			t.Errorf("%+v", r)
		}
		clitest.WantIn(t, "stderr", r.Err, "1 was there already, and left alone: "+first.String()+"\n", "1 was being replayed when exported; no replay is under way now")
		r = s.OK(append(args, "--json")...)
		var line bytes.Buffer
		if err := json.Compact(&line, []byte(r.Out)); err != nil || line.String() != asJSON || r.Err != "" {
			t.Errorf("%s, %+v, %v", line.String(), r, err)
		}
	}
	if n := clitest.Count(t, pool, "select count(*) from soniq_dead_letter_jobs where state = 'dead'"); n != 2 {
		t.Errorf("%d dead", n)
	}
	r := s.OK("dead-letter", "history")
	clitest.WantIn(t, "history", r.Out, "import", "ann", "by mistake", "source="+path)
	ops := clitest.Decode[[]deadletter.Operation](t, s.OK("dead-letter", "history", "--json").Out)
	if len(ops) != 1 || ops[0].Total != 2 || ops[0].Done != 1 || ops[0].Skipped != 1 {
		t.Errorf("%+v", ops)
	}
}

// A file is checked to its end first: with a mistake in its last record nothing
// gets in. Of a pipe, what came in batches before it stays, and is told.
func TestImport_mistakeAtTheEnd_nothingOfAFileGetsIn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	seedMany(t, pool, 1100)
	s := clitest.NewShell(t, pool.Config().ConnString())
	path := filepath.Join(t.TempDir(), "dead.jsonl")
	s.OK("dead-letter", "export", "-o", path)
	s.OK("dead-letter", "delete", "--all", "--yes")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := string(whole) + strings.Replace(string(whole[:bytes.IndexByte(whole, '\n')]), `"state":"dead"`, `"state":"bad_luck"`, 1)
	if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	var first struct{ ID string }
	if err := json.Unmarshal(whole[:bytes.IndexByte(whole, '\n')], &first); err != nil {
		t.Fatal(err)
	}
	const mistake = `: state: "bad_luck" is not dead, replaying or resolved`
	r := s.Run("dead-letter", "import", path)
	clitest.WantCode(t, r, app.ExitUsage)
	if want := "soniq: " + path + `: line 1101, record 1101, id ` + first.ID + mistake + ` (see 'soniq dead-letter import --help')` + "\n"; r.Err != want || r.Out != "" {
		t.Errorf("%+v, want %s", r, want)
	}
	if n := clitest.CountLetters(t, pool); n != 0 {
		t.Errorf("%d dead letters", n)
	}

	s.Stdin = bad
	r = s.Run("dead-letter", "import", "-", "--format", "jsonl")
	clitest.WantCode(t, r, app.ExitPartly)
	if r.Out != "Imported 1,000 dead letters from standard input.\n" || clitest.CountLetters(t, pool) != 1000 {
		t.Errorf("%+v", r)
	}
	clitest.WantIn(t, "stderr", r.Err, `soniq: standard input: line 1101, record 1101, id `+first.ID+mistake+`; what was imported before stays`)
	clitest.CheckSafe(t, r.Err)

	// With --skip-invalid it is named, and the others go in.
	r = s.Run("dead-letter", "import", path, "--skip-invalid", "--json")
	clitest.WantCode(t, r, app.ExitPartly)
	got := clitest.Decode[map[string]any](t, r.Out)
	if r.Err != "soniq: "+path+": line 1101, record 1101, id "+first.ID+mistake+"\n" || got["imported"] != 100.0 || got["invalid"] != 1.0 || got["skipped"] != 1000.0 ||
		!strings.Contains(r.Out, `"field": "state"`) || !strings.Contains(r.Out, `"line": 1101`) {
		t.Errorf("%+v", r)
	}
	s.OK("dead-letter", "delete", "--all", "--yes")
	r = s.Run("dead-letter", "import", path, "--skip-invalid")
	clitest.WantCode(t, r, app.ExitPartly)
	if r.Out != "Imported 1,100 dead letters from "+path+".\n" || !strings.HasSuffix(r.Err, "1 was left out: see above\n") {
		t.Errorf("%+v", r)
	}

	s.Stdin = string(whole)
	if r := s.OK("dead-letter", "import", "-", "--format", "jsonl"); !strings.HasPrefix(r.Out, "Imported 0 dead letters") {
		t.Errorf("%+v", r)
	}

	// Standard input that is a file is one.
	s.OK("dead-letter", "delete", "--all", "--yes")
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	p := clitest.NewProgram(t, t.TempDir(), pool.Config().ConnString(), "dead-letter", "import", "-", "--format", "jsonl")
	p.Stdin = file
	p.Begin(t)
	if err := p.Wait(); err == nil || p.ProcessState.ExitCode() != app.ExitUsage || clitest.CountLetters(t, pool) != 0 {
		t.Errorf("exit %d, %d dead letters: %s", p.ProcessState.ExitCode(), clitest.CountLetters(t, pool), p.Err.String())
	}
}

func TestImport_large_showsProgressOnATerminalAlone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	seedMany(t, pool, 3*app.ProgressFrom) // over 4 MB
	path := filepath.Join(t.TempDir(), "dead.jsonl")
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.OK("dead-letter", "export", "-o", path)
	s.TTY = true
	if r := s.OK("dead-letter", "import", path, "--dry-run"); !strings.Contains(r.Err, "importing") {
		t.Errorf("%+v", r)
	}
	s.TTY = false
	if r := s.OK("dead-letter", "import", path, "--dry-run"); strings.Contains(r.Err, "importing") {
		t.Errorf("%+v", r)
	}
}
