package deadletters_test

import (
	"strings"
	"testing"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
)

// Whatever is done to one dead letter or to many is in the history, also of those that are
// deleted since.
func TestHistory_hasWhatWasDoneToSingleIDs(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.OK("setup")
	id, gone := clitest.Seed(t, pool, clitest.Letter{}).String(), clitest.Seed(t, pool, clitest.Letter{Job: "other"}).String()
	buried := strings.TrimSpace(s.OK("enqueue", "n").Out)
	s.OK("dead-letter", "tag", id, "owner=me", "ticket=OPS-7", "--as", "ada")
	s.OK("dead-letter", "tag", id, "owner=", "--as", "ada")
	s.OK("dead-letter", "replay", id, "--as", "bob")
	s.OK("dead-letter", "delete", gone, "--as", "ada", "--comment", "it is ours no more")
	s.OK("job", "bury", buried, "--as", "cyd")
	s.OK("dead-letter", "show", buried, "--reveal", "--as", "cyd")
	s.OK("dead-letter", "replay", "--job", "n", "--yes", "--as", "bob")
	s.OK("dead-letter", "delete", "--all", "--yes", "--as", "eve")

	type entry struct {
		Action, Actor, Comment string
		ID                     string
		Letter                 string `json:"dead_letter_id"`
	}
	all := clitest.Decode[[]entry](t, s.OK("dead-letter", "history", "--json").Out)
	want := []string{"delete eve", "replay bob", "reveal cyd", "bury cyd", "delete ada", "replay bob", "tag ada", "tag ada"}
	for i, e := range all {
		if i >= len(want) || e.Action+" "+e.Actor != want[i] || (e.ID == "") == (e.Letter == "") {
			t.Errorf("entry %d: %+v", i, e)
		}
	}
	if len(all) != len(want) {
		t.Errorf("%d entries, want %d", len(all), len(want))
	}
	table := s.OK("dead-letter", "history").Out
	clitest.WantIn(t, "table", table, gone, buried, id, "owner=me ticket=OPS-7", "owner=", "as job ", "it is ours no more")
	clitest.WantIn(t, "the deleted one", s.OK("dead-letter", "history", gone).Out, "delete, by ada: it is ours no more")
	clitest.WantIn(t, "tags", s.OK("dead-letter", "history", id).Out, "tag owner=me ticket=OPS-7, by ada", "tag owner=, by ada", "replay as job")

	for _, test := range []struct {
		args []string
		want int
	}{
		{[]string{"--actor", "ada"}, 3},
		{[]string{"--actor", "bob"}, 2},
		{[]string{"--actor", "ad"}, 0},
		{[]string{"--limit", "3"}, 3},
		{[]string{"--since", "1h"}, len(want)},
		{[]string{"--until", "1h"}, 0},
		{[]string{"--since", "1h", "--until", "0s", "--actor", "eve"}, 1},
		{[]string{id, "--actor", "ada"}, 2},
		{[]string{id, "--until", "1h"}, 0},
		{[]string{buried}, 3},
		{[]string{"--limit", "0"}, 8},
	} {
		line := append([]string{"dead-letter", "history", "--json"}, test.args...)
		if got := clitest.Decode[[]entry](t, s.OK(line...).Out); len(got) != test.want {
			t.Errorf("%q: %d entries, want %d", test.args, len(got), test.want)
		}
	}
	clitest.WantIn(t, "limit", s.OK("dead-letter", "history", "--limit", "2").Err, "the latest 2; --limit for more")
	clitest.WantIn(t, "none", s.OK("dead-letter", "history", "--actor", "nobody").Err, "nothing matches")
	for _, args := range [][]string{{"--actor", ""}, {"--since", "soon"}, {"--limit=-1"}, {"abc"}} {
		clitest.WantCode(t, s.Run(append([]string{"dead-letter", "history"}, args...)...), app.ExitUsage)
	}
}
