package jobs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

func TestJob_listed_cancelled_retried_deleted(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	if r := s.OK("job", "list"); r.Out != "" || r.Err != "no jobs\n" {
		t.Errorf("none: %+v", r)
	}
	if r := s.OK("job", "list", "--json"); r.Out != "[]\n" {
		t.Errorf("none, as JSON: %+v", r)
	}
	add := func(args ...string) string {
		return strings.TrimSpace(s.OK(append([]string{"enqueue"}, args...)...).Out)
	}
	first, second := add("mail.send"), add("reports.build", "--queue", "reports", "--delay", "2h")
	r := s.OK("job", "list")
	clitest.WantIn(t, "list", r.Out, "ID ", "mail.send", "queued", "due in 1h", "0/4")
	clitest.WantIn(t, "list's note", r.Err, "2 jobs\n")
	if strings.Index(r.Out, first) < strings.Index(r.Out, second) {
		t.Errorf("not the newest first: %s", r.Out)
	}
	clitest.WantIn(t, "the limit", s.OK("job", "list", "--limit", "1").Err, "the newest 1 job; --limit 0 for all")
	jobs := clitest.Decode[[]engine.Job](t, s.OK("job", "list", "--queue", "reports", "--status", "queued", "--json").Out)
	if len(jobs) != 1 || jobs[0].ID.String() != second {
		t.Errorf("filtered: %+v", jobs)
	}
	if r := s.OK("job", "list", "--job", "none"); r.Err != "no job matches\n" {
		t.Errorf("no match: %+v", r)
	}

	missing := uuid.NewString()
	r = s.Run("job", "cancel", first, first, second, missing)
	clitest.WantCode(t, r, app.ExitPartly)
	if want := "Cancelled " + first + "\nCancelled " + second + "\n"; r.Out != want {
		t.Errorf("cancel: %q, want %q", r.Out, want)
	}
	clitest.WantIn(t, "cancel's complaint", r.Err, "soniq: "+missing+": no such job")
	clitest.WantIn(t, "show", s.OK("job", first).Out, "Status       cancelled", "Expires")
	clitest.WantIn(t, "show", s.OK("job", "show", first).Out, "Status       cancelled")
	clitest.WantIn(t, "list", s.OK("job", "list", "--status", "cancelled").Out, first, second)

	if r := s.OK("job", "retry", first); r.Out != "Queued "+first+" to run now\n" {
		t.Errorf("retry: %+v", r)
	}
	retried := clitest.Decode[map[string][]string](t, s.OK("job", "retry", second, "--json").Out)
	if len(retried["retried"]) != 1 || retried["failed"] == nil {
		t.Errorf("retry as JSON: %v", retried)
	}
	if n := clitest.Count(t, pool, `select count(*) from soniq_jobs where status = 'queued' and scheduled_at <= now()`); n != 2 {
		t.Errorf("%d jobs are due, want 2", n)
	}

	if _, err := pool.Exec(t.Context(), `update soniq_jobs set status = 'processing' where id = $1`, second); err != nil {
		t.Fatal(err)
	}
	r = s.Run("job", "delete", second)
	clitest.WantCode(t, r, app.ExitFailed)
	clitest.WantIn(t, "delete's complaint", r.Err, "job is processing; cancel it first")
	clitest.WantIn(t, "cancel", s.OK("job", "cancel", second).Out, "Asked the worker of "+second+" to cancel it")
	clitest.WantIn(t, "show", s.OK("job", second).Out, "Cancelling   asked at")
	clitest.WantIn(t, "list", s.OK("job", "list", "--queue", "reports").Out, "cancelling")
	if r := s.OK("job", "delete", first); r.Out != "Deleted "+first+"\n" {
		t.Errorf("delete: %+v", r)
	}
	if n := clitest.CountJobs(t, pool); n != 1 {
		t.Errorf("%d jobs, want 1", n)
	}
}

func TestJob_buried_isADeadLetterWithItsHistory(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	add := func(args ...string) string {
		return strings.TrimSpace(s.OK(append([]string{"enqueue", "ledger.sync"}, args...)...).Out)
	}
	due, later, running, done, cancelled, held := add(), add("--delay", "2h"), add(), add(), add(), add()
	for id, status := range map[string]string{running: "processing", done: "done", cancelled: "cancelled"} {
		if _, err := pool.Exec(t.Context(), `update soniq_jobs set status = $2 where id = $1`, id, status); err != nil {
			t.Fatal(err)
		}
	}
	if r := s.OK("job", "bury", due, "--dry-run"); r.Out != "Would bury "+due+"\n" || clitest.CountJobs(t, pool) != 6 {
		t.Errorf("dry run: %+v", r)
	}
	missing := uuid.NewString()
	r := s.Run("job", "bury", due[:23], later, due, running, missing, done, cancelled, "--comment", "the ledger has moved", "--as", "ada")
	clitest.WantCode(t, r, app.ExitPartly)
	if want := "Buried " + due + "\nBuried " + later + "\n"; r.Out != want {
		t.Errorf("buried %q, want %q", r.Out, want)
	}
	clitest.WantIn(t, "refused", r.Err,
		"soniq: "+missing+": no such job", "soniq: "+running+": job is processing; cancel it first",
		"soniq: "+done+": job is done; only a queued job can be buried", "soniq: "+cancelled+": job is cancelled; only")
	if n := strings.Count(r.Err, "\n"); n != 4 {
		t.Errorf("%d lines: %s", n, r.Err)
	}
	clitest.WantIn(t, "show", s.OK("dead-letter", "show", later).Out, "manual_move", "the ledger has moved", "bury, by ada: the ledger has moved")
	clitest.WantCode(t, s.Run("job", "bury", due), app.ExitFailed)

	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), `select from soniq_jobs where id = $1 for update`, held); err != nil {
		t.Fatal(err)
	}
	r = s.Run("job", "bury", held, "--json")
	clitest.WantCode(t, r, app.ExitFailed)
	clitest.WantIn(t, "locked", r.Err, "another transaction has it locked; try again")
}

func TestJob_firstDigitsOfAnID_areEnough(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	for _, id := range []string{"abc123de-f456-4000-8000-000000000001", "abc123de-f457-4000-8000-000000000002"} {
		if _, err := pool.Exec(t.Context(), `insert into soniq_jobs (id, job_name, args) values ($1, 'n', '{}')`, id); err != nil {
			t.Fatal(err)
		}
	}
	letter := clitest.Seed(t, pool, clitest.Letter{}).String()
	clitest.WantIn(t, "job", s.OK("job", letter[:18]).Out, letter, "dead_letter")
	clitest.WantIn(t, "job", s.OK("job", "abc123de-f457").Out, "Job          abc123de-f457-4000-8000-000000000002")
	for _, verb := range []string{"retry", "cancel", "retry", "bury", "show"} {
		clitest.WantIn(t, verb, s.OK("job", verb, "abc123def456").Out, "abc123de-f456-4000-8000-000000000001")
	}
	for _, verb := range []string{"show", "retry", "cancel", "bury", "delete"} {
		r := s.Run("job", verb, "abc123de")
		clitest.WantCode(t, r, app.ExitFailed)
		clitest.WantIn(t, verb, r.Err, "soniq: abc123de: 2 or more jobs have an id that begins with abc123de: give more of it")
		r = s.Run("job", verb, "99999999")
		clitest.WantCode(t, r, app.ExitFailed)
		clitest.WantIn(t, verb, r.Err, "soniq: 99999999: no such job")
	}
}

func TestJob_mistakes_changeNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	id := strings.TrimSpace(s.OK("enqueue", "j").Out)
	for _, args := range [][]string{
		{"job"},
		{"job", "cancel"},
		{"job", "bury"},
		{"job", "bury", id, "abc123"},
		{"job", "cancel", id, "nonsense"},
		{"job", "delete", id, ""},
		{"job", "list", "--status", "dead_letter"},
		{"job", "list", "--queue", ""},
		{"job", "list", "--limit", "-1"},
		{"queue", "pause"},
		{"queue", "pause", ""},
	} {
		clitest.WantCode(t, s.Run(args...), app.ExitUsage)
	}
	if n := clitest.Count(t, pool, `select count(*) from soniq_jobs where status = 'queued'`); n != 1 {
		t.Errorf("%d jobs are queued, want 1", n)
	}
}

func TestJob_cancelRunningCommand_getsTerm(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).Config().ConnString()
	dir := t.TempDir()
	started, ended := filepath.Join(dir, "started"), filepath.Join(dir, "ended")
	startWorker(t, url, "--handle", "j=exec:trap 'echo stopped by TERM >&2; touch "+ended+"; exit 3' TERM; touch "+started+"; sleep 300 & wait")
	s := clitest.NewShell(t, url)
	id := strings.TrimSpace(s.OK("enqueue", "j").Out)
	eventually.True(t, "the command to start", func() bool { _, err := os.Stat(started); return err == nil })
	begun := time.Now()
	if asked := clitest.Decode[map[string][]string](t, s.OK("job", "cancel", id, "--json").Out); len(asked["requested"]) != 1 || len(asked["cancelled"]) != 0 {
		t.Errorf("cancel: %v", asked)
	}
	r := s.Run("job", id, "--wait")
	clitest.WantCode(t, r, app.ExitFailed)
	clitest.WantIn(t, "stdout", r.Out, "Status       cancelled", "Attempts     1 of 4", "cancelled by request; standard error ended with: stopped by TERM")
	clitest.WantIn(t, "stderr", r.Err, "soniq: cancelled")
	if _, err := os.Stat(ended); err != nil {
		t.Errorf("the command got no TERM: %v", err)
	}
	// The heartbeat would have found it in 10 s.
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("it took %s", took)
	}
}

// What was done before the database failed is told, in both forms, and by the
// exit code.
func TestJob_brokenMidway_tellsWhatWasDone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	if _, err := pool.Exec(t.Context(), `
		create function refuse() returns trigger language plpgsql as $$
		begin
		  raise exception 'this one is stuck';
		end
		$$;
		create trigger refuse before update or delete on soniq_jobs
		  for each row when (old.job_name = 'stuck') execute function refuse();
		create trigger refuse before insert on soniq_queues
		  for each row when (new.name = 'stuck') execute function refuse()`); err != nil {
		t.Fatal(err)
	}
	s := clitest.NewShell(t, pool.Config().ConnString())
	add := func(name string) string { return strings.TrimSpace(s.OK("enqueue", name, "--delay", "1h").Out) }
	first, stuck, last := add("n"), add("stuck"), add("n")
	for _, step := range []struct{ verb, key string }{{"retry", "retried"}, {"cancel", "cancelled"}, {"delete", "deleted"}} {
		r := s.Run("job", step.verb, stuck, last)
		clitest.WantCode(t, r, app.ExitFailed) // nothing was done before
		r = s.Run("job", step.verb, first, stuck, last, "--json")
		clitest.WantCode(t, r, app.ExitPartly)
		clitest.WantIn(t, step.verb, r.Err, "this one is stuck")
		if done := clitest.Decode[map[string][]string](t, r.Out)[step.key]; len(done) != 1 || done[0] != first {
			t.Errorf("%s: %v", step.verb, done)
		}
	}
	r := s.Run("queue", "pause", "q", "stuck", "other", "--json")
	clitest.WantCode(t, r, app.ExitPartly)
	clitest.WantIn(t, "pause", r.Err, "this one is stuck")
	if paused := clitest.Decode[map[string][]string](t, r.Out)["paused"]; len(paused) != 1 || paused[0] != "q" {
		t.Errorf("paused %v", paused)
	}
}
