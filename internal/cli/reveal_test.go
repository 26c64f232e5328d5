package cli_test

import (
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
)

const secretDoc = `{"user_id": 42, "password": "Zk3vQ9pL7w"}`

// Each command that can show secrets records who saw which, before it shows
// them; and shows none where that can't be recorded.
func TestReveal_isRecorded_orNothingIsShown(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	dead := clitest.Seed(t, pool, clitest.Letter{Args: secretDoc, Error: "password=Zk3vQ9pL7w"}).String()
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
			if r := s.OK(line...); strings.Contains(r.Out+r.Err, "Zk3v") {
				t.Errorf("%v shows a secret", line)
			}
			if _, err := pool.Exec(t.Context(), "delete from soniq_dead_letter_audit; delete from soniq_dead_letter_operations"); err != nil {
				t.Fatal(err)
			}
			revealed := append(line, "--reveal", "--as", "ann", "--comment", "ticket 7")
			if r := s.OK(revealed...); !strings.Contains(r.Out, "Zk3v") || strings.Contains(r.Err, "Zk3v") {
				t.Errorf("%v: %s%s", revealed, r.Out, r.Err)
			}
			if n := clitest.Count(t, pool, `select count(*) from soniq_dead_letter_audit where action = 'reveal' and actor = 'ann' and because = 'ticket 7' and dead_letter_id in ($1::uuid, $2)`, dead, job); n != c.records {
				t.Errorf("%v: %d records", revealed, n)
			}
			if n := clitest.Count(t, pool, `select count(*) from soniq_dead_letter_operations where action = 'reveal' and state = 'done' and actor = 'ann' and total = 1`); n != c.operations {
				t.Errorf("%v: %d operations", revealed, n)
			}
		}
		if r := s.Run(append(c.line, "--comment", "x")...); !strings.Contains(strings.Join(c.line, " "), "replay") && r.Code != app.ExitUsage {
			t.Errorf("%v without --reveal: exit %d: %s", c.line, r.Code, r.Err)
		}
	}
	s.OK("job", job.String(), "--reveal", "--as", "ann", "--comment", "ticket 7")
	history := s.OK("dead-letter", "history", job.String()).Out
	if !strings.Contains(history, "reveal, by ann: ticket 7") {
		t.Errorf("the history of a job: %s", history)
	}

	if _, err := pool.Exec(t.Context(), `
		create function no_audit() returns trigger language plpgsql as $$ begin raise 'the audit is closed'; end $$;
		create trigger no_audit before insert on soniq_dead_letter_audit for each statement execute function no_audit()`); err != nil {
		t.Fatal(err)
	}
	for _, c := range commands {
		r := s.Run(append(c.line, "--reveal")...)
		if r.Code != app.ExitFailed || strings.Contains(r.Out+r.Err, "Zk3v") || strings.Count(r.Err, "\n") != 1 ||
			!strings.Contains(r.Err, "nothing is shown") || !strings.Contains(r.Err, "the audit is closed") {
			t.Errorf("%v without an audit: exit %d: %s%s", c.line, r.Code, r.Out, r.Err)
		}
	}
}

func TestReveal_ofWhatIsWaitedFor(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	worker := s.Start("worker", "--handle", "echo=exec:cat", "--handle", "fail=exec:echo password=Zk3vQ9pL7w >&2; exit 65")
	for _, c := range []struct {
		job  string
		code int
	}{{"echo", app.ExitDone}, {"fail", app.ExitFailed}} {
		hidden := s.Run("enqueue", c.job, "--args", secretDoc, "--wait")
		shown := s.Run("enqueue", c.job, "--args", secretDoc, "--wait", "--json", "--reveal")
		if hidden.Code != c.code || shown.Code != c.code || strings.Contains(hidden.Out+hidden.Err, "Zk3v") || !strings.Contains(shown.Out, "Zk3v") || strings.Contains(shown.Err, "Zk3v") {
			t.Errorf("%s: %+v, %+v", c.job, hidden, shown)
		}
	}
	if n := clitest.Count(t, pool, `select count(*) from soniq_dead_letter_audit where action = 'reveal' and actor = 'tester@host'`); n != 2 {
		t.Errorf("%d records", n)
	}
	if r := s.Run("enqueue", "echo", "--reveal"); r.Code != app.ExitUsage {
		t.Errorf("--reveal without --wait: exit %d", r.Code)
	}
	s.Signals <- syscall.SIGTERM
	worker.Wait(t)
}
