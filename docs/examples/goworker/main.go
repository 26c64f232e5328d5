// Command goworker is a whole worker in Go: it runs the jobs called numbers.add until
// SIGTERM or Ctrl-C. Then it lets running jobs end, and gives back what takes too long.
// It exits with 1 if it can't start.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
)

func main() {
	// SIGTERM is what Kubernetes, Docker and systemd send.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "goworker:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	pool, err := pgxpool.New(ctx, os.Getenv("SONIQ_DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	jobs := engine.NewRegistry()
	engine.HandleResult(jobs, "numbers.add", func(_ context.Context, args struct{ A, B int }) (int, error) {
		if args.A < 0 {
			return 0, engine.Permanent(errors.New("a is negative")) // no retry can help
		}
		return args.A + args.B, nil
	})
	worker, err := engine.NewWorker(pool, jobs, engine.WorkerConfig{})
	if err != nil {
		return err
	}
	return worker.Run(ctx)
}
