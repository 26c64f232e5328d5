package deadletters_test

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
	"soniq/internal/cli"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

func TestList_emptyIsNoError(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, testdb.NewURL(t))
	if r := s.OK("dead-letter", "list"); r.Out != "" || r.Err != "no dead letters\n" {
		t.Errorf("%+v", r)
	}
	if r := s.OK("dead-letter", "list", "--filter", "x"); r.Err != "no dead letter matches\n" {
		t.Errorf("%+v", r)
	}
	if r := s.OK("dead-letter", "list", "--json"); r.Out != "[]\n" {
		t.Errorf("%+v", r)
	}
}

func TestList_showsFiftyAndSaysHowManyThereAre(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for i := range 55 {
		clitest.Seed(t, pool, clitest.Letter{Age: time.Duration(i+1) * time.Minute, Error: "first\nsecond"})
	}
	s := clitest.NewShell(t, pool.Config().ConnString())
	r := s.OK("dead-letter", "list")
	if n := strings.Count(r.Out, "\n"); n != 51 {
		t.Errorf("%d lines, want 51", n)
	}
	clitest.WantIn(t, "stderr", r.Err, "50 of 55 dead letters; --limit 0 for all, --after ")
	_, last, _ := strings.Cut(strings.TrimSuffix(r.Err, " for the next\n"), "--after ")
	if next := s.OK("dead-letter", "list", "--after", last); strings.Count(next.Out, "\n") != 6 || next.Err != "the last 5 of 55 dead letters\n" {
		t.Errorf("the next page: %+v", next)
	}
	clitest.WantIn(t, "table", r.Out, "ID ", "ERROR", "emails.send", "max_retries_exceeded", "3/3", " 1m ", "dead", "first")
	if strings.Contains(r.Out, "second") {
		t.Error("more than the error's first line")
	}
	if r := s.OK("dlq", "list", "--limit", "0"); strings.Count(r.Out, "\n") != 56 || r.Err != "55 dead letters\n" {
		t.Errorf("--limit 0: %d lines, %q", strings.Count(r.Out, "\n"), r.Err)
	}
	if jobs := clitest.Decode[[]deadletter.Job](t, s.OK("dlq", "list", "--json", "--limit", "2").Out); len(jobs) != 2 || !jobs[0].MovedAt.After(jobs[1].MovedAt) {
		t.Errorf("not the two newest: %+v", jobs)
	}
}

func TestList_filters(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	tags := `{"team": "red"}`
	want := map[string]uuid.UUID{
		"name":   clitest.Seed(t, pool, clitest.Letter{Job: "myapp.send_welcome_email"}),
		"queue":  clitest.Seed(t, pool, clitest.Letter{Queue: "slow"}),
		"reason": clitest.Seed(t, pool, clitest.Letter{Reason: "timeout"}),
		"state":  clitest.Seed(t, pool, clitest.Letter{State: "resolved"}),
		"tags":   clitest.Seed(t, pool, clitest.Letter{Tags: &tags}),
		"age":    clitest.Seed(t, pool, clitest.Letter{Age: 48 * time.Hour}),
		"error":  clitest.Seed(t, pool, clitest.Letter{Error: "out of 100%_MEMORY"}),
	}
	s := clitest.NewShell(t, pool.Config().ConnString())
	for name, flags := range map[string][]string{
		"name":   {"--filter", "send_welcome_email"},
		"queue":  {"--queue", "slow"},
		"reason": {"--reason", "timeout"},
		"state":  {"--state", "resolved"},
		"tags":   {"--tag", "team=red"},
		"age":    {"--until", "1d"},
		"error":  {"--error", "Out of 100%_memory"},
	} {
		jobs := clitest.Decode[[]deadletter.Job](t, s.OK(append([]string{"dead-letter", "list", "--json"}, flags...)...).Out)
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
		if jobs := clitest.Decode[[]deadletter.Job](t, s.OK(args...).Out); len(jobs) != n {
			t.Errorf("%s: %d dead letters, want %d", flags, len(jobs), n)
		}
	}
}

func TestShow_tellsTheWholeStory(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	id := clitest.Seed(t, pool, clitest.Letter{Error: "ConnectionRefusedError: nope\n  at line 3", Args: `{"user_id": 42}`, Age: 2 * time.Hour})
	s := clitest.NewShell(t, pool.Config().ConnString())
	r := s.OK("dead-letter", "show", id.String())
	clitest.WantIn(t, "show", r.Out,
		id.String(), "emails.send", "dead", "max_retries_exceeded", "no attempt remains", "3 of 3", "(2h ago)",
		"ConnectionRefusedError: nope\n    at line 3", "\"user_id\": 42", "soniq dead-letter replay "+id.String())
	if j := clitest.Decode[deadletter.Job](t, s.OK("dead-letter", "show", id.String(), "--json").Out); j.ID != id || j.LastError == "" {
		t.Errorf("--json: %+v", j)
	}
	replayed := clitest.Decode[struct{ Replayed []deadletter.Replayed }](t, s.OK("dead-letter", "replay", id.String(), "--json").Out)
	clitest.WantIn(t, "show", s.OK("dead-letter", "show", id.String()).Out,
		"replaying, as job "+replayed.Replayed[0].To.String(), "1 time, last ", "--force")
}

// What another program's clock has dated ahead is not left out in silence.
func TestBulk_tellsOfDeathsThatAreStillToCome(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	clitest.Seed(t, pool, clitest.Letter{Age: time.Hour})
	clitest.Seed(t, pool, clitest.Letter{Age: -time.Second}) // as one that dies just now
	ahead := clitest.Seed(t, pool, clitest.Letter{Job: "ahead", Age: -time.Hour}).String()
	for _, verb := range []string{"delete", "replay"} {
		r := s.Run("dead-letter", verb, "--job", "ahead", "--yes")
		clitest.WantCode(t, r, app.ExitNothing)
		clitest.WantIn(t, verb, r.Err, "left out: 1 dead letter of times that are still to come", "give their ids")
		clitest.WantIn(t, verb, s.OK("dead-letter", verb, "--all", "--dry-run").Err, "left out: 1 dead letter")
		if r := s.OK("dead-letter", verb, "--all", "--until", "5m", "--dry-run"); strings.Contains(r.Err, "left out") {
			t.Errorf("%s: %s", verb, r.Err)
		}
	}
	s.OK("dead-letter", "delete", ahead)
}

func TestReplay_ids(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	one, two := clitest.Seed(t, pool, clitest.Letter{}), clitest.Seed(t, pool, clitest.Letter{})
	missing := uuid.Must(uuid.NewV7())

	r := s.OK("dead-letter", "replay", one.String(), "--dry-run")
	if clitest.WantIn(t, "dry run", r.Out, "Would replay "+one.String()); clitest.CountJobs(t, pool) != 0 {
		t.Fatal("--dry-run replayed")
	}
	r = s.Run("dead-letter", "replay", one.String(), missing.String(), one.String(), two.String())
	clitest.WantCode(t, r, app.ExitPartly)
	clitest.WantIn(t, "stdout", r.Out, "Replayed "+one.String()+" as ", "Replayed "+two.String()+" as ")
	if r.Err != "soniq: "+missing.String()+": no such dead letter\n" {
		t.Errorf("stderr %q", r.Err)
	}
	if n := clitest.CountJobs(t, pool); n != 2 {
		t.Fatalf("%d jobs: an id named twice was replayed twice", n)
	}
	// Under way already: refused, with the way out; forced, done.
	r = s.Run("dead-letter", "replay", one.String())
	clitest.WantCode(t, r, app.ExitFailed)
	clitest.WantIn(t, "stderr", r.Err, "a replay is under way (job ", "--force")
	clitest.WantCode(t, s.Run("dead-letter", "replay", one.String(), "--dry-run"), app.ExitFailed)
	s.OK("dead-letter", "replay", one.String(), "--force", "--new-queue", "retry-queue", "--new-max-attempts", "10", "--new-priority", "0")
	if n := clitest.Count(t, pool, `select count(*) from soniq_jobs where queue = 'retry-queue' and max_attempts = 10 and priority = 0 and attempts = 0`); n != 1 {
		t.Error("the new options did not reach the job")
	}
	three := clitest.Seed(t, pool, clitest.Letter{})
	s.OK("dead-letter", "replay", three.String(), "--keep-attempts", "--new-max-attempts", "5")
	if n := clitest.Count(t, pool, `select count(*) from soniq_jobs where replay_of = $1 and attempts = 3 and max_attempts = 5`, three); n != 1 {
		t.Error("--keep-attempts did not keep them")
	}
}

func TestReplay_bulk_takesWhatThePreviewCounted(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	for i := range 6 {
		clitest.Seed(t, pool, clitest.Letter{Job: fmt.Sprintf("sync.%d", i%2), Age: time.Duration(i+1) * time.Minute})
	}
	clitest.Seed(t, pool, clitest.Letter{Job: "sync.0", State: "resolved"})

	if r := s.OK("dead-letter", "replay", "--filter", "sync.0", "--dry-run"); !strings.HasPrefix(r.Out, "Would replay 3 dead letters.\nWould leave alone: 1 resolved.\nID ") || strings.Count(r.Out, "sync.0") != 3 || clitest.CountJobs(t, pool) != 0 {
		t.Errorf("preview: %+v, %d jobs", r, clitest.CountJobs(t, pool))
	}
	if r := s.OK("dead-letter", "replay", "--filter", "sync.0", "--limit", "2", "--dry-run"); !strings.HasPrefix(r.Out, "Would replay 2 dead letters.\n") || strings.Count(r.Out, "sync.0") != 2 {
		t.Errorf("limited preview: %+v", r)
	}
	r := s.OK("dead-letter", "replay", "--filter", "sync.0", "--limit", "2", "--yes")
	if strings.Count(r.Out, "Replayed ") != 2 || clitest.CountJobs(t, pool) != 2 || r.Err != "replayed 2 dead letters\n" {
		t.Errorf("%+v, %d jobs", r, clitest.CountJobs(t, pool))
	}
	result := clitest.Decode[struct {
		Replayed []deadletter.Replayed
		Skipped  int
	}](t, s.OK("dead-letter", "replay", "--all", "--yes", "--json").Out)
	if len(result.Replayed) != 4 {
		t.Errorf("--all: %+v", result)
	}
	// All are under way or resolved now.
	clitest.WantCode(t, s.Run("dead-letter", "replay", "--all", "--yes"), app.ExitNothing)
	if n := clitest.CountJobs(t, pool); n != 6 {
		t.Errorf("%d jobs, want 6", n)
	}
}

func TestReplay_bulk_namesWhatItSkipped(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	for range 2 {
		id := clitest.Seed(t, pool, clitest.Letter{})
		if _, err := pool.Exec(t.Context(), `update soniq_dead_letter_jobs set dedup_key = 'k' where id = $1`, id); err != nil {
			t.Fatal(err)
		}
	}
	r := s.Run("dead-letter", "replay", "--all", "--yes")
	clitest.WantCode(t, r, app.ExitPartly)
	clitest.WantIn(t, "stderr", r.Err, "replayed 1 dead letter\n", "skipped 1 dead letter: an equal unique job is queued already")
}

func TestDelete_ids(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	one, two := clitest.Seed(t, pool, clitest.Letter{}), clitest.Seed(t, pool, clitest.Letter{})
	missing := uuid.Must(uuid.NewV7())
	if r := s.OK("dead-letter", "delete", one.String(), "--dry-run"); r.Out != "Would delete "+one.String()+"\n" || clitest.CountLetters(t, pool) != 2 {
		t.Errorf("dry run: %+v", r)
	}
	if r := s.OK("dead-letter", "delete", one.String()); r.Out != "Deleted "+one.String()+"\n" {
		t.Errorf("%+v", r)
	}
	r := s.Run("dead-letter", "delete", missing.String(), two.String(), "--json")
	clitest.WantCode(t, r, app.ExitPartly)
	got := clitest.Decode[struct {
		Deleted []uuid.UUID
		Failed  []app.Failure
	}](t, r.Out)
	if len(got.Deleted) != 1 || got.Deleted[0] != two || len(got.Failed) != 1 || got.Failed[0].ID != missing.String() {
		t.Errorf("%+v", got)
	}
	if n := clitest.CountLetters(t, pool); n != 0 {
		t.Errorf("%d left", n)
	}
}

func TestDelete_bulk_asksWithTheExactCount(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.TTY = true
	clitest.SeedMany(t, pool, 37)
	const question = "This will permanently delete 37 dead letters. This cannot be undone. Continue? [y/N] "
	for _, answer := range []string{"", "\n", "n\n", "yep\n", "no\n"} {
		s.Stdin = answer
		r := s.Run("dead-letter", "delete", "--all")
		clitest.WantCode(t, r, app.ExitFailed)
		if r.Err != question+"soniq: aborted; nothing was changed\n" || clitest.CountLetters(t, pool) != 37 {
			t.Errorf("answer %q: %+v", answer, r)
		}
	}
	s.Stdin = "y\n"
	r := s.OK("dead-letter", "delete", "--all", "--limit", "3")
	clitest.WantIn(t, "question", r.Err, "permanently delete 3 dead letters.")
	if r.Out != "Deleted 3 dead letters.\n" || clitest.CountLetters(t, pool) != 34 {
		t.Errorf("--limit 3: %+v, %d left", r, clitest.CountLetters(t, pool))
	}
	s.Stdin = "Yes\n"
	if s.OK("dead-letter", "delete", "--all"); clitest.CountLetters(t, pool) != 0 {
		t.Error("not deleted")
	}
}

func TestDelete_bulk_previewIsWhatHappens(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	for i := range 12 {
		clitest.Seed(t, pool, clitest.Letter{Job: "a", Age: time.Duration(i+1) * time.Minute})
	}
	kept := clitest.Seed(t, pool, clitest.Letter{Job: "b"})
	r := s.OK("dead-letter", "delete", "--filter", "a", "--dry-run")
	clitest.WantIn(t, "preview", r.Out, "Would delete 12 dead letters.", "ID ", "... and 2 more")
	if got := clitest.Decode[map[string]any](t, s.OK("dead-letter", "delete", "--filter", "a", "--limit", "5", "--dry-run", "--json").Out); got["count"] != 5.0 {
		t.Errorf("limited: %v", got)
	}
	if clitest.CountLetters(t, pool) != 13 {
		t.Fatal("the preview deleted")
	}
	s.OK("dead-letter", "delete", "--filter", "a", "--yes")
	if jobs := clitest.Decode[[]deadletter.Job](t, s.OK("dead-letter", "list", "--json").Out); len(jobs) != 1 || jobs[0].ID != kept {
		t.Errorf("left: %+v", jobs)
	}
}

// What dies while a person reads the question is not what they agreed to.
func TestDelete_bulk_sparesWhatDiesMeanwhile(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	clitest.Seed(t, pool, clitest.Letter{})
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.TTY = true
	answer, typed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = typed.Close() }()
	var out, notes clitest.Stream
	w := s.Process(&out, &notes)
	w.Stdin = answer
	code := make(chan int, 1)
	go func() { code <- cli.Run(w, []string{"dead-letter", "delete", "--all"}) }()
	eventually.True(t, "the question", func() bool { return strings.Contains(notes.String(), "[y/N]") })
	late := clitest.Seed(t, pool, clitest.Letter{Age: time.Nanosecond})
	if _, err := typed.WriteString("y\n"); err != nil {
		t.Fatal(err)
	}
	if got := <-code; got != 0 || out.String() != "Deleted 1 dead letter.\n" {
		t.Errorf("exit %d, %q, %q", got, out.String(), notes.String())
	}
	if n := clitest.Count(t, pool, `select count(*) from soniq_dead_letter_jobs where id = $1`, late); n != 1 {
		t.Error("the late one was deleted too")
	}
}

func TestCleanup_previewAndAction(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	for _, days := range []int{1, 6, 8, 29, 31} {
		clitest.Seed(t, pool, clitest.Letter{Age: time.Duration(days) * 24 * time.Hour})
	}
	if r := s.OK("dead-letter", "cleanup", "--days", "7", "--dry-run"); r.Out != "Would remove 3 dead letters older than 7 days.\n" || clitest.CountLetters(t, pool) != 5 {
		t.Errorf("%+v, %d left", r, clitest.CountLetters(t, pool))
	}
	if r := s.OK("dead-letter", "cleanup"); r.Out != "Removed 1 dead letter older than 30 days.\n" || clitest.CountLetters(t, pool) != 4 {
		t.Errorf("%+v, %d left", r, clitest.CountLetters(t, pool))
	}
	if got := clitest.Decode[map[string]int](t, s.OK("dead-letter", "cleanup", "--days", "7", "--json").Out); got["removed"] != 2 {
		t.Errorf("%v", got)
	}
	if r := s.OK("dead-letter", "cleanup", "--days", "7"); r.Out != "Removed 0 dead letters older than 7 days.\n" {
		t.Errorf("nothing to remove: %+v", r)
	}
	clitest.WantIn(t, "history", s.OK("dead-letter", "history").Out, "cleanup", "to=20")
}

func TestCleanup_filtersAndAges(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	day := 24 * time.Hour
	clitest.Seed(t, pool, clitest.Letter{Queue: "bulk", Age: 2 * day})
	clitest.Seed(t, pool, clitest.Letter{Reason: "timeout", Age: 2 * day})
	clitest.Seed(t, pool, clitest.Letter{State: "resolved", Age: 2 * day})
	clitest.Seed(t, pool, clitest.Letter{State: "replaying", Age: 100 * day})
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
		if r := s.OK(append(args, "--dry-run")...); r.Out != "Would remove "+test.want+".\n" {
			t.Errorf("%s: preview: %+v", test.args, r)
		}
		if r := s.OK(args...); r.Out != "Removed "+test.want+".\n" {
			t.Errorf("%s: %+v", test.args, r)
		}
	}
	if n := clitest.Count(t, pool, `select count(*) from soniq_dead_letter_jobs where state = 'replaying'`); n != 1 {
		t.Error("what is being replayed is gone")
	}
}

func TestCleanup_export_hasWhatWasRemoved(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	path := filepath.Join(t.TempDir(), "old.jsonl.gz")
	if r := s.OK("dead-letter", "cleanup", "--export", path); r.Out != "Removed 0 dead letters older than 30 days.\n" || r.Err != "" {
		t.Errorf("nothing to remove: %+v", r)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file for nothing: %v", err)
	}
	old := clitest.Seed(t, pool, clitest.Letter{Age: 31 * 24 * time.Hour})
	young := clitest.Seed(t, pool, clitest.Letter{})
	s.OK("dead-letter", "cleanup", "--export", path, "--dry-run")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the preview wrote a file: %v", err)
	}
	if r := s.OK("dead-letter", "cleanup", "--export", path); r.Out != "Removed 1 dead letter older than 30 days.\n" || r.Err != "They are in "+path+"\n" {
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
	if got := clitest.Decode[deadletter.Job](t, string(text)); got.ID != old {
		t.Errorf("the file has %s, want %s", got.ID, old)
	}
	if jobs := clitest.Decode[[]deadletter.Job](t, s.OK("dead-letter", "list", "--json").Out); len(jobs) != 1 || jobs[0].ID != young {
		t.Errorf("left: %+v", jobs)
	}

	// The same command again, as cron would: yesterday's file is all that is
	// left of them.
	clitest.Seed(t, pool, clitest.Letter{Age: 31 * 24 * time.Hour})
	r := s.Run("dead-letter", "cleanup", "--export", path)
	clitest.WantCode(t, r, app.ExitFailed)
	if clitest.WantIn(t, "stderr", r.Err, "is there already", "nothing was removed"); clitest.CountLetters(t, pool) != 2 {
		t.Error("removed all the same")
	}
}

// A disk that is full: nothing is removed.
func TestCleanup_failedExport_removesNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	clitest.Seed(t, pool, clitest.Letter{Age: 31 * 24 * time.Hour})
	// A folder in which no file can be made.
	r := s.Run("dead-letter", "cleanup", "--export", "/dev/fd/dead.json")
	clitest.WantCode(t, r, app.ExitFailed)
	if clitest.CountLetters(t, pool) != 1 {
		t.Errorf("%+v; %d left", r, clitest.CountLetters(t, pool))
	}
}

func TestExport_filesAndFormats(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
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
	s.OK("dead-letter", "export", "--format", "csv", "--output", file("empty.csv"))
	if rows, err := csv.NewReader(strings.NewReader(read("empty.csv"))).ReadAll(); err != nil || len(rows) != 1 {
		t.Errorf("empty.csv: %v, %v", rows, err)
	}
	s.OK("dead-letter", "export", "--output", file("empty.json"))
	if jobs := clitest.Decode[[]any](t, read("empty.json")); len(jobs) != 0 {
		t.Errorf("empty.json: %v", jobs)
	}

	for i := range 60 {
		clitest.Seed(t, pool, clitest.Letter{Age: time.Duration(60-i) * time.Minute, Args: fmt.Sprintf(`{"n": %d}`, i), Error: "=1+1"})
	}
	if r := s.OK("dead-letter", "export", "--format", "json", "--output", file("dead_jobs.json")); r.Out != "" || r.Err != "Exported 60 dead letters to "+file("dead_jobs.json")+"\n" {
		t.Errorf("%+v", r)
	}
	if jobs := clitest.Decode[[]deadletter.Job](t, read("dead_jobs.json")); len(jobs) != 60 || !jobs[0].MovedAt.Before(jobs[59].MovedAt) {
		t.Errorf("dead_jobs.json: %d, or not oldest first", len(jobs))
	}
	s.OK("dead-letter", "export", "--format", "csv", "--output", file("dead_jobs.csv"))
	rows, err := csv.NewReader(strings.NewReader(read("dead_jobs.csv"))).ReadAll()
	if err != nil || len(rows) != 61 || rows[0][0] != "id" {
		t.Errorf("dead_jobs.csv: %d rows, %v", len(rows), err)
	}
	// The name decides where --format doesn't.
	s.OK("dead-letter", "export", "-o", file("x.csv"), "--limit", "1")
	if lines := strings.Count(read("x.csv"), "\n"); lines != 2 {
		t.Errorf("x.csv: %d lines", lines)
	}
	s.OK("dead-letter", "export", "-o", file("x.jsonl"), "--limit", "2")
	if lines := strings.Split(strings.TrimSpace(read("x.jsonl")), "\n"); len(lines) != 2 || !json.Valid([]byte(lines[1])) {
		t.Errorf("x.jsonl: %q", lines)
	}
	if jobs := clitest.Decode[[]deadletter.Job](t, s.OK("dead-letter", "export").Out); len(jobs) != 60 {
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
	s := clitest.NewShell(t, testdb.EmptyURL(t)) // without tables
	clitest.WantCode(t, s.Run("dead-letter", "export", "--output", path), app.ExitFailed)
	entries, err := os.ReadDir(dir)
	if data, readErr := os.ReadFile(path); string(data) != "old" || readErr != nil || err != nil || len(entries) != 1 {
		t.Errorf("%q, %v, %v, %v", data, readErr, entries, err)
	}
	s = clitest.NewShell(t, testdb.NewURL(t))
	s.OK("dead-letter", "export", "--output", path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode: %v, %v", info, err)
	}
}

func TestStats(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	if r := s.OK("dead-letter", "stats"); r.Err != "no dead letters\n" {
		t.Errorf("%+v", r)
	}
	clitest.Seed(t, pool, clitest.Letter{Reason: "timeout", Age: 50 * time.Hour})
	clitest.Seed(t, pool, clitest.Letter{})
	clitest.Seed(t, pool, clitest.Letter{})
	replayed := clitest.Seed(t, pool, clitest.Letter{State: "resolved", Age: 3 * time.Hour})
	if _, err := pool.Exec(t.Context(), `update soniq_dead_letter_jobs set replay_job_id = gen_random_uuid(), resurrection_count = 1 where id = $1`, replayed); err != nil {
		t.Fatal(err)
	}
	clitest.WantIn(t, "stats", s.OK("dead-letter", "stats").Out, "4 dead letters: 3 dead, 0 being replayed, 1 resolved\nthe oldest still dead is 2d old", "1 replay ended, 100 % of them well", "max_retries_exceeded      3", "timeout                   1")
	if got := clitest.Decode[deadletter.Stats](t, s.OK("dead-letter", "stats", "--hours", "24", "--json").Out); got.Total != 3 || got.ByReason["max_retries_exceeded"] != 3 {
		t.Errorf("%+v", got)
	}
}

func TestWatch_printsEachDeadLetterUntilStopped(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	lines := clitest.NewShell(t, pool.Config().ConnString())
	text := lines.Start("dead-letter", "watch", "--filter", "send")
	objects := clitest.NewShell(t, pool.Config().ConnString())
	events := objects.Start("dead-letter", "watch", "--json", "--reason", "timeout")
	for _, w := range []*clitest.Running{text, events} {
		eventually.True(t, "the watch", func() bool { return strings.Contains(w.Err.String(), "watching for dead letters") })
	}
	one := clitest.Seed(t, pool, clitest.Letter{Job: "emails.send\x1b[2J", Reason: "timeout"})
	two := clitest.Seed(t, pool, clitest.Letter{})
	clitest.Seed(t, pool, clitest.Letter{Job: "other"})
	// Longer than a notification has room for: the row has the whole name.
	long := clitest.Seed(t, pool, clitest.Letter{Job: strings.Repeat("x", 500) + "send"})
	three := clitest.Seed(t, pool, clitest.Letter{Job: "last", Reason: "timeout"})
	eventually.True(t, "the lines", func() bool { return strings.Contains(text.Out.String(), long.String()) })
	eventually.True(t, "the objects", func() bool { return strings.Contains(events.Out.String(), three.String()) })
	for s, w := range map[*clitest.Shell]*clitest.Running{lines: text, objects: events} {
		s.Signals <- syscall.SIGINT
		if code := w.Wait(t); code != 0 {
			t.Errorf("exit %d: %s", code, w.Err.String())
		}
	}
	clitest.CheckSafe(t, text.Out.String())
	printed := strings.Split(strings.TrimSpace(text.Out.String()), "\n")
	if len(printed) != 3 {
		t.Fatalf("%d lines: %q", len(printed), printed)
	}
	clitest.WantIn(t, "line", printed[0], one.String(), `emails.send\x1b[2J`, "timeout", "3 attempts", "connection refused")
	clitest.WantIn(t, "line", printed[1], two.String(), "emails.send", "max_retries_exceeded")
	printed = strings.Split(strings.TrimSpace(events.Out.String()), "\n")
	if len(printed) != 2 {
		t.Fatalf("%d objects: %q", len(printed), printed)
	}
	if e := clitest.Decode[deadletter.Event](t, printed[0]); e.ID != one || e.Reason != "timeout" || e.JobName != "emails.send\x1b[2J" {
		t.Errorf("%+v", e)
	}
}

// A cursor of --json goes on where the watch before it ended. Another schema has deaths of its own.
func TestWatch_from_goesOnAfterTheCursor(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.OK("setup", "--schema", "other")
	first := clitest.Seed(t, pool, clitest.Letter{Error: "password=hunter2 refused\nand more"})
	watch := func(want uuid.UUID, args ...string) []string {
		t.Helper()
		w := s.Start(append([]string{"dead-letter", "watch", "--json"}, args...)...)
		eventually.True(t, "the last one", func() bool { return strings.Contains(w.Out.String(), want.String()) })
		s.Signals <- syscall.SIGINT
		if code := w.Wait(t); code != 0 {
			t.Errorf("exit %d: %s", code, w.Err.String())
		}
		return strings.Split(strings.TrimSpace(w.Out.String()), "\n")
	}
	type line struct {
		ID     uuid.UUID
		Cursor deadletter.Position
		Error  string
	}
	printed := watch(first, "--from", "0")
	begun := clitest.Decode[line](t, printed[0])
	if len(printed) != 1 || begun.ID != first || begun.Error != "password=[redacted] refused" {
		t.Errorf("printed %q", printed)
	}
	elsewhere, err := pool.Exec(t.Context(), `
		insert into other.soniq_dead_letter_jobs
		select * from public.soniq_dead_letter_jobs`)
	if err != nil || elsewhere.RowsAffected() != 1 {
		t.Fatal(elsewhere, err)
	}
	second := clitest.Seed(t, pool, clitest.Letter{})
	printed = watch(second, "--from", begun.Cursor.String())
	if len(printed) != 1 || clitest.Decode[line](t, printed[0]).ID != second {
		t.Errorf("printed %q", printed)
	}
	r := s.Run("dead-letter", "watch", "--from", "yesterday")
	if r.Code != 2 || !strings.Contains(r.Err, `--from: cursor "yesterday": want EPOCH/XID/ID`) {
		t.Errorf("exit %d: %s", r.Code, r.Err)
	}
}

// The connection is lost again and again, at any statement: each dead letter is printed once, with its
// error, also if it takes a look at the row to know that it is to be printed.
func TestWatch_connectionLostAtAnyMoment_printsEachOnce(t *testing.T) {
	t.Parallel()
	for name, filter := range map[string][]string{"all": nil, "by what only the row knows": {"--error", "refused"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			s := clitest.NewShell(t, pool.Config().ConnString())
			const letters = 300
			for range letters {
				clitest.Seed(t, pool, clitest.Letter{})
			}
			w := s.Start(append([]string{"dead-letter", "watch", "--json", "--from", "0"}, filter...)...)
			printed := func() []string { return strings.Fields(strings.ReplaceAll(w.Out.String(), " ", "")) }
			for cut := 1; cut <= 20; cut++ {
				eventually.True(t, "some more lines", func() bool { return len(printed()) >= cut*letters/25 })
				if _, err := pool.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`); err != nil {
					t.Fatal(err)
				}
			}
			last := clitest.Seed(t, pool, clitest.Letter{})
			eventually.True(t, "the last one", func() bool { return strings.Contains(w.Out.String(), last.String()) })
			s.Signals <- syscall.SIGINT
			if code := w.Wait(t); code != 0 {
				t.Errorf("exit %d: %s", code, w.Err.String())
			}
			seen := map[string]bool{}
			for _, text := range printed() {
				line := clitest.Decode[struct{ ID, Error string }](t, text)
				if seen[line.ID] || line.Error == "" {
					t.Errorf("printed twice, or without its error: %s", text)
				}
				seen[line.ID] = true
			}
			if len(seen) != letters+1 {
				t.Errorf("printed %d of %d; notes: %s", len(seen), letters+1, w.Err.String())
			}
		})
	}
}

// What a notification doesn't say is looked up in the row.
func TestWatch_filtersByWhatOnlyTheRowKnows(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	w := s.Start("dead-letter", "watch", "--error", "REFUSED", "--tag", "owner=ann", "--json")
	eventually.True(t, "the watch", func() bool { return strings.Contains(w.Err.String(), "watching for dead letters") })
	ann, bob := `{"owner": "ann"}`, `{"owner": "bob"}`
	first := clitest.Seed(t, pool, clitest.Letter{Tags: &ann})
	clitest.Seed(t, pool, clitest.Letter{Tags: &bob})
	clitest.Seed(t, pool, clitest.Letter{Tags: &ann, Error: "no such host"})
	last := clitest.Seed(t, pool, clitest.Letter{Tags: &ann})
	eventually.True(t, "the last one", func() bool { return strings.Contains(w.Out.String(), last.String()) })
	s.Signals <- syscall.SIGINT
	if code := w.Wait(t); code != 0 {
		t.Errorf("exit %d: %s", code, w.Err.String())
	}
	printed := strings.Split(strings.TrimSpace(w.Out.String()), "\n")
	if len(printed) != 2 || clitest.Decode[deadletter.Event](t, printed[0]).ID != first || clitest.Decode[deadletter.Event](t, printed[1]).ID != last {
		t.Errorf("printed %q", printed)
	}
}
