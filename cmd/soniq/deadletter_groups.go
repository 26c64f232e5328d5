package main

import (
	"strings"

	"github.com/google/uuid"

	"soniq/deadletter"
)

type groupsCmd struct {
	selection
	Limit int `default:"20" placeholder:"N" help:"Show at most N groups. Default 20."`
	revealFlags
}

func (groupsCmd) Help() string {
	return `A group is what one cause has killed: one job, one error apart from ids and numbers. The ones with the most dead letters come first. Every other verb takes --group GROUP.

    soniq dead-letter groups --since 24h
    soniq dead-letter list --group 4f2a9c0d1e3b5a77
    soniq dead-letter replay --group 4f2a9c0d1e3b5a77 --dry-run`
}

func (c *groupsCmd) Run(a *app) error {
	f, err := c.filter(a.now())
	if err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	// A terminal has no use for more, and a program has the list.
	const most = 10_000
	if c.Limit < 1 || c.Limit > most {
		return usagef("--limit must be from 1 to %d, not %d", most, c.Limit)
	}
	pool, err := a.open()
	if err != nil {
		return err
	}
	queue, err := a.deadLetters(pool)
	if err != nil {
		return err
	}
	// One more than is shown tells whether there are more.
	f.Limit = c.Limit + 1
	groups, err := queue.Groups(a.ctx, f)
	if err != nil {
		return err
	}
	more := len(groups) > c.Limit
	groups = groups[:min(len(groups), c.Limit)]
	samples := make([]uuid.UUID, len(groups))
	for i, g := range groups {
		samples[i] = g.SampleID
	}
	if err := c.revealList(a, pool, f, samples); err != nil {
		return err
	}
	groups = hideAll(a, groups)
	if a.JSON {
		if groups == nil {
			groups = []deadletter.Group{}
		}
		err = a.out.document(groups)
	} else if len(groups) > 0 {
		err = a.printGroups(groups)
	}
	var n int64
	for _, g := range groups {
		n += g.Count
	}
	switch {
	case err != nil:
		return err
	case n == 0 && c.given():
		a.note("no dead letter matches")
	case n == 0:
		a.note("no dead letters")
	case more:
		a.note("the first %s with %s; --limit N for more", plural(int64(len(groups)), "group"), letters(n))
	default:
		a.note("%s in %s", letters(n), plural(int64(len(groups)), "group"))
	}
	return nil
}

// printGroups prints a table that fits the terminal. What is under way, and
// what is mended, has a column where there is any.
func (a *app) printGroups(groups []deadletter.Group) error {
	var replaying, resolved bool
	for _, g := range groups {
		replaying, resolved = replaying || g.Replaying > 0, resolved || g.Resolved > 0
	}
	t := table{columns: []column{
		{title: "GROUP"},
		{title: "DEAD", right: true},
		{title: "REPLAYING", right: true, empty: !replaying},
		{title: "RESOLVED", right: true, empty: !resolved, drop: 1},
		{title: "ALL", right: true, drop: 2},
		{title: "LAST", right: true},
		{title: "FIRST", right: true, drop: 3},
		{title: "24 HOURS", drop: 4, style: func(string) style { return cyan }},
		{title: "REASON", min: 8, drop: 5, style: reasonStyle},
		{title: "JOB", min: 8},
		{title: "ERROR", min: 12, drop: 1},
	}}
	now := a.now()
	for _, g := range groups {
		reasons := make([]string, len(g.Reasons))
		for i, r := range g.Reasons {
			reasons[i] = string(r)
		}
		t.add(
			g.ID, thousands(g.Dead), thousands(g.Replaying), thousands(g.Resolved), thousands(g.Count), age(now, g.LastSeen), age(now, g.FirstSeen), spark(g.Trend, 12),
			strings.Join(reasons, ","), strings.Join(g.Jobs, ","), errorLine(g.SampleError),
		)
	}
	return t.write(a.out, a.tableWidth())
}

// spark draws counts as a row of that many bars, each for as many counts as
// come out even; the highest bar is the highest sum. Nothing is a dot.
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
