package engine_test

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"soniq/engine"
	"soniq/internal/testdb"
)

type SendWelcome struct {
	UserID int    `json:"user_id"`
	Email  string `json:"email"`
}

// A worker with one handler, and a client that enqueues a job for it.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	pool, done := testdb.ForExample() // in your program: pgxpool.New(ctx, url)
	defer done()

	sent := make(chan string)
	reg := engine.NewRegistry()
	engine.Handle(reg, "emails.send_welcome", func(ctx context.Context, args SendWelcome) error {
		sent <- fmt.Sprintf("welcome, user %d at %s (attempt %d)",
			args.UserID, args.Email, engine.JobFromContext(ctx).Attempts)
		return nil
	}, engine.Queue("emails"), engine.MaxAttempts(5), engine.Timeout(30*time.Second))

	worker, err := engine.NewWorker(pool, reg, engine.WorkerConfig{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	stopped := make(chan error)
	go func() { stopped <- worker.Run(ctx) }()

	client, err := engine.NewClient(pool, engine.ClientConfig{Registry: reg})
	if err != nil {
		panic(err)
	}
	if _, err := client.Enqueue(ctx, "emails.send_welcome", SendWelcome{42, "ada@example.com"}); err != nil {
		panic(err)
	}
	fmt.Println(<-sent)
	cancel() // in your program: a signal, by signal.NotifyContext
	fmt.Println("stopped:", <-stopped)
	// Output:
	// welcome, user 42 at ada@example.com (attempt 1)
	// stopped: <nil>
}
