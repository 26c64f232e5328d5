package hooks_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"soniq/engine"
	"soniq/hooks"
	"soniq/internal/testdb"
)

// pager is a hook: one method.
type pager struct{ pages chan string }

func (p pager) Deliver(_ context.Context, d *hooks.Delivery) error {
	letter := d.Event.Letter
	p.pages <- fmt.Sprintf("%s: %s died of %s: %s", d.Hook, letter.JobName, letter.Reason, letter.LastError)
	return nil // it has arrived; an error has it tried again
}

// A hook of your own, in a worker whose job fails for good.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	pool, done := testdb.ForExample() // in your program: pgxpool.New(ctx, url)
	defer done()
	log := slog.New(slog.DiscardHandler)

	pages := make(chan string)
	dispatcher, err := hooks.NewDispatcher(pool, hooks.Config{Logger: log})
	if err != nil {
		panic(err)
	}
	if err := dispatcher.Register(ctx, "pager", pager{pages}, hooks.RegisterOptions{}); err != nil {
		panic(err)
	}
	reg := engine.NewRegistry()
	engine.Handle(reg, "orders.ship", func(context.Context, struct{}) error {
		return engine.Permanent(errors.New("no such order"))
	})
	worker, err := engine.NewWorker(pool, reg, engine.WorkerConfig{
		Logger:   log,
		Services: []engine.BackgroundService{dispatcher},
	})
	if err != nil {
		panic(err)
	}
	stopped := make(chan error)
	go func() { stopped <- worker.Run(ctx) }()

	client, err := engine.NewClient(pool, engine.ClientConfig{Registry: reg})
	if err != nil {
		panic(err)
	}
	if _, err := client.Enqueue(ctx, "orders.ship", struct{}{}); err != nil {
		panic(err)
	}
	fmt.Println(<-pages)
	cancel() // in your program: a signal, by signal.NotifyContext
	fmt.Println("stopped:", <-stopped)
	// Output:
	// pager: orders.ship died of permanent_failure: no such order
	// stopped: <nil>
}
