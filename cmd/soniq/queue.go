package main

import (
	"context"
	"slices"

	"soniq/engine"
)

// queueCmd groups what can be done with queues.
type queueCmd struct {
	List   queueListCmd   `cmd:"" help:"List the queues and their jobs."`
	Pause  queuePauseCmd  `cmd:"" help:"Let no worker begin a job of these queues."`
	Resume queueResumeCmd `cmd:"" help:"Let paused queues go on."`
}

func (queueCmd) Help() string {
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

func (queueListCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	queues, err := client.Queues(a.ctx)
	if err != nil {
		return err
	}
	switch {
	case a.JSON:
		err = a.out.document(queues)
	case len(queues) > 0:
		err = a.printQueues(queues)
	}
	if len(queues) == 0 {
		a.note("no queue has jobs, and none is paused")
	}
	return err
}

// queueNames are the queues that a command changes.
type queueNames struct {
	Names []string `arg:"" name:"queue" help:"Names of queues."`
}

// run changes the queues one by one. One that is as it should be already is
// no failure.
func (q *queueNames) run(a *app, key string, change func(*engine.Client, context.Context, string) (bool, error), tell func(name string, changed bool)) error {
	if slices.Contains(q.Names, "") {
		return usagef("a queue's name is empty")
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	done, unchanged := []string{}, []string{}
	one := func(name string) error {
		changed, err := change(client, a.ctx, name)
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
		service, err := client.Availability(a.ctx, name, "")
		if err == nil && !service.Queue {
			a.note("no live worker serves queue %s", oneLine(name))
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
		if err := a.out.document(map[string]any{key: done, "unchanged": unchanged}); err != nil {
			return err
		}
	}
	return partly(int64(len(done)), broken)
}

type queuePauseCmd struct {
	queueNames
}

func (queuePauseCmd) Help() string {
	return `No Go worker, on whatever machine, begins a job of a paused queue, until it is resumed. Jobs that are running go on, and jobs can be enqueued. Python's workers know nothing of it.

    soniq queue pause emails reports`
}

func (c *queuePauseCmd) Run(a *app) error {
	return c.run(a, "paused", (*engine.Client).PauseQueue, func(name string, changed bool) {
		if changed {
			a.out.printf("Paused %s", oneLine(name))
		} else {
			a.out.printf("%s is paused already", oneLine(name))
		}
	})
}

type queueResumeCmd struct {
	queueNames
}

func (queueResumeCmd) Help() string {
	return `Its workers are woken, and go on with the jobs that wait.

    soniq queue resume emails`
}

func (c *queueResumeCmd) Run(a *app) error {
	return c.run(a, "resumed", (*engine.Client).ResumeQueue, func(name string, changed bool) {
		if changed {
			a.out.printf("Resumed %s", oneLine(name))
		} else {
			a.out.printf("%s is not paused", oneLine(name))
		}
	})
}
