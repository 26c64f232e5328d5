package main

import (
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

func TestList_emptyIsNoError(t *testing.T) {
	t.Parallel()
	s := newShell(t, testdb.NewURL(t))
	if r := s.ok("dead-letter", "list"); r.out != "" || r.err != "no dead letters\n" {
		t.Errorf("%+v", r)
	}
	if r := s.ok("dead-letter", "list", "--filter", "x"); r.err != "no dead letter matches\n" {
		t.Errorf("%+v", r)
	}
	if r := s.ok("dead-letter", "list", "--json"); r.out != "[]\n" {
		t.Errorf("%+v", r)
	}
}

func TestList_showsFiftyAndSaysHowManyThereAre(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for i := range 55 {
		seed(t, pool, letter{age: time.Duration(i+1) * time.Minute, error: "first\nsecond"})
	}
	s := newShell(t, pool.Config().ConnString())
	r := s.ok("dead-letter", "list")
	if n := strings.Count(r.out, "\n"); n != 51 {
		t.Errorf("%d lines, want 51", n)
	}
	wantIn(t, "stderr", r.err, "50 of 55 dead letters; --limit 0 for all, --after ")
	_, last, _ := strings.Cut(strings.TrimSuffix(r.err, " for the next\n"), "--after ")
	if next := s.ok("dead-letter", "list", "--after", last); strings.Count(next.out, "\n") != 6 || next.err != "the last 5 of 55 dead letters\n" {
		t.Errorf("the next page: %+v", next)
	}
	wantIn(t, "table", r.out, "ID ", "ERROR", "emails.send", "max_retries_exceeded", "3/3", " 1m ", "dead", "first")
	if strings.Contains(r.out, "second") {
		t.Error("more than the error's first line")
	}
	if r := s.ok("dlq", "list", "--limit", "0"); strings.Count(r.out, "\n") != 56 || r.err != "55 dead letters\n" {
		t.Errorf("--limit 0: %d lines, %q", strings.Count(r.out, "\n"), r.err)
	}
	if jobs := decode[[]deadletter.Job](t, s.ok("dlq", "list", "--json", "--limit", "2").out); len(jobs) != 2 || !jobs[0].MovedAt.After(jobs[1].MovedAt) {
		t.Errorf("not the two newest: %+v", jobs)
	}
}

func TestList_filters(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	tags := `{"team": "red"}`
	want := map[string]uuid.UUID{
		"name":   seed(t, pool, letter{job: "myapp.send_welcome_email"}),
		"queue":  seed(t, pool, letter{queue: "slow"}),
		"reason": seed(t, pool, letter{reason: "timeout"}),
		"state":  seed(t, pool, letter{state: "resolved"}),
		"tags":   seed(t, pool, letter{tags: &tags}),
		"age":    seed(t, pool, letter{age: 48 * time.Hour}),
		"error":  seed(t, pool, letter{error: "out of 100%_MEMORY"}),
	}
	s := newShell(t, pool.Config().ConnString())
	for name, flags := range map[string][]string{
		"name":   {"--filter", "send_welcome_email"},
		"queue":  {"--queue", "slow"},
		"reason": {"--reason", "timeout"},
		"state":  {"--state", "resolved"},
		"tags":   {"--tag", "team=red"},
		"age":    {"--until", "1d"},
		"error":  {"--error", "Out of 100%_memory"},
	} {
		jobs := decode[[]deadletter.Job](t, s.ok(append([]string{"dead-letter", "list", "--json"}, flags...)...).out)
		if len(jobs) != 1 || jobs[0].ID != want[name] {
			t.Errorf("%s: %+v", flags, jobs)
		}
	}
	for flags, n := range map[string]int{
		"--filter myapp.*": 1, "--filter *welcome*": 1, "--filter send*": 0, "--job emails.send": 6,
		"--job emails.send --queue slow": 1, "--since 1d": 6, "--reason timeout --reason max_retries_exceeded": 7,
		"--replayed": 0, "--no-replayed": 7,
	} {
		args := append([]string{"dead-letter", "list", "--json"}, strings.Fields(flags)...)
		if jobs := decode[[]deadletter.Job](t, s.ok(args...).out); len(jobs) != n {
			t.Errorf("%s: %d dead letters, want %d", flags, len(jobs), n)
		}
	}
}

func TestShow_tellsTheWholeStory(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	id := seed(t, pool, letter{error: "ConnectionRefusedError: nope\n  at line 3", args: `{"user_id": 42}`, age: 2 * time.Hour})
	s := newShell(t, pool.Config().ConnString())
	r := s.ok("dead-letter", "show", id.String())
	wantIn(t, "show", r.out,
		id.String(), "emails.send", "dead", "max_retries_exceeded", "no attempt remains", "3 of 3", "(2h ago)",
		"ConnectionRefusedError: nope\n    at line 3", "\"user_id\": 42", "soniq dead-letter replay "+id.String())
	if j := decode[deadletter.Job](t, s.ok("dead-letter", "show", id.String(), "--json").out); j.ID != id || j.LastError == "" {
		t.Errorf("--json: %+v", j)
	}
	replayed := decode[struct{ Replayed []deadletter.Replayed }](t, s.ok("dead-letter", "replay", id.String(), "--json").out)
	wantIn(t, "show", s.ok("dead-letter", "show", id.String()).out,
		"replaying, as job "+replayed.Replayed[0].To.String(), "1 time, last ", "--force")
}

func TestReplay_ids(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	one, two := seed(t, pool, letter{}), seed(t, pool, letter{})
	missing := uuid.Must(uuid.NewV7())

	r := s.ok("dead-letter", "replay", one.String(), "--dry-run")
	if wantIn(t, "dry run", r.out, "Would replay "+one.String()); countJobs(t, pool) != 0 {
		t.Fatal("--dry-run replayed")
	}
	r = s.run("dead-letter", "replay", one.String(), missing.String(), one.String(), two.String())
	wantCode(t, r, app.ExitPartly)
	wantIn(t, "stdout", r.out, "Replayed "+one.String()+" as ", "Replayed "+two.String()+" as ")
	if r.err != "soniq: "+missing.String()+": no such dead letter\n" {
		t.Errorf("stderr %q", r.err)
	}
	if n := countJobs(t, pool); n != 2 {
		t.Fatalf("%d jobs: an id named twice was replayed twice", n)
	}
	// Under way already: refused, with the way out; forced, done.
	r = s.run("dead-letter", "replay", one.String())
	wantCode(t, r, app.ExitFailed)
	wantIn(t, "stderr", r.err, "a replay is under way (job ", "--force")
	wantCode(t, s.run("dead-letter", "replay", one.String(), "--dry-run"), app.ExitFailed)
	s.ok("dead-letter", "replay", one.String(), "--force", "--new-queue", "retry-queue", "--new-max-attempts", "10", "--new-priority", "0")
	if n := count(t, pool, `select count(*) from soniq_jobs where queue = 'retry-queue' and max_attempts = 10 and priority = 0 and attempts = 0`); n != 1 {
		t.Error("the new options did not reach the job")
	}
	three := seed(t, pool, letter{})
	s.ok("dead-letter", "replay", three.String(), "--keep-attempts", "--new-max-attempts", "5")
	if n := count(t, pool, `select count(*) from soniq_jobs where replay_of = $1 and attempts = 3 and max_attempts = 5`, three); n != 1 {
		t.Error("--keep-attempts did not keep them")
	}
}

func TestReplay_bulk_takesWhatThePreviewCounted(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	for i := range 6 {
		seed(t, pool, letter{job: fmt.Sprintf("sync.%d", i%2), age: time.Duration(i+1) * time.Minute})
	}
	seed(t, pool, letter{job: "sync.0", state: "resolved"})

	if r := s.ok("dead-letter", "replay", "--filter", "sync.0", "--dry-run"); !strings.HasPrefix(r.out, "Would replay 3 dead letters.\nWould leave alone: 1 resolved.\nID ") || strings.Count(r.out, "sync.0") != 3 || countJobs(t, pool) != 0 {
		t.Errorf("preview: %+v, %d jobs", r, countJobs(t, pool))
	}
	if r := s.ok("dead-letter", "replay", "--filter", "sync.0", "--limit", "2", "--dry-run"); !strings.HasPrefix(r.out, "Would replay 2 dead letters.\n") || strings.Count(r.out, "sync.0") != 2 {
		t.Errorf("limited preview: %+v", r)
	}
	r := s.ok("dead-letter", "replay", "--filter", "sync.0", "--limit", "2", "--yes")
	if strings.Count(r.out, "Replayed ") != 2 || countJobs(t, pool) != 2 || r.err != "replayed 2 dead letters\n" {
		t.Errorf("%+v, %d jobs", r, countJobs(t, pool))
	}
	result := decode[struct {
		Replayed []deadletter.Replayed
		Skipped  int
	}](t, s.ok("dead-letter", "replay", "--all", "--yes", "--json").out)
	if len(result.Replayed) != 4 {
		t.Errorf("--all: %+v", result)
	}
	// All are under way or resolved now.
	wantCode(t, s.run("dead-letter", "replay", "--all", "--yes"), app.ExitNothing)
	if n := countJobs(t, pool); n != 6 {
		t.Errorf("%d jobs, want 6", n)
	}
}

func TestReplay_bulk_namesWhatItSkipped(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	for range 2 {
		id := seed(t, pool, letter{})
		if _, err := pool.Exec(t.Context(), `update soniq_dead_letter_jobs set dedup_key = 'k' where id = $1`, id); err != nil {
			t.Fatal(err)
		}
	}
	r := s.run("dead-letter", "replay", "--all", "--yes")
	wantCode(t, r, app.ExitPartly)
	wantIn(t, "stderr", r.err, "replayed 1 dead letter\n", "skipped 1 dead letter: an equal unique job is queued already")
}

func TestDelete_ids(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	one, two := seed(t, pool, letter{}), seed(t, pool, letter{})
	missing := uuid.Must(uuid.NewV7())
	if r := s.ok("dead-letter", "delete", one.String(), "--dry-run"); r.out != "Would delete "+one.String()+"\n" || countLetters(t, pool) != 2 {
		t.Errorf("dry run: %+v", r)
	}
	if r := s.ok("dead-letter", "delete", one.String()); r.out != "Deleted "+one.String()+"\n" {
		t.Errorf("%+v", r)
	}
	r := s.run("dead-letter", "delete", missing.String(), two.String(), "--json")
	wantCode(t, r, app.ExitPartly)
	got := decode[struct {
		Deleted []uuid.UUID
		Failed  []app.Failure
	}](t, r.out)
	if len(got.Deleted) != 1 || got.Deleted[0] != two || len(got.Failed) != 1 || got.Failed[0].ID != missing.String() {
		t.Errorf("%+v", got)
	}
	if n := countLetters(t, pool); n != 0 {
		t.Errorf("%d left", n)
	}
}

func TestDelete_bulk_asksWithTheExactCount(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	s.tty = true
	for i := range 37 {
		seed(t, pool, letter{age: time.Duration(i+1) * time.Minute})
	}
	const question = "This will permanently delete 37 dead letters. This cannot be undone. Continue? [y/N] "
	for _, answer := range []string{"", "\n", "n\n", "yep\n", "no\n"} {
		s.stdin = answer
		r := s.run("dead-letter", "delete", "--all")
		wantCode(t, r, app.ExitFailed)
		if r.err != question+"soniq: aborted; nothing was changed\n" || countLetters(t, pool) != 37 {
			t.Errorf("answer %q: %+v", answer, r)
		}
	}
	s.stdin = "y\n"
	r := s.ok("dead-letter", "delete", "--all", "--limit", "3")
	wantIn(t, "question", r.err, "permanently delete 3 dead letters.")
	if r.out != "Deleted 3 dead letters.\n" || countLetters(t, pool) != 34 {
		t.Errorf("--limit 3: %+v, %d left", r, countLetters(t, pool))
	}
	s.stdin = "Yes\n"
	if s.ok("dead-letter", "delete", "--all"); countLetters(t, pool) != 0 {
		t.Error("not deleted")
	}
}

func TestDelete_bulk_previewIsWhatHappens(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	for i := range 12 {
		seed(t, pool, letter{job: "a", age: time.Duration(i+1) * time.Minute})
	}
	kept := seed(t, pool, letter{job: "b"})
	r := s.ok("dead-letter", "delete", "--filter", "a", "--dry-run")
	wantIn(t, "preview", r.out, "Would delete 12 dead letters.", "ID ", "... and 2 more")
	if got := decode[map[string]any](t, s.ok("dead-letter", "delete", "--filter", "a", "--limit", "5", "--dry-run", "--json").out); got["count"] != 5.0 {
		t.Errorf("limited: %v", got)
	}
	if countLetters(t, pool) != 13 {
		t.Fatal("the preview deleted")
	}
	s.ok("dead-letter", "delete", "--filter", "a", "--yes")
	if jobs := decode[[]deadletter.Job](t, s.ok("dead-letter", "list", "--json").out); len(jobs) != 1 || jobs[0].ID != kept {
		t.Errorf("left: %+v", jobs)
	}
}

// What dies while a person reads the question is not what they agreed to.
func TestDelete_bulk_sparesWhatDiesMeanwhile(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	seed(t, pool, letter{})
	s := newShell(t, pool.Config().ConnString())
	s.tty = true
	answer, typed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = typed.Close() }()
	var out, notes stream
	w := s.world(&out, &notes)
	w.Stdin = answer
	code := make(chan int, 1)
	go func() { code <- run(w, []string{"dead-letter", "delete", "--all"}) }()
	eventually.True(t, "the question", func() bool { return strings.Contains(notes.String(), "[y/N]") })
	late := seed(t, pool, letter{age: time.Nanosecond})
	if _, err := typed.WriteString("y\n"); err != nil {
		t.Fatal(err)
	}
	if got := <-code; got != 0 || out.String() != "Deleted 1 dead letter.\n" {
		t.Errorf("exit %d, %q, %q", got, out.String(), notes.String())
	}
	if n := count(t, pool, `select count(*) from soniq_dead_letter_jobs where id = $1`, late); n != 1 {
		t.Error("the late one was deleted too")
	}
}

func TestCleanup_previewAndAction(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	for _, days := range []int{1, 6, 8, 29, 31} {
		seed(t, pool, letter{age: time.Duration(days) * 24 * time.Hour})
	}
	if r := s.ok("dead-letter", "cleanup", "--days", "7", "--dry-run"); r.out != "Would remove 3 dead letters older than 7 days.\n" || countLetters(t, pool) != 5 {
		t.Errorf("%+v, %d left", r, countLetters(t, pool))
	}
	if r := s.ok("dead-letter", "cleanup"); r.out != "Removed 1 dead letter older than 30 days.\n" || countLetters(t, pool) != 4 {
		t.Errorf("%+v, %d left", r, countLetters(t, pool))
	}
	if got := decode[map[string]int](t, s.ok("dead-letter", "cleanup", "--days", "7", "--json").out); got["removed"] != 2 {
		t.Errorf("%v", got)
	}
	if r := s.ok("dead-letter", "cleanup", "--days", "7"); r.out != "Removed 0 dead letters older than 7 days.\n" {
		t.Errorf("nothing to remove: %+v", r)
	}
	wantIn(t, "history", s.ok("dead-letter", "history").out, "cleanup", "to=20")
}

func TestCleanup_filtersAndAges(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	day := 24 * time.Hour
	seed(t, pool, letter{queue: "bulk", age: 2 * day})
	seed(t, pool, letter{reason: "timeout", age: 2 * day})
	seed(t, pool, letter{state: "resolved", age: 2 * day})
	seed(t, pool, letter{state: "replaying", age: 100 * day})
	for _, test := range []struct {
		args string
		want string
	}{
		{"--older-than 36h --queue bulk --reason timeout", "0 dead letters older than 1d12h"},
		{"--older-than 3d", "0 dead letters older than 3d"},
		{"--older-than 36h --queue bulk", "1 dead letter older than 1d12h"},
		{"--older-than 1d --state resolved", "1 dead letter older than 1d"},
		{"--older-than 1d", "1 dead letter older than 1d"},
	} {
		args := append([]string{"dead-letter", "cleanup"}, strings.Fields(test.args)...)
		if r := s.ok(append(args, "--dry-run")...); r.out != "Would remove "+test.want+".\n" {
			t.Errorf("%s: preview: %+v", test.args, r)
		}
		if r := s.ok(args...); r.out != "Removed "+test.want+".\n" {
			t.Errorf("%s: %+v", test.args, r)
		}
	}
	if n := count(t, pool, `select count(*) from soniq_dead_letter_jobs where state = 'replaying'`); n != 1 {
		t.Error("what is being replayed is gone")
	}
}

func TestCleanup_export_hasWhatWasRemoved(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	path := filepath.Join(t.TempDir(), "old.jsonl.gz")
	if r := s.ok("dead-letter", "cleanup", "--export", path); r.out != "Removed 0 dead letters older than 30 days.\n" || r.err != "" {
		t.Errorf("nothing to remove: %+v", r)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file for nothing: %v", err)
	}
	old := seed(t, pool, letter{age: 31 * 24 * time.Hour})
	young := seed(t, pool, letter{})
	s.ok("dead-letter", "cleanup", "--export", path, "--dry-run")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the preview wrote a file: %v", err)
	}
	if r := s.ok("dead-letter", "cleanup", "--export", path); r.out != "Removed 1 dead letter older than 30 days.\n" || r.err != "They are in "+path+"\n" {
		t.Errorf("%+v", r)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(unzipped)
	if err != nil {
		t.Fatal(err)
	}
	if got := decode[deadletter.Job](t, string(text)); got.ID != old {
		t.Errorf("the file has %s, want %s", got.ID, old)
	}
	if jobs := decode[[]deadletter.Job](t, s.ok("dead-letter", "list", "--json").out); len(jobs) != 1 || jobs[0].ID != young {
		t.Errorf("left: %+v", jobs)
	}

	// The same command again, as cron would: yesterday's file is all that is
	// left of them.
	seed(t, pool, letter{age: 31 * 24 * time.Hour})
	r := s.run("dead-letter", "cleanup", "--export", path)
	wantCode(t, r, app.ExitFailed)
	if wantIn(t, "stderr", r.err, "is there already", "nothing was removed"); countLetters(t, pool) != 2 {
		t.Error("removed all the same")
	}
}

// A disk that is full: nothing is removed.
func TestCleanup_failedExport_removesNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	seed(t, pool, letter{age: 31 * 24 * time.Hour})
	// A folder in which no file can be made.
	r := s.run("dead-letter", "cleanup", "--export", "/dev/fd/dead.json")
	wantCode(t, r, app.ExitFailed)
	if countLetters(t, pool) != 1 {
		t.Errorf("%+v; %d left", r, countLetters(t, pool))
	}
}

func TestExport_filesAndFormats(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	read := func(name string) string {
		t.Helper()
		data, err := os.ReadFile(file(name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	// Empty results are whole files too.
	s.ok("dead-letter", "export", "--format", "csv", "--output", file("empty.csv"))
	if rows, err := csv.NewReader(strings.NewReader(read("empty.csv"))).ReadAll(); err != nil || len(rows) != 1 {
		t.Errorf("empty.csv: %v, %v", rows, err)
	}
	s.ok("dead-letter", "export", "--output", file("empty.json"))
	if jobs := decode[[]any](t, read("empty.json")); len(jobs) != 0 {
		t.Errorf("empty.json: %v", jobs)
	}

	for i := range 60 {
		seed(t, pool, letter{age: time.Duration(60-i) * time.Minute, args: fmt.Sprintf(`{"n": %d}`, i), error: "=1+1"})
	}
	if r := s.ok("dead-letter", "export", "--format", "json", "--output", file("dead_jobs.json")); r.out != "" || r.err != "Exported 60 dead letters to "+file("dead_jobs.json")+"\n" {
		t.Errorf("%+v", r)
	}
	if jobs := decode[[]deadletter.Job](t, read("dead_jobs.json")); len(jobs) != 60 || !jobs[0].MovedAt.Before(jobs[59].MovedAt) {
		t.Errorf("dead_jobs.json: %d, or not oldest first", len(jobs))
	}
	s.ok("dead-letter", "export", "--format", "csv", "--output", file("dead_jobs.csv"))
	rows, err := csv.NewReader(strings.NewReader(read("dead_jobs.csv"))).ReadAll()
	if err != nil || len(rows) != 61 || rows[0][0] != "id" {
		t.Errorf("dead_jobs.csv: %d rows, %v", len(rows), err)
	}
	// The name decides where --format doesn't.
	s.ok("dead-letter", "export", "-o", file("x.csv"), "--limit", "1")
	if lines := strings.Count(read("x.csv"), "\n"); lines != 2 {
		t.Errorf("x.csv: %d lines", lines)
	}
	s.ok("dead-letter", "export", "-o", file("x.jsonl"), "--limit", "2")
	if lines := strings.Split(strings.TrimSpace(read("x.jsonl")), "\n"); len(lines) != 2 || !json.Valid([]byte(lines[1])) {
		t.Errorf("x.jsonl: %q", lines)
	}
	if jobs := decode[[]deadletter.Job](t, s.ok("dead-letter", "export").out); len(jobs) != 60 {
		t.Errorf("standard output: %d", len(jobs))
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 6 {
		t.Errorf("files: %v, %v", entries, err)
	}
}

// A failed export leaves the old file, and nothing else.
func TestExport_failed_keepsTheOldFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "dead_jobs.json")
	if err := os.WriteFile(path, []byte("old"), 0o640); err != nil {
		t.Fatal(err)
	}
	s := newShell(t, testdb.EmptyURL(t)) // without tables
	wantCode(t, s.run("dead-letter", "export", "--output", path), app.ExitFailed)
	entries, err := os.ReadDir(dir)
	if data, readErr := os.ReadFile(path); string(data) != "old" || readErr != nil || err != nil || len(entries) != 1 {
		t.Errorf("%q, %v, %v, %v", data, readErr, entries, err)
	}
	s = newShell(t, testdb.NewURL(t))
	s.ok("dead-letter", "export", "--output", path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode: %v, %v", info, err)
	}
}

func TestStats(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	if r := s.ok("dead-letter", "stats"); r.err != "no dead letters\n" {
		t.Errorf("%+v", r)
	}
	seed(t, pool, letter{reason: "timeout", age: 50 * time.Hour})
	seed(t, pool, letter{})
	seed(t, pool, letter{})
	replayed := seed(t, pool, letter{state: "resolved", age: 3 * time.Hour})
	if _, err := pool.Exec(t.Context(), `update soniq_dead_letter_jobs set replay_job_id = gen_random_uuid(), resurrection_count = 1 where id = $1`, replayed); err != nil {
		t.Fatal(err)
	}
	wantIn(t, "stats", s.ok("dead-letter", "stats").out, "4 dead letters: 3 dead, 0 being replayed, 1 resolved\nthe oldest still dead is 2d old", "1 replay ended, 100 % of them well", "max_retries_exceeded      3", "timeout                   1")
	if got := decode[deadletter.Stats](t, s.ok("dead-letter", "stats", "--hours", "24", "--json").out); got.Total != 3 || got.ByReason["max_retries_exceeded"] != 3 {
		t.Errorf("%+v", got)
	}
}

func TestWatch_printsEachDeadLetterUntilStopped(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	lines := newShell(t, pool.Config().ConnString())
	text := lines.start("dead-letter", "watch", "--filter", "send")
	objects := newShell(t, pool.Config().ConnString())
	events := objects.start("dead-letter", "watch", "--json", "--reason", "timeout")
	for _, w := range []*running{text, events} {
		eventually.True(t, "the watch", func() bool { return strings.Contains(w.err.String(), "watching for dead letters") })
	}
	one := seed(t, pool, letter{job: "emails.send\x1b[2J", reason: "timeout"})
	two := seed(t, pool, letter{})
	seed(t, pool, letter{job: "other"})
	// Longer than a notification has room for: the row has the whole name.
	long := seed(t, pool, letter{job: strings.Repeat("x", 500) + "send"})
	three := seed(t, pool, letter{job: "last", reason: "timeout"})
	eventually.True(t, "the lines", func() bool { return strings.Contains(text.out.String(), long.String()) })
	eventually.True(t, "the objects", func() bool { return strings.Contains(events.out.String(), three.String()) })
	for s, w := range map[*shell]*running{lines: text, objects: events} {
		s.signals <- syscall.SIGINT
		if code := w.wait(t); code != 0 {
			t.Errorf("exit %d: %s", code, w.err.String())
		}
	}
	checkSafe(t, text.out.String())
	printed := strings.Split(strings.TrimSpace(text.out.String()), "\n")
	if len(printed) != 3 {
		t.Fatalf("%d lines: %q", len(printed), printed)
	}
	wantIn(t, "line", printed[0], one.String(), `emails.send\x1b[2J`, "timeout", "3 attempts")
	wantIn(t, "line", printed[1], two.String(), "emails.send", "max_retries_exceeded")
	printed = strings.Split(strings.TrimSpace(events.out.String()), "\n")
	if len(printed) != 2 {
		t.Fatalf("%d objects: %q", len(printed), printed)
	}
	if e := decode[deadletter.Event](t, printed[0]); e.ID != one || e.Reason != "timeout" || e.JobName != "emails.send\x1b[2J" {
		t.Errorf("%+v", e)
	}
}

// What a notification doesn't say is looked up in the row.
func TestWatch_filtersByWhatOnlyTheRowKnows(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	w := s.start("dead-letter", "watch", "--error", "REFUSED", "--tag", "owner=ann", "--json")
	eventually.True(t, "the watch", func() bool { return strings.Contains(w.err.String(), "watching for dead letters") })
	ann, bob := `{"owner": "ann"}`, `{"owner": "bob"}`
	first := seed(t, pool, letter{tags: &ann})
	seed(t, pool, letter{tags: &bob})
	seed(t, pool, letter{tags: &ann, error: "no such host"})
	last := seed(t, pool, letter{tags: &ann})
	eventually.True(t, "the last one", func() bool { return strings.Contains(w.out.String(), last.String()) })
	s.signals <- syscall.SIGINT
	if code := w.wait(t); code != 0 {
		t.Errorf("exit %d: %s", code, w.err.String())
	}
	printed := strings.Split(strings.TrimSpace(w.out.String()), "\n")
	if len(printed) != 2 || decode[deadletter.Event](t, printed[0]).ID != first || decode[deadletter.Event](t, printed[1]).ID != last {
		t.Errorf("printed %q", printed)
	}
}
