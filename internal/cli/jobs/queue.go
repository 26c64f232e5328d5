package jobs

import (
	"context"
	"slices"
	"time"

	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/unit"
)

// QueueCommand groups what can be done with queues.
type QueueCommand struct {
	List   queueListCmd   `cmd:"" help:"List the queues and their jobs."`
	Pause  queuePauseCmd  `cmd:"" help:"Stop workers from starting jobs of these queues."`
	Resume queueResumeCmd `cmd:"" help:"Resume paused queues."`
}

// Help implements [kong.HelpProvider].
func (QueueCommand) Help() string {
	return `A queue exists as soon as a job is enqueued to it.

    soniq queue list
    soniq queue pause emails
    soniq queue resume emails`
}

type queueListCmd struct{}

func (queueListCmd) Help() string {
	return `Counts the jobs of each queue that has some or is paused.

    soniq queue list --json`
}

func (queueListCmd) Run(a *app.App) error {
	client, err := a.Client()
	if err != nil {
		return err
	}
	queues, err := client.Queues(a.Ctx)
	if err != nil {
		return err
	}
	switch {
	case a.JSON:
		err = a.Out.Document(queues)
	case len(queues) > 0:
		err = PrintQueues(a, queues)
	}
	if len(queues) == 0 {
		a.Note("no queue has jobs, and none is paused")
	}
	return err
}

// queueNames are the queues that a command changes.
type queueNames struct {
	Names []string `arg:"" name:"queue" help:"Names of queues."`
}

// run changes the queues one by one. A queue that needs no change is no failure.
func (q *queueNames) run(a *app.App, key string, change func(*engine.Client, context.Context, string) (bool, error), tell func(name string, changed bool)) error {
	if slices.Contains(q.Names, "") {
		return app.Usagef("a queue's name is empty")
	}
	client, err := a.Client()
	if err != nil {
		return err
	}
	done, unchanged := []string{}, []string{}
	one := func(name string) error {
		changed, err := change(client, a.Ctx, name)
		if err != nil {
			return err
		}
		if changed {
			done = append(done, name)
		} else {
			unchanged = append(unchanged, name)
		}
		if !a.JSON {
			tell(name, changed)
		}
		// A name that was mistyped pauses nothing.
		service, err := client.Availability(a.Ctx, name, "")
		if err == nil && !service.Queue {
			a.Note("no live worker serves queue %s%s", terminal.OneLine(name), meantQueue(a, client, name))
		}
		return err
	}
	var broken error
	for _, name := range q.Names {
		if broken = one(name); broken != nil {
			break
		}
	}
	if a.JSON {
		if err := a.Out.Document(map[string]any{key: done, "unchanged": unchanged}); err != nil {
			return err
		}
	}
	return app.Partly(int64(len(done)), broken)
}

type queuePauseCmd struct {
	queueNames
}

func (queuePauseCmd) Help() string {
	return `Go workers start no job of a paused queue until it is resumed. Running jobs go on, and jobs can be enqueued. Python's workers ignore it.

    soniq queue pause emails reports`
}

func (c *queuePauseCmd) Run(a *app.App) error {
	return c.run(a, "paused", (*engine.Client).PauseQueue, func(name string, changed bool) {
		if changed {
			a.Out.Printf("Paused %s", terminal.OneLine(name))
		} else {
			a.Out.Printf("%s is paused already", terminal.OneLine(name))
		}
	})
}

type queueResumeCmd struct {
	queueNames
}

func (queueResumeCmd) Help() string {
	return `Wakes the workers, which start the waiting jobs.

    soniq queue resume emails`
}

func (c *queueResumeCmd) Run(a *app.App) error {
	return c.run(a, "resumed", (*engine.Client).ResumeQueue, func(name string, changed bool) {
		if changed {
			a.Out.Printf("Resumed %s", terminal.OneLine(name))
		} else {
			a.Out.Printf("%s is not paused", terminal.OneLine(name))
		}
	})
}

// PrintQueues prints a table of queues.
func PrintQueues(a *app.App, queues []engine.QueueStatus) error {
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
			name, state = "("+unit.Thousands(q.Others)+" more)", "-"
		}
		t.Add(name, state, unit.Thousands(q.Due), waiting, unit.Thousands(q.Scheduled), unit.Thousands(q.Processing), unit.Thousands(q.Done), unit.Thousands(q.Cancelled))
	}
	return t.Write(a.Out, a.TableWidth())
}
