package workers

import (
	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/jobs"
	"soniq/internal/pg"
	"soniq/internal/unit"
)

// StatusCommand shows queues, workers and dead letters.
type StatusCommand struct{}

// Help implements [kong.HelpProvider].
func (StatusCommand) Help() string {
	return `Example:

    soniq status --json`
}

// Run runs the command.
func (StatusCommand) Run(a *app.App) error {
	pool, client, err := a.OpenClient()
	if err == nil {
		err = a.CheckRowSecurity(pool, pg.ReadsRows, "soniq_jobs", "soniq_dead_letter_jobs", "soniq_workers")
	}
	if err != nil {
		return err
	}
	s, err := client.Status(a.Ctx)
	if err != nil {
		return err
	}
	a.NoteHeld()
	if a.JSON {
		return a.Out.Document(s)
	}
	if err := jobs.PrintQueues(a, s.Queues); err != nil {
		return err
	}
	a.Out.Printf("")
	if err := printWorkers(a, s.Workers); err != nil {
		return err
	}
	a.Out.Printf("")
	dead := s.DeadLetters[deadletter.StateDead]
	a.Out.Printf("Dead letters: %s dead, %s being replayed, %s resolved", unit.Thousands(dead),
		unit.Thousands(s.DeadLetters[deadletter.StateReplaying]), unit.Thousands(s.DeadLetters[deadletter.StateResolved]))
	if dead > 0 {
		a.Note("see 'soniq dead-letter list'")
	}
	return nil
}
