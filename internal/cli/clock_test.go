package cli_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// The database's clock has dated the rows. So ages, and the ends of --since and --until,
// are by it, whatever the clock of the machine says that a command runs on.
func TestClock_ofThisMachineIsWrong_agesAreByTheDatabases(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{40 * 24 * time.Hour, -40 * 24 * time.Hour} {
		t.Run(ahead.String(), func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			s := clitest.NewShell(t, pool.Config().ConnString())
			s.ClockAhead = ahead
			clitest.Seed(t, pool, clitest.Letter{Job: "young"})
			clitest.Seed(t, pool, clitest.Letter{Job: "old", Age: 35 * 24 * time.Hour})
			s.OK("enqueue", "later", "--delay", "2d12h")
			file := filepath.Join(t.TempDir(), "f.json")
			for _, c := range []struct {
				line           string
				shows, missing []string
			}{
				{"dead-letter list", []string{"35d"}, []string{"40d", "75d"}},
				{"dead-letter list --since 10m", []string{"young"}, []string{"old"}},
				{"dead-letter list --until 30d", []string{"old"}, []string{"young"}},
				{"dead-letter groups --until 30d", []string{"old"}, []string{"young"}},
				{"dead-letter check --since 10m --max 9", []string{"dead=1;"}, nil},
				{"dead-letter export --since 10m", []string{"young"}, []string{`"old"`}},
				{"dead-letter replay --until 30d --dry-run", []string{"old"}, []string{"young"}},
				{"dead-letter delete --until 30d --dry-run", []string{"old"}, []string{"young"}},
				{"dead-letter cleanup --days 1 --since 36d --dry-run", []string{"Would remove 1 dead letter"}, nil},
				{"dead-letter export --until 30d --output " + file, []string{"Exported 1 dead letter"}, nil},
				{"dead-letter delete --until 30d --yes --comment gone", []string{"Deleted 1 dead letter"}, nil},
				{"dead-letter history --since 10m", []string{"gone", "0s"}, nil},
				{"job list", []string{"due in 2d"}, []string{"40d", "42d"}},
			} {
				r := s.OK(strings.Fields(c.line)...)
				text := r.Out + r.Err
				for _, want := range c.shows {
					if !strings.Contains(text, want) {
						t.Errorf("%s doesn't say %q:\n%s", c.line, want, text)
					}
				}
				for _, not := range c.missing {
					if strings.Contains(r.Out, not) {
						t.Errorf("%s says %q:\n%s", c.line, not, text)
					}
				}
				direction := "ahead of"
				if ahead < 0 {
					direction = "behind"
				}
				if want := fmt.Sprintf("clock is 40d %s the database's", direction); !strings.Contains(r.Err, want) && !strings.Contains(r.Err, "clock is 39d") {
					t.Errorf("%s doesn't tell of the clock: %s", c.line, r.Err)
				}
			}
			if n := testkit.Count(t, pool, `select count(*) from soniq_dead_letter_jobs`); n != 1 {
				t.Errorf("%d dead letters are left", n)
			}
		})
	}
}

// A clock that is right, or wrong by less than anybody sees, is not spoken of.
func TestClock_ofThisMachineIsRight_isNotSpokenOf(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, testdb.NewURL(t))
	for _, ahead := range []time.Duration{0, 5 * time.Second, -5 * time.Second} {
		s.ClockAhead = ahead
		if r := s.OK("dead-letter", "list"); strings.Contains(r.Err, "clock") {
			t.Errorf("%s ahead: %s", ahead, r.Err)
		}
	}
}
