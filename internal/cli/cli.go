// Package cli is the command line of soniq: the grammar, which kong parses, and
// what runs a command line. Each noun has a package of its own beside it; what
// they share is in app and terminal.
//
// Data goes to standard output, notes and logs to standard error. The exit codes
// are in package app.
package cli

import (
	"github.com/alecthomas/kong"

	"soniq/internal/cli/app"
	"soniq/internal/cli/dashboard"
	"soniq/internal/cli/database"
	"soniq/internal/cli/deadletters"
	"soniq/internal/cli/dev"
	"soniq/internal/cli/hooks"
	"soniq/internal/cli/jobs"
	"soniq/internal/cli/metrics"
	"soniq/internal/cli/workers"
)

// grammar is the whole command line.
type grammar struct {
	app.Globals

	Demo    dev.DemoCommand         `cmd:"" group:"start" help:"Run a few jobs that succeed, fail, become dead letters and are replayed."`
	Setup   database.SetupCommand   `cmd:"" group:"start" help:"Create or complete the tables in the database."`
	Migrate database.MigrateCommand `cmd:"" group:"start" help:"List, apply, undo, check and print the migrations of the tables."`
	Adopt   database.AdoptCommand   `cmd:"" group:"start" help:"Say that a database that was restored or moved is the one, so that its hooks go on."`
	Grants  database.GrantsCommand  `cmd:"" group:"start" help:"Print or run what gives roles their rights to the tables."`
	Doctor  database.DoctorCommand  `cmd:"" group:"start" help:"Examine the database for what makes Soniq slow, deaf or wrong, and say what to do."`
	Status  workers.StatusCommand   `cmd:"" group:"start" help:"Show queues, workers and dead letters."`
	Metrics metrics.Command         `cmd:"" group:"start" help:"Serve Prometheus metrics of queues, workers, dead letters and hooks."`

	Worker  workers.Command       `cmd:"" group:"jobs" help:"Run a worker whose handlers are commands and HTTP endpoints."`
	Health  workers.HealthCommand `cmd:"" group:"jobs" help:"Ask a worker whether it is ready or live, for the probes of containers."`
	Enqueue jobs.EnqueueCommand   `cmd:"" group:"jobs" help:"Add a job, or many."`
	Job     jobs.JobCommand       `cmd:"" group:"jobs" help:"Show, list, cancel, retry and delete jobs."`
	Queue   jobs.QueueCommand     `cmd:"" group:"jobs" help:"List, pause and resume queues."`

	DeadLetter deadletters.Command `cmd:"" group:"dead" name:"dead-letter" aliases:"dlq" help:"Inspect, replay, clean and export dead letters: jobs that cannot succeed."`

	Dashboard dashboard.Command `cmd:"" group:"dead" help:"Serve a web page: see dead letters, understand them, bring them back."`

	Hooks hooks.Command `cmd:"" group:"hooks" help:"Send dead letters to a webhook, to Slack, to the log or to a command."`

	Bench      dev.BenchCommand `cmd:"" group:"more" help:"Measure Soniq beside plain SQL, in databases of its own."`
	Dev        dev.Command      `cmd:"" group:"more" help:"Show, keep, stop or reset the private database of --dev; run psql on it."`
	Completion completionCmd    `cmd:"" group:"more" help:"Print a script that completes commands and flags in your shell."`
	Complete   completeCmd      `cmd:"" name:"__complete" hidden:"" passthrough:""`

	Version     versionCmd       `cmd:"" group:"start" help:"Print the version."`
	VersionFlag kong.VersionFlag `name:"version" hidden:""`
}

const description = "Soniq runs jobs from PostgreSQL and keeps those that fail for good in a dead-letter queue."

var groups = []kong.Group{
	{Key: "start", Title: "Getting started:"},
	{Key: "jobs", Title: "Jobs:"},
	{Key: "dead", Title: "Dead letters:"},
	{Key: "hooks", Title: "Hooks:"},
	{Key: "more", Title: "More:"},
	{Key: "global", Title: "Everywhere:"},
}
