package main

import "soniq"

type setupCmd struct {
	Optimize bool `help:"Also drop the indexes and the foreign key of Python Soniq that only slow both programs down."`
}

func (setupCmd) Help() string {
	return `Safe to run again, several times at once, and on a database that Python Soniq made.

It works as the role that owns the tables, makes them in the first schema of the search_path that has them, mends the rights of functions that an older release made, and refuses where something of another role's is in the way. What lets other roles in and is not its to change comes as a warning.

    soniq setup --database-url postgres://app@db.internal/app`
}

func (c *setupCmd) Run(a *app) error {
	pool, err := a.open()
	if err != nil {
		return err
	}
	result, err := soniq.Setup(a.ctx, pool, soniq.Config{})
	if err != nil {
		return err
	}
	dropped := []string{}
	if c.Optimize {
		names, err := soniq.Optimize(a.ctx, pool, soniq.Config{})
		if err != nil {
			return err
		}
		dropped = append(dropped, names...)
	}
	if a.JSON {
		return a.out.document(map[string]any{
			"applied":  append([]string{}, result.Applied...),
			"dropped":  dropped,
			"mended":   append([]string{}, result.Mended...),
			"findings": append([]soniq.Finding{}, result.Findings...),
		})
	}
	if len(result.Applied) == 0 {
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
	if c.Optimize && len(dropped) == 0 {
		a.out.printf("There was nothing to drop.")
	}
	for _, f := range result.Findings {
		a.note("Warning: %s", f)
	}
	return nil
}
