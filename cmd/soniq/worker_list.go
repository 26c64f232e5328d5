package main

import (
	"fmt"
	"strings"

	"soniq/engine"
)

type workerListCmd struct{}

func (workerListCmd) Help() string {
	return `Lists the workers that have not stopped. One that is silent has missed its heartbeats: its machine may be gone, or its database out of reach.

    soniq worker list --json`
}

func (workerListCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	workers, err := client.Workers(a.ctx)
	switch {
	case err != nil:
		return err
	case a.JSON:
		return a.out.document(workers)
	case len(workers) == 0:
		a.note("no workers")
		return nil
	default:
		return a.printWorkers(workers)
	}
}

func (a *app) printWorkers(workers []engine.WorkerStatus) error {
	if len(workers) == 0 {
		a.out.printf("No workers.")
		return nil
	}
	t := table{columns: []column{
		{title: "WORKER", min: 12},
		{title: "STATUS"},
		{title: "SLOTS", right: true, drop: 1},
		{title: "UP", right: true},
		{title: "SEEN", right: true},
		{title: "VERSION", drop: 2},
		{title: "QUEUES", min: 10},
	}}
	now := a.now()
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
		t.add(fmt.Sprintf("%s:%d", host, w.PID), status, fmt.Sprint(w.Concurrency),
			age(now, w.StartedAt), age(now, w.LastHeartbeat), version, queues)
	}
	return t.write(a.out, a.tableWidth())
}
