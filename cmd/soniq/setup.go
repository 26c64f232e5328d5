package main

import "soniq"

type setupCmd struct {
	Optimize bool `help:"Also drop the indexes and the foreign key of Python Soniq that only slow both programs down."`
}

func (setupCmd) Help() string {
	return `Applies the migrations that the database lacks. Safe to run again, several times at once, and on a database that Python Soniq or an older release made.

It works as the role that owns the tables, mends the rights of functions that an older release made, and refuses where something of another role's is in the way. What lets other roles in and is not its to change comes as a warning. 'soniq migrate' goes step by step.

    soniq setup --database-url postgres://app@db.internal/app`
}

func (c *setupCmd) Run(a *app) error {
	pool, err := a.open()
	if err != nil {
		return err
	}
	result, err := soniq.Setup(a.ctx, pool, a.config())
	var dropped []string
	if c.Optimize && err == nil {
		if dropped, err = soniq.Optimize(a.ctx, pool, a.config()); dropped == nil {
			dropped = []string{}
		}
	}
	return a.setupReport(result, dropped, migrationError(err))
}

// setupReport prints what a setup did, also before an error. dropped is nil where nothing was asked to be
// dropped.
func (a *app) setupReport(result soniq.SetupResult, dropped []string, err error) error {
	if err != nil && (a.JSON || len(result.Applied)+len(dropped) == 0) {
		return err
	}
	if a.JSON {
		return a.out.document(map[string]any{
			"applied":  append([]string{}, result.Applied...),
			"dropped":  append([]string{}, dropped...),
			"mended":   append([]string{}, result.Mended...),
			"newer":    append([]string{}, result.Newer...),
			"findings": append([]soniq.Finding{}, result.Findings...),
		})
	}
	if len(result.Applied) == 0 && err == nil {
		a.out.printf("The tables are up to date.")
	}
	for _, name := range result.Applied {
		a.out.printf("Applied %s", name)
	}
	for _, what := range result.Mended {
		a.out.printf("Mended: %s", what)
	}
	for _, name := range dropped {
		a.out.printf("Dropped %s", name)
	}
	if dropped != nil && len(dropped) == 0 {
		a.out.printf("There was nothing to drop.")
	}
	if len(result.Newer) > 0 {
		a.note("The database is newer than this program: it has migrations of a later release.")
	}
	for _, f := range result.Findings {
		a.note("Warning: %s", f)
	}
	return err
}
