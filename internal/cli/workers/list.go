package workers

import (
	"fmt"
	"strings"

	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
)

type workerListCmd struct{}

func (workerListCmd) Help() string {
	return `Lists the workers that have not stopped. A silent worker has missed its heartbeats: its machine may be down, or cut off from the database.

    soniq worker list --json`
}

func (workerListCmd) Run(a *app.App) error {
	client, err := a.Client()
	if err != nil {
		return err
	}
	workers, err := client.Workers(a.Ctx)
	switch {
	case err != nil:
		return err
	case a.JSON:
		return a.Out.Document(workers)
	case len(workers) == 0:
		a.Note("no workers")
		return nil
	default:
		return printWorkers(a, workers)
	}
}

func printWorkers(a *app.App, workers []engine.WorkerStatus) error {
	if len(workers) == 0 {
		a.Out.Printf("No workers.")
		return nil
	}
	t := terminal.Table{Columns: []terminal.Column{
		{Title: "WORKER", Min: 12},
		{Title: "STATUS"},
		{Title: "SLOTS", Right: true, Drop: 1},
		{Title: "UP", Right: true},
		{Title: "SEEN", Right: true},
		{Title: "VERSION", Drop: 2},
		{Title: "QUEUES", Min: 10},
	}}
	now := a.Now()
	for _, w := range workers {
		status, version, queues := string(w.Status), w.Version, strings.Join(w.Queues, ",")
		if !w.Live {
			status = "silent"
		}
		if version == "" {
			version = "python"
		}
		if queues == "" {
			queues = "all"
		}
		// A Go worker's hostname ends with its id, to be unique; the process is
		// enough for a person.
		host := strings.TrimSuffix(w.Hostname, "/"+w.ID.String())
		t.Add(fmt.Sprintf("%s:%d", host, w.PID), status, fmt.Sprint(w.Concurrency),
			terminal.Age(now, w.StartedAt), terminal.Age(now, w.LastHeartbeat), version, queues)
	}
	return t.Write(a.Out, a.TableWidth())
}
