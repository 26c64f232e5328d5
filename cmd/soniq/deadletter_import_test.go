package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/testdb"
)

// What was exported, deleted and imported is exported as the same file again,
// but for moved_xid: that is a place among the deaths of this server, and an
// import is no news.
func TestImport_roundTrip_isTheSameFile(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for range 20 {
		seed(t, pool, letter{error: "a\r\n=b\x1b[2J", tags: new(`{"team": "a"}`)})
	}
	s := newShell(t, pool.Config().ConnString())
	dir := t.TempDir()
	for _, name := range []string{"a.json", "b.jsonl", "c.csv", "d.json.gz", "e.csv.GZ", "f.ndjson"} {
		path := filepath.Join(dir, name)
		s.ok("dead-letter", "export", "-o", path)
		text := s.ok("dead-letter", "export", "--format", "json").out
		s.ok("dead-letter", "delete", "--all", "--yes")
		if r := s.ok("dead-letter", "import", path); r.out != "Imported 20 dead letters from "+path+".\n" || r.err != "" {
			t.Errorf("%s: %+v", name, r)
		}
		again := s.ok("dead-letter", "export", "--format", "json").out
		if withoutXID(t, again) != withoutXID(t, text) {
			t.Errorf("%s: %s became %s", name, text, again)
		}
	}
}

func withoutXID(t *testing.T, text string) string {
	t.Helper()
	rows := decode[[]map[string]any](t, text)
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
	first := seed(t, pool, letter{})
	seed(t, pool, letter{state: "replaying"})
	s := newShell(t, pool.Config().ConnString())
	path := filepath.Join(t.TempDir(), "dead.jsonl")
	s.ok("dead-letter", "export", "-o", path)
	if _, err := pool.Exec(t.Context(), "delete from soniq_dead_letter_jobs where state = 'replaying'"); err != nil {
		t.Fatal(err)
	}
	for _, dry := range []bool{true, false} {
		args, did, asJSON := []string{"dead-letter", "import", path, "--as", "ann", "--comment", "by mistake"}, "Imported", `{"imported":0,"settled":0,"skipped":2}`
		if dry {
			args, did, asJSON = append(args, "--dry-run"), "Would import", `{"count":1,"dry_run":true,"settled":1,"skipped":1}`
		}
		r := s.ok(args...)
		if r.out != did+" 1 dead letter from "+path+".\n" {
			t.Errorf("%+v", r)
		}
		wantIn(t, "stderr", r.err, "1 was there already, and left alone: "+first.String()+"\n", "1 was being replayed when exported; no replay is under way now")
		r = s.ok(append(args, "--json")...)
		var line bytes.Buffer
		if err := json.Compact(&line, []byte(r.out)); err != nil || line.String() != asJSON || r.err != "" {
			t.Errorf("%s, %+v, %v", line.String(), r, err)
		}
	}
	if n := count(t, pool, "select count(*) from soniq_dead_letter_jobs where state = 'dead'"); n != 2 {
		t.Errorf("%d dead", n)
	}
	r := s.ok("dead-letter", "history")
	wantIn(t, "history", r.out, "import", "ann", "by mistake", "source="+path)
	ops := decode[[]deadletter.Operation](t, s.ok("dead-letter", "history", "--json").out)
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
	s := newShell(t, pool.Config().ConnString())
	path := filepath.Join(t.TempDir(), "dead.jsonl")
	s.ok("dead-letter", "export", "-o", path)
	s.ok("dead-letter", "delete", "--all", "--yes")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := string(whole) + strings.Replace(string(whole[:bytes.IndexByte(whole, '\n')]), `"timeout"`, `"bad_luck"`, 1)
	if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	r := s.run("dead-letter", "import", path)
	wantCode(t, r, app.ExitUsage)
	if want := "soniq: " + path + `: line 1101, record 1101: dead_letter_reason: unknown reason "bad_luck" (see 'soniq dead-letter import --help')` + "\n"; r.err != want || r.out != "" {
		t.Errorf("%+v, want %s", r, want)
	}
	if n := countLetters(t, pool); n != 0 {
		t.Errorf("%d dead letters", n)
	}

	s.stdin = bad
	r = s.run("dead-letter", "import", "-", "--format", "jsonl")
	wantCode(t, r, app.ExitPartly)
	if r.out != "Imported 1,000 dead letters from standard input.\n" || countLetters(t, pool) != 1000 {
		t.Errorf("%+v", r)
	}
	wantIn(t, "stderr", r.err, `soniq: standard input: line 1101, record 1101: dead_letter_reason: unknown reason "bad_luck"; what was imported before stays`)
	checkSafe(t, r.err)

	s.stdin = string(whole)
	if r := s.ok("dead-letter", "import", "-", "--format", "jsonl"); !strings.HasPrefix(r.out, "Imported 100 dead letters") {
		t.Errorf("%+v", r)
	}

	// Standard input that is a file is one.
	s.ok("dead-letter", "delete", "--all", "--yes")
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	p := program(t, t.TempDir(), pool.Config().ConnString(), "dead-letter", "import", "-", "--format", "jsonl")
	p.Stdin = file
	p.begin(t)
	if err := p.Wait(); err == nil || p.ProcessState.ExitCode() != app.ExitUsage || countLetters(t, pool) != 0 {
		t.Errorf("exit %d, %d dead letters: %s", p.ProcessState.ExitCode(), countLetters(t, pool), p.err.String())
	}
}

func TestImport_large_showsProgressOnATerminalAlone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	seedMany(t, pool, app.ProgressFrom)
	path := filepath.Join(t.TempDir(), "dead.jsonl")
	s := newShell(t, pool.Config().ConnString())
	s.ok("dead-letter", "export", "-o", path)
	s.tty = true
	if r := s.ok("dead-letter", "import", path, "--dry-run"); !strings.Contains(r.err, "importing") {
		t.Errorf("%+v", r)
	}
	s.tty = false
	if r := s.ok("dead-letter", "import", path, "--dry-run"); strings.Contains(r.err, "importing") {
		t.Errorf("%+v", r)
	}
}
