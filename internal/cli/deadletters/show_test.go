package deadletters_test

import (
	"encoding/json"
	"strings"
	"testing"

	"soniq/internal/cli/clitest"
	"soniq/internal/cli/terminal"
	"soniq/internal/testdb"
)

func TestShow_tellsTheWholeStory_withoutSecrets(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	id := clitest.Seed(t, pool, clitest.Letter{
		Args:  `{"user_id": 42, "api_key": "k-123", "nested": {"note": "dial postgres://ann:s3cr3t@db/app"}}`,
		Error: "dial postgres://ann:s3cr3t@db/app: refused",
	}).String()
	s.OK("dead-letter", "replay", id, "--comment", "the store is back", "--as", "ann")
	out := s.OK("dead-letter", "show", id).Out
	clitest.WantIn(t, "show", out, "by ann: the store is back", "Replays\n", "queued", `"api_key": "[redacted]"`, `"user_id": 42`, "ann:[redacted]@db")
	revealed := s.OK("dead-letter", "show", id, "--reveal").Out
	clitest.WantIn(t, "show --reveal", revealed, "k-123", "s3cr3t")
	for _, args := range [][]string{
		{"show", id},
		{"show", id, "--json"},
		{"list"},
		{"list", "--json"},
		{"groups"},
		{"groups", "--json"},
		{"delete", "--all", "--dry-run"},
	} {
		r := s.OK(append([]string{"dead-letter"}, args...)...)
		for _, secret := range []string{"k-123", "s3cr3t"} {
			if strings.Contains(r.Out+r.Err, secret) {
				t.Errorf("%v shows %s", args, secret)
			}
		}
	}
	var story struct {
		ID      string
		Lineage struct{ Replays []struct{ Outcome string } }
		History []struct{ Action, Comment string }
	}
	if err := json.Unmarshal([]byte(s.OK("dead-letter", "show", id, "--json").Out), &story); err != nil {
		t.Fatal(err)
	}
	if story.ID != id || len(story.Lineage.Replays) != 1 || story.Lineage.Replays[0].Outcome != "queued" ||
		len(story.History) != 2 || story.History[0].Comment != "the store is back" || story.History[1].Action != "reveal" {
		t.Errorf("%+v", story)
	}
}

func TestColour_isForTerminalsThatWantIt_andOursAlone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	clitest.Seed(t, pool, clitest.Letter{Job: "\x1b[31mred", Error: "\x1b]0;title\x07", Reason: "permanent_failure"})
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.TTY, s.Width = true, 150
	s.Env["TERM"] = "xterm"
	colourful := s.OK("dead-letter", "list").Out
	if !strings.Contains(colourful, "\x1b[31mpermanent_failure\x1b[0m") {
		t.Errorf("no colour: %q", colourful)
	}
	for _, escape := range []string{"\x1b[31mred", "\x1b]"} {
		if strings.Contains(colourful, escape) {
			t.Errorf("a job's escape %q reached the terminal", escape)
		}
	}
	for name, change := range map[string]func(s *clitest.Shell){
		"NO_COLOR":  func(s *clitest.Shell) { s.Env["NO_COLOR"] = "1" },
		"TERM=dumb": func(s *clitest.Shell) { s.Env["TERM"] = "dumb" },
		"no TERM":   func(s *clitest.Shell) { delete(s.Env, "TERM") },
		"a pipe":    func(s *clitest.Shell) { s.TTY = false },
	} {
		s := clitest.NewShell(t, pool.Config().ConnString())
		s.TTY, s.Width = true, 150
		s.Env["TERM"] = "xterm"
		change(s)
		for _, command := range []string{"list", "groups", "stats"} {
			if out := s.OK("dead-letter", command).Out; strings.Contains(out, "\x1b") {
				t.Errorf("%s with %s has colours: %q", command, name, out)
			}
		}
	}
}

func TestStats_barsFitTheTerminal_andTheHighestIsTheLongest(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for range 8 {
		clitest.Seed(t, pool, clitest.Letter{Job: "emails.send", Reason: "timeout"})
	}
	clitest.Seed(t, pool, clitest.Letter{Job: "images.resize", Reason: "permanent_failure", State: "resolved"})
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.TTY = true
	for _, width := range []int{30, 60, 120} {
		s.Width = width
		for line := range strings.Lines(s.OK("dead-letter", "stats").Out) {
			if n := terminal.TextWidth(strings.TrimSuffix(line, "\n")); n > max(width, 70) {
				t.Errorf("%d columns on a terminal of %d: %s", n, width, line)
			}
		}
	}
	out := s.OK("dead-letter", "stats").Out
	clitest.WantIn(t, "stats", out, "9 dead letters: 8 dead, 0 being replayed, 1 resolved", strings.Repeat("█", 24)+"\n", strings.Repeat("█", 3)+"\n")
}

// The sentence behind the reason, for all that can decide on each.
func TestShow_explainsEachVerdict(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	const judged = `
		update soniq_dead_letter_jobs
		set error_kind = nullif($2, ''), error_type = nullif($3, ''), error_code = nullif($4, ''), decided_by = nullif($5, '')
		where id = $1`
	for _, c := range []struct {
		reason, kind, errorType, code, decidedBy string
		want                                     string
	}{
		{"max_retries_exceeded", "error", "*url.Error", "503", "budget", "It failed, and no attempt remains."},
		{"max_retries_exceeded", "crash", "", "", "budget", "Its worker died while it ran, and no attempt remains."},
		{"max_retries_exceeded", "panic", "", "", "budget", "Its handler panicked, and no attempt remains."},
		{"max_retries_exceeded", "goexit", "", "", "budget", "Its handler ended its goroutine, and no attempt remains."},
		{"max_retries_exceeded", "", "", "", "", "It failed, and no attempt remains."},
		{"permanent_failure", "error", "*shop.Declined", "card_declined", "marker", "Its handler said that *shop.Declined with the code card_declined is permanent: no retry can help."},
		{"permanent_failure", "error", "*main.commandError", "exit status 78", "marker", "Its handler said that this error with the code exit status 78 is permanent: no retry can help."},
		{"permanent_failure", "error", "*errors.errorString", "", "rule", "The job's own rule says that *errors.errorString is permanent: no retry can help."},
		{"permanent_failure", "error", "shop.Status", "404", "classifier:http", "The worker's classifier http says that shop.Status with the code 404 is permanent: no retry can help."},
		{"permanent_failure", "error", "", "", "classifier:a\x1b[2J", `The worker's classifier a\x1b[2J says that this error is permanent: no retry can help.`},
		{"permanent_failure", "", "", "", "", "Its handler said that the failure is permanent: no retry can help."},
		{"invalid_arguments", "decode", "", "", "arguments", "Its handler refused the arguments, so it was not tried again."},
		{"job_not_found", "unregistered", "", "", "fleet", "No worker registered a handler for this name: deploy one, then replay."},
		{"timeout", "timeout", "", "", "timeout", "Its last attempt ran into the timeout, and none remains."},
		{"manual_move", "", "", "", "operator", "Somebody moved it here by hand."},
		{"resource_exhausted", "", "", "", "", "Another program wrote this reason."},
	} {
		id := clitest.Seed(t, pool, clitest.Letter{Reason: c.reason})
		if _, err := pool.Exec(t.Context(), judged, id, c.kind, c.errorType, c.code, c.decidedBy); err != nil {
			t.Fatal(err)
		}
		out := s.OK("dead-letter", "show", id.String()).Out
		if want := "\nReason       " + c.reason + ". " + c.want + "\n"; !strings.Contains(out, want) {
			t.Errorf("%+v: show lacks %q:\n%s", c, want, out)
		}
		clitest.CheckSafe(t, out)
	}
}
