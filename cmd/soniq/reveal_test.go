package main

import (
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"soniq/internal/cli/app"
	"soniq/internal/testdb"
)

const secretDoc = `{"user_id": 42, "password": "Zk3vQ9pL7w"}`

// Each command that can show secrets records who saw which, before it shows
// them; and shows none where that can't be recorded.
func TestReveal_isRecorded_orNothingIsShown(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	dead := seed(t, pool, letter{args: secretDoc, error: "password=Zk3vQ9pL7w"}).String()
	job := uuid.Must(uuid.NewV7())
	if _, err := pool.Exec(t.Context(), `insert into soniq_jobs (id, job_name, args, status, result, last_error) values ($1, 'a', $2, 'done', $2, 'password=Zk3vQ9pL7w')`, job, secretDoc); err != nil {
		t.Fatal(err)
	}
	commands := []struct {
		line []string
		// Records of single ids, and operations.
		records, operations int
	}{
		{[]string{"dead-letter", "show", dead}, 1, 0},
		{[]string{"dead-letter", "list"}, 1, 1},
		{[]string{"dead-letter", "groups"}, 1, 1},
		{[]string{"job", job.String()}, 1, 0},
		{[]string{"job", dead}, 1, 0},
		{[]string{"job", "list"}, 1, 1},
		{[]string{"dead-letter", "replay", dead, "--dry-run", "--set", "password=x"}, 1, 0},
		{[]string{"dead-letter", "replay", "--all", "--dry-run", "--set", "password=x"}, 1, 0},
	}
	for _, c := range commands {
		for _, way := range [][]string{nil, {"--json"}} {
			line := append(c.line, way...)
			if r := s.ok(line...); strings.Contains(r.out+r.err, "Zk3v") {
				t.Errorf("%v shows a secret", line)
			}
			if _, err := pool.Exec(t.Context(), "delete from soniq_dead_letter_audit; delete from soniq_dead_letter_operations"); err != nil {
				t.Fatal(err)
			}
			revealed := append(line, "--reveal", "--as", "ann", "--comment", "ticket 7")
			if r := s.ok(revealed...); !strings.Contains(r.out, "Zk3v") || strings.Contains(r.err, "Zk3v") {
				t.Errorf("%v: %s%s", revealed, r.out, r.err)
			}
			if n := count(t, pool, `select count(*) from soniq_dead_letter_audit where action = 'reveal' and actor = 'ann' and because = 'ticket 7' and dead_letter_id in ($1::uuid, $2)`, dead, job); n != c.records {
				t.Errorf("%v: %d records", revealed, n)
			}
			if n := count(t, pool, `select count(*) from soniq_dead_letter_operations where action = 'reveal' and state = 'done' and actor = 'ann' and total = 1`); n != c.operations {
				t.Errorf("%v: %d operations", revealed, n)
			}
		}
		if r := s.run(append(c.line, "--comment", "x")...); !strings.Contains(strings.Join(c.line, " "), "replay") && r.code != app.ExitUsage {
			t.Errorf("%v without --reveal: exit %d: %s", c.line, r.code, r.err)
		}
	}
	s.ok("job", job.String(), "--reveal", "--as", "ann", "--comment", "ticket 7")
	history := s.ok("dead-letter", "history", job.String()).out
	if !strings.Contains(history, "reveal, by ann: ticket 7") {
		t.Errorf("the history of a job: %s", history)
	}

	if _, err := pool.Exec(t.Context(), `
		create function no_audit() returns trigger language plpgsql as $$ begin raise 'the audit is closed'; end $$;
		create trigger no_audit before insert on soniq_dead_letter_audit for each statement execute function no_audit()`); err != nil {
		t.Fatal(err)
	}
	for _, c := range commands {
		r := s.run(append(c.line, "--reveal")...)
		if r.code != app.ExitFailed || strings.Contains(r.out+r.err, "Zk3v") || strings.Count(r.err, "\n") != 1 ||
			!strings.Contains(r.err, "nothing is shown") || !strings.Contains(r.err, "the audit is closed") {
			t.Errorf("%v without an audit: exit %d: %s%s", c.line, r.code, r.out, r.err)
		}
	}
}

func TestReveal_ofWhatIsWaitedFor(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	worker := s.start("worker", "--handle", "echo=exec:cat", "--handle", "fail=exec:echo password=Zk3vQ9pL7w >&2; exit 65")
	for _, c := range []struct {
		job  string
		code int
	}{{"echo", app.ExitDone}, {"fail", app.ExitFailed}} {
		hidden := s.run("enqueue", c.job, "--args", secretDoc, "--wait")
		shown := s.run("enqueue", c.job, "--args", secretDoc, "--wait", "--json", "--reveal")
		if hidden.code != c.code || shown.code != c.code || strings.Contains(hidden.out+hidden.err, "Zk3v") || !strings.Contains(shown.out, "Zk3v") || strings.Contains(shown.err, "Zk3v") {
			t.Errorf("%s: %+v, %+v", c.job, hidden, shown)
		}
	}
	if n := count(t, pool, `select count(*) from soniq_dead_letter_audit where action = 'reveal' and actor = 'tester@host'`); n != 2 {
		t.Errorf("%d records", n)
	}
	if r := s.run("enqueue", "echo", "--reveal"); r.code != app.ExitUsage {
		t.Errorf("--reveal without --wait: exit %d", r.code)
	}
	s.signals <- syscall.SIGTERM
	worker.wait(t)
}
