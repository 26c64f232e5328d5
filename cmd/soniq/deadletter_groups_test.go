package main

import (
	"strings"
	"testing"
	"time"

	"soniq/deadletter"
	"soniq/internal/cli/terminal"
	"soniq/internal/testdb"
)

func TestGroups_showsCausesAndEachVerbTakesOne(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	if r := s.ok("dead-letter", "groups"); r.out != "" || r.err != "no dead letters\n" {
		t.Errorf("of nothing: %+v", r)
	}
	if r := s.ok("dead-letter", "groups", "--json"); r.out != "[]\n" {
		t.Errorf("of nothing: %+v", r)
	}
	for i := range 7 {
		seed(t, pool, letter{error: strings.Repeat("connection to 10.0.0.", 1) + string(rune('1'+i)) + " refused", age: time.Duration(i+1) * time.Hour})
	}
	seed(t, pool, letter{job: "other\x1b[2J", error: "bad\x1b[31m"})
	r := s.ok("dead-letter", "groups")
	checkSafe(t, r.out)
	wantIn(t, "groups", r.out, "GROUP", "DEAD", "24 HOURS", "emails.send", "refused", "   7  ", `other\x1b[2J`)
	if r.err != "8 dead letters in 2 groups\n" {
		t.Errorf("stderr %q", r.err)
	}
	if r := s.ok("dead-letter", "groups", "--limit", "1"); strings.Count(r.out, "\n") != 2 || r.err != "the first 1 group with 7 dead letters; --limit N for more\n" {
		t.Errorf("limited: %+v", r)
	}
	groups := decode[[]deadletter.Group](t, s.ok("dlq", "groups", "--json").out)
	if len(groups) != 2 || groups[0].Count != 7 {
		t.Fatalf("%+v", groups)
	}
	group := groups[0].ID
	if n := len(decode[[]deadletter.Job](t, s.ok("dlq", "list", "--group", group, "--json").out)); n != 7 {
		t.Errorf("listed %d", n)
	}
	if j := decode[deadletter.Job](t, s.ok("dlq", "show", "--group", group, "--json").out); j.ID != groups[0].SampleID {
		t.Errorf("showed %s, want the latest, %s", j.ID, groups[0].SampleID)
	}
	wantIn(t, "preview", s.ok("dlq", "replay", "--group", group, "--dry-run").out, "Would replay 7 dead letters")
	if n := len(decode[[]deadletter.Job](t, s.ok("dlq", "export", "--group", group).out)); n != 7 {
		t.Errorf("exported %d", n)
	}
	s.ok("dlq", "delete", "--group", group, "--yes")
	if n := countLetters(t, pool); n != 1 {
		t.Errorf("%d left", n)
	}
	s.tty = true
	for _, width := range []int{60, 80, 100, 140} {
		s.width = width
		for line := range strings.Lines(s.ok("dlq", "groups").out) {
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
	s := newShell(t, pool.Config().ConnString())
	seed(t, pool, letter{})
	header := func() string {
		first, _, _ := strings.Cut(s.ok("dead-letter", "groups").out, "\n")
		return strings.Join(strings.Fields(first)[:4], " ")
	}
	if got := header(); got != "GROUP DEAD ALL LAST" {
		t.Errorf("with dead ones alone: %s", got)
	}
	seed(t, pool, letter{state: "resolved"})
	if got := header(); got != "GROUP DEAD RESOLVED ALL" {
		t.Errorf("with a resolved one: %s", got)
	}
	seed(t, pool, letter{state: "replaying"})
	if got := header(); got != "GROUP DEAD REPLAYING RESOLVED" {
		t.Errorf("with one that is being replayed: %s", got)
	}
	s.tty = true
	for _, width := range []int{60, 80, 140} {
		s.width = width
		for line := range strings.Lines(s.ok("dlq", "groups").out) {
			if n := terminal.TextWidth(strings.TrimSuffix(line, "\n")); n > width {
				t.Errorf("a line of %d columns on a terminal of %d: %q", n, width, line)
			}
		}
	}
}
