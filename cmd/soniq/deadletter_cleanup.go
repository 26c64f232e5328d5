package main

import "time"

type cleanupCmd struct {
	authorship
	Days   int  `default:"30" placeholder:"N" help:"Older than N days; at least 1. Default 30."`
	DryRun bool `help:"Say how many would be removed, and change nothing."`
}

func (cleanupCmd) Help() string {
	return `Never asks, so it can run from cron.

    soniq dead-letter cleanup --days 30
    soniq dead-letter cleanup --days 7 --dry-run`
}

func (c *cleanupCmd) Run(a *app) error {
	// A century: what is longer overflows a Duration sooner or later.
	const most = 36500
	if c.Days < 1 || c.Days > most {
		return usagef("--days must be from 1 to %d, not %d", most, c.Days)
	}
	pool, err := a.open()
	if err != nil {
		return err
	}
	queue := c.queue(a, pool)
	olderThan := time.Duration(c.Days) * 24 * time.Hour
	remove, did := queue.Cleanup, "Removed"
	if c.DryRun {
		remove, did = queue.CleanupCount, "Would remove"
	}
	n, err := remove(a.ctx, olderThan)
	if err != nil && n == 0 {
		return err
	}
	result := map[string]any{"removed": n}
	if c.DryRun {
		result = map[string]any{"dry_run": true, "count": n}
	}
	if !a.JSON {
		a.out.printf("%s %s older than %s.", did, letters(n), plural(int64(c.Days), "day"))
	} else if err := a.out.document(result); err != nil {
		return err
	}
	return partly(n, err)
}
