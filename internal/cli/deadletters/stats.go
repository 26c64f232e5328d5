package deadletters

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/unit"
)

type statsCmd struct {
	Hours *int `placeholder:"N" help:"Only what died within the last N hours, from 1 on. Default all."`
}

func (statsCmd) Help() string {
	return `Examples:

    soniq dead-letter stats
    soniq dead-letter stats --hours 24 --json`
}

func (c *statsCmd) Run(a *app.App) error {
	const most = 24 * 36500
	window := time.Duration(0) // all
	if c.Hours != nil {
		if *c.Hours < 1 || *c.Hours > most {
			return app.Usagef("--hours must be from 1 to %d, not %d; leave it out for all", most, *c.Hours)
		}
		window = time.Duration(*c.Hours) * time.Hour
	}
	_, queue, err := a.OpenDeadLetters()
	if err != nil {
		return err
	}
	s, err := queue.Stats(a.Ctx, window)
	if err != nil {
		return err
	}
	if a.JSON {
		return a.Out.Document(s)
	}
	if s.Total == 0 {
		a.Note("no dead letters")
		return nil
	}
	oldest := ""
	if s.OldestAge > 0 {
		oldest = "the oldest still dead is " + terminal.Age(time.Time{}.Add(s.OldestAge), time.Time{}) + " old"
	}
	a.Out.Printf("%s: %s dead, %s being replayed, %s resolved", terminal.Letters(s.Total), unit.Thousands(s.ByState[deadletter.StateDead]),
		unit.Thousands(s.ByState[deadletter.StateReplaying]), unit.Thousands(s.ByState[deadletter.StateResolved]))
	if oldest != "" {
		a.Out.Printf("%s", oldest)
	}
	if s.ReplaysFinished > 0 {
		a.Out.Printf("%s ended, %.0f %% of them well", unit.Plural(s.ReplaysFinished, "replay"), 100*s.ReplaySuccessRate)
	}
	for _, part := range []struct {
		title  string
		counts map[string]int64
		byName bool
		style  func(string) terminal.Style
	}{
		{"REASON", byText(s.ByReason), false, reasonStyle},
		{"JOB", s.ByJob, false, nil},
		{"QUEUE", s.ByQueue, false, nil},
		{"STATE", byText(s.ByState), false, stateStyle},
		{"DAY (UTC)", s.ByDate, true, nil},
	} {
		a.Out.Printf("")
		if err := printCounts(a, part.title, part.counts, part.byName, part.style); err != nil {
			return err
		}
	}
	return nil
}

// byText returns the counts under plain strings.
func byText[K ~string](counts map[K]int64) map[string]int64 {
	texts := make(map[string]int64, len(counts))
	for key, n := range counts {
		texts[string(key)] = n
	}
	return texts
}

// mostCounts is how many lines of a part are shown: a person asks --json for
// the ten-thousandth job.
const mostCounts = 20

// printCounts prints the highest counts first, or by name, each with a bar.
func printCounts(a *app.App, title string, counts map[string]int64, byName bool, paint func(string) terminal.Style) error {
	names := slices.SortedFunc(maps.Keys(counts), func(x, y string) int {
		if byName {
			return cmp.Compare(x, y)
		}
		return cmp.Or(cmp.Compare(counts[y], counts[x]), cmp.Compare(x, y))
	})
	most, rest := int64(1), 0
	for _, n := range counts {
		most = max(most, n)
	}
	if cut := len(names) - mostCounts; cut > 0 {
		rest = cut
		if byName {
			names = names[cut:] // the latest days
		} else {
			names = names[:mostCounts]
		}
	}
	t := terminal.Table{Columns: []terminal.Column{
		{Title: title, Min: 20, Style: paint},
		{Title: "COUNT", Right: true},
		{Min: 4, Drop: 1, Style: func(string) terminal.Style { return terminal.Cyan }},
	}}
	for _, name := range names {
		t.Add(name, unit.Thousands(counts[name]), bar(counts[name], most))
	}
	err := t.Write(a.Out, a.TableWidth())
	if rest > 0 {
		a.Out.Printf("... and %s more; --json has all", unit.Thousands(int64(rest)))
	}
	return err
}

// barWidth is the length of the longest bar, in columns of a terminal.
const barWidth = 24

// bar draws n in eighths of a column, where most fills barWidth. What isn't
// nothing is seen.
func bar(n, most int64) string {
	eighths := int(float64(n) / float64(most) * barWidth * 8)
	if n > 0 {
		eighths = max(eighths, 1)
	}
	s := strings.Repeat("█", eighths/8)
	if part := eighths % 8; part > 0 {
		s += string([]rune("▏▎▍▌▋▊▉")[part-1])
	}
	return s
}
