package main

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
