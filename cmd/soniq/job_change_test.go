package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

func TestJob_listed_cancelled_retried_deleted(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	if r := s.ok("job", "list"); r.out != "" || r.err != "no jobs\n" {
		t.Errorf("none: %+v", r)
	}
	if r := s.ok("job", "list", "--json"); r.out != "[]\n" {
		t.Errorf("none, as JSON: %+v", r)
	}
	add := func(args ...string) string {
		return strings.TrimSpace(s.ok(append([]string{"enqueue"}, args...)...).out)
	}
	first, second := add("mail.send"), add("reports.build", "--queue", "reports", "--delay", "2h")
	r := s.ok("job", "list")
	wantIn(t, "list", r.out, "ID ", "mail.send", "queued", "due in 1h", "0/4")
	wantIn(t, "list's note", r.err, "2 jobs\n")
	if strings.Index(r.out, first) < strings.Index(r.out, second) {
		t.Errorf("not the newest first: %s", r.out)
	}
	wantIn(t, "the limit", s.ok("job", "list", "--limit", "1").err, "the newest 1 job; --limit 0 for all")
	jobs := decode[[]engine.Job](t, s.ok("job", "list", "--queue", "reports", "--status", "queued", "--json").out)
	if len(jobs) != 1 || jobs[0].ID.String() != second {
		t.Errorf("filtered: %+v", jobs)
	}
	if r := s.ok("job", "list", "--job", "none"); r.err != "no job matches\n" {
		t.Errorf("no match: %+v", r)
	}

	missing := uuid.NewString()
	r = s.run("job", "cancel", first, first, second, missing)
	wantCode(t, r, app.ExitPartly)
	if want := "Cancelled " + first + "\nCancelled " + second + "\n"; r.out != want {
		t.Errorf("cancel: %q, want %q", r.out, want)
	}
	wantIn(t, "cancel's complaint", r.err, "soniq: "+missing+": no such job")
	wantIn(t, "show", s.ok("job", first).out, "Status       cancelled", "Expires")
	wantIn(t, "show", s.ok("job", "show", first).out, "Status       cancelled")
	wantIn(t, "list", s.ok("job", "list", "--status", "cancelled").out, first, second)

	if r := s.ok("job", "retry", first); r.out != "Queued "+first+" to run now\n" {
		t.Errorf("retry: %+v", r)
	}
	retried := decode[map[string][]string](t, s.ok("job", "retry", second, "--json").out)
	if len(retried["retried"]) != 1 || retried["failed"] == nil {
		t.Errorf("retry as JSON: %v", retried)
	}
	if n := count(t, pool, `select count(*) from soniq_jobs where status = 'queued' and scheduled_at <= now()`); n != 2 {
		t.Errorf("%d jobs are due, want 2", n)
	}

	if _, err := pool.Exec(t.Context(), `update soniq_jobs set status = 'processing' where id = $1`, second); err != nil {
		t.Fatal(err)
	}
	r = s.run("job", "delete", second)
	wantCode(t, r, app.ExitFailed)
	wantIn(t, "delete's complaint", r.err, "job is processing; cancel it first")
	wantIn(t, "cancel", s.ok("job", "cancel", second).out, "Asked the worker of "+second+" to cancel it")
	wantIn(t, "show", s.ok("job", second).out, "Cancelling   asked at")
	wantIn(t, "list", s.ok("job", "list", "--queue", "reports").out, "cancelling")
	if r := s.ok("job", "delete", first); r.out != "Deleted "+first+"\n" {
		t.Errorf("delete: %+v", r)
	}
	if n := countJobs(t, pool); n != 1 {
		t.Errorf("%d jobs, want 1", n)
	}
}

func TestJob_mistakes_changeNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	id := strings.TrimSpace(s.ok("enqueue", "j").out)
	for _, args := range [][]string{
		{"job"},
		{"job", "cancel"},
		{"job", "cancel", id, "nonsense"},
		{"job", "delete", id, ""},
		{"job", "list", "--status", "dead_letter"},
		{"job", "list", "--queue", ""},
		{"job", "list", "--limit", "-1"},
		{"queue", "pause"},
		{"queue", "pause", ""},
	} {
		wantCode(t, s.run(args...), app.ExitUsage)
	}
	if n := count(t, pool, `select count(*) from soniq_jobs where status = 'queued'`); n != 1 {
		t.Errorf("%d jobs are queued, want 1", n)
	}
}

func TestJob_cancelRunningCommand_getsTerm(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).Config().ConnString()
	dir := t.TempDir()
	started, ended := filepath.Join(dir, "started"), filepath.Join(dir, "ended")
	startWorker(t, url, "--handle", "j=exec:trap 'echo stopped by TERM >&2; touch "+ended+"; exit 3' TERM; touch "+started+"; sleep 300 & wait")
	s := newShell(t, url)
	id := strings.TrimSpace(s.ok("enqueue", "j").out)
	eventually.True(t, "the command to start", func() bool { _, err := os.Stat(started); return err == nil })
	begun := time.Now()
	if asked := decode[map[string][]string](t, s.ok("job", "cancel", id, "--json").out); len(asked["requested"]) != 1 || len(asked["cancelled"]) != 0 {
		t.Errorf("cancel: %v", asked)
	}
	r := s.run("job", id, "--wait")
	wantCode(t, r, app.ExitFailed)
	wantIn(t, "stdout", r.out, "Status       cancelled", "Attempts     1 of 4", "cancelled by request; standard error ended with: stopped by TERM")
	wantIn(t, "stderr", r.err, "soniq: cancelled")
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
	s := newShell(t, pool.Config().ConnString())
	add := func(name string) string { return strings.TrimSpace(s.ok("enqueue", name, "--delay", "1h").out) }
	first, stuck, last := add("n"), add("stuck"), add("n")
	for _, step := range []struct{ verb, key string }{{"retry", "retried"}, {"cancel", "cancelled"}, {"delete", "deleted"}} {
		r := s.run("job", step.verb, stuck, last)
		wantCode(t, r, app.ExitFailed) // nothing was done before
		r = s.run("job", step.verb, first, stuck, last, "--json")
		wantCode(t, r, app.ExitPartly)
		wantIn(t, step.verb, r.err, "this one is stuck")
		if done := decode[map[string][]string](t, r.out)[step.key]; len(done) != 1 || done[0] != first {
			t.Errorf("%s: %v", step.verb, done)
		}
	}
	r := s.run("queue", "pause", "q", "stuck", "other", "--json")
	wantCode(t, r, app.ExitPartly)
	wantIn(t, "pause", r.err, "this one is stuck")
	if paused := decode[map[string][]string](t, r.out)["paused"]; len(paused) != 1 || paused[0] != "q" {
		t.Errorf("paused %v", paused)
	}
}
