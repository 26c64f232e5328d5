package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"soniq/internal/bench"
)

// River is github.com/riverqueue/river.
type River struct {
	Label string
	// MaxWorkers is how many jobs run at once.
	MaxWorkers int
	// FetchCooldown and FetchPollInterval are River's; 0 is its default.
	FetchCooldown, FetchPollInterval time.Duration
}

// riverVersion is that of go.mod.
const riverVersion = "0.51.2"

type noopArgs struct {
	Seq int64 `json:"seq"`
}

// Kind implements River's JobArgs.
func (noopArgs) Kind() string { return "noop" }

type noopWorker struct {
	river.WorkerDefaults[noopArgs]

	probe bench.Probe
}

// Work implements River's Worker.
func (w *noopWorker) Work(_ context.Context, job *river.Job[noopArgs]) error {
	w.probe.Started(job.Args.Seq)
	return nil
}

// Name implements [bench.System].
func (r River) Name() string { return r.Label }

// Setup implements [bench.System].
func (River) Setup(ctx context.Context, pool *pgxpool.Pool) error {
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

// inserting is a client that runs nothing. Its cooldown is that of the worker:
// it sends no second notification within it.
func (r River) inserting(pool *pgxpool.Pool) (*river.Client[pgx.Tx], error) {
	return river.NewClient(riverpgxv5.New(pool), &river.Config{
		Logger: slog.New(slog.DiscardHandler), FetchCooldown: r.FetchCooldown, FetchPollInterval: r.FetchPollInterval,
	})
}

// Fill implements [bench.System].
func (r River) Fill(ctx context.Context, pool *pgxpool.Pool, n int) error {
	client, err := r.inserting(pool)
	if err != nil {
		return err
	}
	return bench.Batches(n, func(first int64, size int) error {
		batch := make([]river.InsertManyParams, size)
		for i := range batch {
			batch[i].Args = noopArgs{first + int64(i)}
		}
		_, err := client.InsertManyFast(ctx, batch)
		return err
	})
}

// Inserter implements [bench.System].
func (r River) Inserter(pool *pgxpool.Pool) (bench.Inserter, error) {
	client, err := r.inserting(pool)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, tx pgx.Tx, seq int64) (err error) {
		if tx != nil {
			_, err = client.InsertTx(ctx, tx, noopArgs{seq}, nil)
		} else {
			_, err = client.Insert(ctx, noopArgs{seq}, nil)
		}
		return err
	}, nil
}

// stopPatience is how long River may take to stop.
const stopPatience = 30 * time.Second

// Work implements [bench.System].
func (r River) Work(ctx context.Context, pool *pgxpool.Pool, probe bench.Probe) error {
	workers := river.NewWorkers()
	river.AddWorker(workers, &noopWorker{probe: probe})
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Logger:            slog.New(slog.DiscardHandler),
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: r.MaxWorkers}},
		Workers:           workers,
		FetchCooldown:     r.FetchCooldown,
		FetchPollInterval: r.FetchPollInterval,
	})
	if err != nil {
		return err
	}
	// Room for all: River drops events that nobody takes in time.
	events, cancel := client.SubscribeConfig(&river.SubscribeConfig{
		ChanSize: 2_000_000, Kinds: []river.EventKind{river.EventKindJobCompleted},
	})
	defer cancel()
	counted := make(chan struct{})
	go func() {
		defer close(counted)
		for range events {
			probe.Settled(1)
		}
	}()
	uncut := context.WithoutCancel(ctx)
	probe.Began()
	if err := client.Start(uncut); err != nil {
		return err
	}
	<-ctx.Done()
	stopCtx, stop := context.WithTimeout(uncut, stopPatience)
	defer stop()
	err = client.Stop(stopCtx)
	cancel()
	<-counted
	return err
}

// Left implements [bench.System].
func (River) Left() string { return `select count(*) from river_job where state <> 'completed'` }

// Expire implements [bench.System].
func (River) Expire() string { return `delete from river_job where state = 'completed'` }
