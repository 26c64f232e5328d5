package main

import (
	"time"

	"soniq/deadletter"
	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
)

type statusCmd struct{}

func (statusCmd) Help() string {
	return `Example:

    soniq status --json`
}

func (statusCmd) Run(a *app.App) error {
	pool, err := a.Open()
	if err != nil {
		return err
	}
	client, err := engine.NewClient(pool, engine.ClientConfig{})
	if err != nil {
		return err
	}
	s, err := client.Status(a.Ctx)
	if err != nil {
		return err
	}
	if a.JSON {
		return a.Out.Document(s)
	}
	if err := printQueues(a, s.Queues); err != nil {
		return err
	}
	a.Out.Printf("")
	if err := printWorkers(a, s.Workers); err != nil {
		return err
	}
	a.Out.Printf("")
	dead := s.DeadLetters[deadletter.StateDead]
	a.Out.Printf("Dead letters: %s dead, %s being replayed, %s resolved", terminal.Thousands(dead),
		terminal.Thousands(s.DeadLetters[deadletter.StateReplaying]), terminal.Thousands(s.DeadLetters[deadletter.StateResolved]))
	if dead > 0 {
		a.Note("see 'soniq dead-letter list'")
	}
	return nil
}

func printQueues(a *app.App, queues []engine.QueueStatus) error {
	if len(queues) == 0 {
		a.Out.Printf("No jobs.")
		return nil
	}
	t := terminal.Table{Columns: []terminal.Column{
		{Title: "QUEUE", Min: 10},
		{Title: "STATE"},
		{Title: "DUE", Right: true},
		{Title: "WAITING", Right: true, Drop: 1},
		{Title: "SCHEDULED", Right: true},
		{Title: "RUNNING", Right: true},
		{Title: "DONE", Right: true},
		{Title: "CANCELLED", Right: true, Drop: 2},
	}}
	now := a.Now()
	for _, q := range queues {
		state, waiting := "open", "-"
		if q.PausedAt != nil {
			state = "paused " + terminal.Age(now, *q.PausedAt)
		}
		if q.Due > 0 {
			waiting = terminal.Age(now, now.Add(-time.Duration(q.OldestDue*float64(time.Second))))
		}
		name := q.Queue
		if q.Others > 0 {
			name, state = "("+terminal.Thousands(q.Others)+" more)", "-"
		}
		t.Add(name, state, terminal.Thousands(q.Due), waiting, terminal.Thousands(q.Scheduled), terminal.Thousands(q.Processing), terminal.Thousands(q.Done), terminal.Thousands(q.Cancelled))
	}
	return t.Write(a.Out, a.TableWidth())
}
