// Package database has the commands that make and change the tables: setup and
// migrate.
package database

import (
	"soniq"
	"soniq/internal/cli/app"
)

// SetupCommand applies all migrations that are pending.
type SetupCommand struct {
	Optimize bool `help:"Also drop the indexes and the foreign key of Python Soniq that only slow both programs down."`
}

// Help implements [kong.HelpProvider].
func (SetupCommand) Help() string {
	return `Applies the migrations that the database lacks. Safe to run again, several times at once, and on a database that Python Soniq or an older release made.

It works as the role that owns the tables, mends the rights of functions that an older release made, and refuses where something of another role's is in the way. What lets other roles in and is not its to change comes as a warning. 'soniq migrate' goes step by step.

    soniq setup --database-url postgres://app@db.internal/app`
}

// Run runs the command.
func (c *SetupCommand) Run(a *app.App) error {
	pool, err := a.Open()
	if err != nil {
		return err
	}
	created, err := missingSchema(a, pool)
	if err != nil {
		return err
	}
	result, err := soniq.Setup(a.Ctx, pool, config(a))
	var dropped []string
	if c.Optimize && err == nil {
		if dropped, err = soniq.Optimize(a.Ctx, pool, config(a)); dropped == nil {
			dropped = []string{}
		}
	}
	return setupReport(a, setupDone{result, created, dropped}, migrationError(err))
}

// setupDone is what a setup did.
type setupDone struct {
	soniq.SetupResult
	// created is the schema that was made; empty where it was there.
	created string
	// dropped is nil where nothing was asked to be dropped.
	dropped []string
}

// setupReport prints what a setup did, also before an error.
func setupReport(a *app.App, result setupDone, err error) error {
	dropped := result.dropped
	if err != nil && (a.JSON || len(result.Applied)+len(dropped) == 0) {
		return err
	}
	if a.JSON {
		return a.Out.Document(map[string]any{
			"created_schema": result.created,
			"applied":        append([]string{}, result.Applied...),
			"dropped":        append([]string{}, dropped...),
			"mended":         append([]string{}, result.Mended...),
			"newer":          append([]string{}, result.Newer...),
			"findings":       append([]soniq.Finding{}, result.Findings...),
		})
	}
	if result.created != "" {
		a.Out.Printf("Made the schema %s", result.created)
	}
	if len(result.Applied) == 0 && err == nil {
		a.Out.Printf("The tables are up to date.")
	}
	for _, name := range result.Applied {
		a.Out.Printf("Applied %s", name)
	}
	for _, what := range result.Mended {
		a.Out.Printf("Mended: %s", what)
	}
	for _, name := range dropped {
		a.Out.Printf("Dropped %s", name)
	}
	if dropped != nil && len(dropped) == 0 {
		a.Out.Printf("There was nothing to drop.")
	}
	if len(result.Newer) > 0 {
		a.Note("The database is newer than this program: it has migrations of a later release.")
	}
	for _, f := range result.Findings {
		a.Note("Warning: %s", f)
	}
	return err
}
