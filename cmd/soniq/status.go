package main

import (
	"time"

	"soniq/deadletter"
	"soniq/engine"
)

type statusCmd struct{}

func (statusCmd) Help() string {
	return `Example:

    soniq status --json`
}

func (statusCmd) Run(a *app) error {
	pool, err := a.open()
	if err != nil {
		return err
	}
	client, err := engine.NewClient(pool, engine.ClientConfig{})
	if err != nil {
		return err
	}
	s, err := client.Status(a.ctx)
	if err != nil {
		return err
	}
	if a.JSON {
		return a.out.document(s)
	}
	if err := a.printQueues(s.Queues); err != nil {
		return err
	}
	a.out.printf("")
	if err := a.printWorkers(s.Workers); err != nil {
		return err
	}
	a.out.printf("")
	dead := s.DeadLetters[deadletter.StateDead]
	a.out.printf("Dead letters: %s dead, %s being replayed, %s resolved", thousands(dead),
		thousands(s.DeadLetters[deadletter.StateReplaying]), thousands(s.DeadLetters[deadletter.StateResolved]))
	if dead > 0 {
		a.note("see 'soniq dead-letter list'")
	}
	return nil
}

func (a *app) printQueues(queues []engine.QueueStatus) error {
	if len(queues) == 0 {
		a.out.printf("No jobs.")
		return nil
	}
	t := table{columns: []column{
		{title: "QUEUE", min: 10},
		{title: "STATE"},
		{title: "DUE", right: true},
		{title: "WAITING", right: true, drop: 1},
		{title: "SCHEDULED", right: true},
		{title: "RUNNING", right: true},
		{title: "DONE", right: true},
		{title: "CANCELLED", right: true, drop: 2},
	}}
	now := a.now()
	for _, q := range queues {
		state, waiting := "open", "-"
		if q.PausedAt != nil {
			state = "paused " + age(now, *q.PausedAt)
		}
		if q.Due > 0 {
			waiting = age(now, now.Add(-time.Duration(q.OldestDue*float64(time.Second))))
		}
		name := q.Queue
		if q.Others > 0 {
			name, state = "("+thousands(q.Others)+" more)", "-"
		}
		t.add(name, state, thousands(q.Due), waiting, thousands(q.Scheduled), thousands(q.Processing), thousands(q.Done), thousands(q.Cancelled))
	}
	return t.write(a.out, a.tableWidth())
}
