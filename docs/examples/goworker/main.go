// Command goworker is a whole worker in Go: it runs the jobs called numbers.add.
package main

import (
	"context"
	"errors"
	"log"
	"os"
	"os/signal"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	pool, err := pgxpool.New(ctx, os.Getenv("SONIQ_DATABASE_URL"))
	if err != nil {
		log.Panic(err)
	}
	jobs := engine.NewRegistry()
	engine.HandleResult(jobs, "numbers.add", func(_ context.Context, args struct{ A, B int }) (int, error) {
		if args.A < 0 {
			return 0, engine.Permanent(errors.New("a is negative")) // no retry can help
		}
		return args.A + args.B, nil
	})
	worker, err := engine.NewWorker(pool, jobs, engine.WorkerConfig{})
	if err != nil {
		log.Panic(err)
	}
	log.Println("stopped:", worker.Run(ctx))
}
