package deadletters

import (
	"math"
	"strings"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/unit"
)

type groupsCmd struct {
	selection
	Limit int `default:"20" placeholder:"N" help:"Show at most N groups; 0 for all. Default 20."`
	app.RevealFlags
}

func (groupsCmd) Help() string {
	return `A group is the dead letters of one cause: the same job and the same error, ids and numbers aside. The largest groups come first. Every command with filters takes --group GROUP.

    soniq dead-letter groups --since 24h
    soniq dead-letter list --group 4f2a9c0d1e3b5a77
    soniq dead-letter replay --group 4f2a9c0d1e3b5a77 --dry-run`
}

func (c *groupsCmd) Run(a *app.App) error {
	f, err := c.filter(a.Now())
	if err != nil {
		return err
	}
	if err := c.Check(); err != nil {
		return err
	}
	if c.Limit, err = app.ListLimit(c.Limit); err != nil {
		return err
	}
	pool, queue, err := a.OpenDeadLetters()
	if err != nil {
		return err
	}
	if err := c.window(&f, a.Now()); err != nil {
		return err
	}
	// One more than is shown says whether there are more.
	f.Limit = min(c.Limit, math.MaxInt32-1) + 1
	groups, err := queue.Groups(a.Ctx, f)
	if err != nil {
		return err
	}
	more := len(groups) > c.Limit
	groups = groups[:min(len(groups), c.Limit)]
	samples := make([]uuid.UUID, len(groups))
	for i, g := range groups {
		samples[i] = g.SampleID
	}
	if err := c.ShowList(a, pool, f, samples); err != nil {
		return err
	}
	groups = app.AllRedacted(a, groups)
	if a.JSON {
		if groups == nil {
			groups = []deadletter.Group{}
		}
		err = a.Out.Document(groups)
	} else if len(groups) > 0 {
		err = printGroups(a, groups)
	}
	if err != nil {
		return err
	}
	c.noteTotal(a, groups, more)
	return nil
}

// noteTotal says how many groups were printed.
func (c *groupsCmd) noteTotal(a *app.App, groups []deadletter.Group, more bool) {
	var n int64
	for _, g := range groups {
		n += g.Count
	}
	switch {
	case n == 0 && c.given():
		a.Note("no dead letter matches")
	case n == 0:
		a.Note("no dead letters")
	case more:
		a.Note("the first %s with %s; --limit N for more", unit.Plural(int64(len(groups)), "group"), terminal.Letters(n))
	default:
		a.Note("%s in %s", terminal.Letters(n), unit.Plural(int64(len(groups)), "group"))
	}
}

// printGroups prints a table that fits the terminal. REPLAYING and RESOLVED are
// columns only where a group has some.
func printGroups(a *app.App, groups []deadletter.Group) error {
	var superseded, replaying, resolved bool
	for _, g := range groups {
		superseded = superseded || g.Superseded > 0
		replaying, resolved = replaying || g.Replaying > 0, resolved || g.Resolved > 0
	}
	t := terminal.Table{Columns: []terminal.Column{
		{Title: "GROUP"},
		{Title: "DEAD", Right: true},
		{Title: "SUPERSEDED", Right: true, Empty: !superseded, Drop: 1},
		{Title: "REPLAYING", Right: true, Empty: !replaying},
		{Title: "RESOLVED", Right: true, Empty: !resolved, Drop: 1},
		{Title: "ALL", Right: true, Drop: 2},
		{Title: "LAST", Right: true},
		{Title: "FIRST", Right: true, Drop: 3},
		{Title: "24 HOURS", Drop: 4, Style: func(string) terminal.Style { return terminal.Cyan }},
		{Title: "REASON", Min: 8, Drop: 5, Style: reasonStyle},
		{Title: "JOB", Min: 8},
		{Title: "ERROR", Min: 12, Drop: 1},
	}}
	now := a.Now()
	for _, g := range groups {
		reasons := make([]string, len(g.Reasons))
		for i, r := range g.Reasons {
			reasons[i] = string(r)
		}
		t.Add(
			g.ID, unit.Thousands(g.Dead), unit.Thousands(g.Superseded), unit.Thousands(g.Replaying), unit.Thousands(g.Resolved), unit.Thousands(g.Count), terminal.Age(now, g.LastSeen), terminal.Age(now, g.FirstSeen), spark(g.Trend, 12),
			strings.Join(reasons, ","), strings.Join(g.Jobs, ","), terminal.ErrorLine(g.SampleError),
		)
	}
	return t.Write(a.Out, a.TableWidth())
}

// spark draws counts as a row of bars. Each bar is the sum of some counts in a
// row, and the highest bar is the largest sum. A sum of 0 is a dot.
func spark(counts []int64, bars int) string {
	sums := make([]int64, bars)
	for i, n := range counts {
		sums[i*bars/len(counts)] += n
	}
	levels := []rune("▁▂▃▄▅▆▇█")
	most := int64(1)
	for _, n := range sums {
		most = max(most, n)
	}
	var b strings.Builder
	for _, n := range sums {
		if n <= 0 {
			b.WriteRune('·')
			continue
		}
		b.WriteRune(levels[(n*int64(len(levels))-1)/most])
	}
	return b.String()
}
