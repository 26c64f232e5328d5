package deadletters_test

import (
	"strings"
	"testing"
	"time"

	"soniq/deadletter"
	"soniq/internal/cli/clitest"
	"soniq/internal/cli/terminal"
	"soniq/internal/testdb"
)

func TestGroups_showsCausesAndEachVerbTakesOne(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	if r := s.OK("dead-letter", "groups"); r.Out != "" || r.Err != "no dead letters\n" {
		t.Errorf("of nothing: %+v", r)
	}
	if r := s.OK("dead-letter", "groups", "--json"); r.Out != "[]\n" {
		t.Errorf("of nothing: %+v", r)
	}
	for i := range 7 {
		clitest.Seed(t, pool, clitest.Letter{Error: strings.Repeat("connection to 10.0.0.", 1) + string(rune('1'+i)) + " refused", Age: time.Duration(i+1) * time.Hour})
	}
	clitest.Seed(t, pool, clitest.Letter{Job: "other\x1b[2J", Error: "bad\x1b[31m"})
	r := s.OK("dead-letter", "groups")
	clitest.CheckSafe(t, r.Out)
	clitest.WantIn(t, "groups", r.Out, "GROUP", "DEAD", "24 HOURS", "emails.send", "refused", "   7  ", `other\x1b[2J`)
	if r.Err != "8 dead letters in 2 groups\n" {
		t.Errorf("stderr %q", r.Err)
	}
	if r := s.OK("dead-letter", "groups", "--limit", "1"); strings.Count(r.Out, "\n") != 2 || r.Err != "the first 1 group with 7 dead letters; --limit N for more\n" {
		t.Errorf("limited: %+v", r)
	}
	groups := clitest.Decode[[]deadletter.Group](t, s.OK("dlq", "groups", "--json").Out)
	if len(groups) != 2 || groups[0].Count != 7 {
		t.Fatalf("%+v", groups)
	}
	group := groups[0].ID
	if n := len(clitest.Decode[[]deadletter.Job](t, s.OK("dlq", "list", "--group", group, "--json").Out)); n != 7 {
		t.Errorf("listed %d", n)
	}
	if j := clitest.Decode[deadletter.Job](t, s.OK("dlq", "show", "--group", group, "--json").Out); j.ID != groups[0].SampleID {
		t.Errorf("showed %s, want the latest, %s", j.ID, groups[0].SampleID)
	}
	clitest.WantIn(t, "preview", s.OK("dlq", "replay", "--group", group, "--dry-run").Out, "Would replay 7 dead letters")
	if n := len(clitest.Decode[[]deadletter.Job](t, s.OK("dlq", "export", "--group", group).Out)); n != 7 {
		t.Errorf("exported %d", n)
	}
	s.OK("dlq", "delete", "--group", group, "--yes")
	if n := clitest.CountLetters(t, pool); n != 1 {
		t.Errorf("%d left", n)
	}
	s.TTY = true
	for _, width := range []int{60, 80, 100, 140} {
		s.Width = width
		for line := range strings.Lines(s.OK("dlq", "groups").Out) {
			if n := terminal.TextWidth(strings.TrimSuffix(line, "\n")); n > width {
				t.Errorf("a line of %d columns on a terminal of %d: %q", n, width, line)
			}
		}
	}
}

// DEAD 0 alone could mean that the replays still run.
func TestGroups_tellsWhatIsUnderWayAndWhatIsMended(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	clitest.Seed(t, pool, clitest.Letter{})
	header := func() string {
		first, _, _ := strings.Cut(s.OK("dead-letter", "groups").Out, "\n")
		return strings.Join(strings.Fields(first)[:4], " ")
	}
	if got := header(); got != "GROUP DEAD ALL LAST" {
		t.Errorf("with dead ones alone: %s", got)
	}
	clitest.Seed(t, pool, clitest.Letter{State: "resolved"})
	if got := header(); got != "GROUP DEAD RESOLVED ALL" {
		t.Errorf("with a resolved one: %s", got)
	}
	clitest.Seed(t, pool, clitest.Letter{State: "replaying"})
	if got := header(); got != "GROUP DEAD REPLAYING RESOLVED" {
		t.Errorf("with one that is being replayed: %s", got)
	}
	s.TTY = true
	for _, width := range []int{60, 80, 140} {
		s.Width = width
		for line := range strings.Lines(s.OK("dlq", "groups").Out) {
			if n := terminal.TextWidth(strings.TrimSuffix(line, "\n")); n > width {
				t.Errorf("a line of %d columns on a terminal of %d: %q", n, width, line)
			}
		}
	}
}
