package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"soniq/deadletter"
)

type statsCmd struct {
	Hours int `placeholder:"N" help:"Only what died within the last N hours. Default all."`
}

func (statsCmd) Help() string {
	return `Examples:

    soniq dead-letter stats
    soniq dead-letter stats --hours 24 --json`
}

func (c *statsCmd) Run(a *app) error {
	const most = 24 * 36500
	if c.Hours < 0 || c.Hours > most {
		return usagef("--hours must be from 1 to %d, not %d", most, c.Hours)
	}
	pool, err := a.open()
	if err != nil {
		return err
	}
	s, err := deadletter.NewQueue(pool).Stats(a.ctx, time.Duration(c.Hours)*time.Hour)
	if err != nil {
		return err
	}
	if a.JSON {
		return a.out.document(s)
	}
	if s.Total == 0 {
		a.note("no dead letters")
		return nil
	}
	oldest := ""
	if s.OldestAge > 0 {
		oldest = "; the oldest still dead is " + age(time.Time{}.Add(s.OldestAge), time.Time{}) + " old"
	}
	a.out.printf("%s%s", letters(s.Total), oldest)
	if s.ReplaysFinished > 0 {
		a.out.printf("%s ended, %.0f %% of them well", plural(s.ReplaysFinished, "replay"), 100*s.ReplaySuccessRate)
	}
	byReason := map[string]int64{}
	for reason, n := range s.ByReason {
		byReason[string(reason)] = n
	}
	for _, part := range []struct {
		title  string
		counts map[string]int64
		byName bool
	}{
		{"REASON", byReason, false},
		{"JOB", s.ByJob, false},
		{"QUEUE", s.ByQueue, false},
		{"STATE", s.ByState, false},
		{"DAY (UTC)", s.ByDate, true},
	} {
		a.out.printf("")
		if err := a.printCounts(part.title, part.counts, part.byName); err != nil {
			return err
		}
	}
	return nil
}

// printCounts prints the highest counts first, or by name.
func (a *app) printCounts(title string, counts map[string]int64, byName bool) error {
	names := slices.SortedFunc(maps.Keys(counts), func(x, y string) int {
		if byName {
			return cmp.Compare(x, y)
		}
		return cmp.Or(cmp.Compare(counts[y], counts[x]), cmp.Compare(x, y))
	})
	t := table{columns: []column{{title: title, min: 20}, {title: "COUNT", right: true}}}
	for _, name := range names {
		t.add(name, fmt.Sprint(counts[name]))
	}
	return t.write(a.out, a.tableWidth())
}
