package bench

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/engine"
	"soniq/internal/pg"
)

// Soniq is Soniq for Go.
type Soniq struct {
	// Label is its Name. Default 'soniq'.
	Label string
	// Schema is that of the tables. Default 'public'.
	Schema string
	// Concurrency is the worker's. Default the worker's own default.
	Concurrency int
	// ResultTTL is the worker's; negative deletes done jobs at once.
	ResultTTL time.Duration
	// Fails lets each job fail for good.
	Fails bool
}

// jobName is that of the job which does nothing.
const jobName = "noop"

type noopArgs struct {
	Seq int64 `json:"seq"`
}

// Name implements [System].
func (s Soniq) Name() string {
	if s.Label == "" {
		return "soniq"
	}
	return s.Label
}

// Setup implements [System].
func (s Soniq) Setup(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := soniq.Setup(ctx, pool, soniq.Config{Schema: s.Schema})
	return err
}

// Fill implements [System].
func (s Soniq) Fill(ctx context.Context, pool *pgxpool.Pool, n int) error {
	client, err := engine.NewClient(pool, engine.ClientConfig{Schema: s.Schema})
	if err != nil {
		return err
	}
	return Batches(n, func(first int64, size int) error {
		batch := make([]engine.Insert, size)
		for i := range batch {
			batch[i] = engine.Insert{Name: jobName, Args: noopArgs{first + int64(i)}}
		}
		_, err := client.EnqueueMany(ctx, batch)
		return err
	})
}

// Inserter implements [System].
func (s Soniq) Inserter(pool *pgxpool.Pool) (Inserter, error) {
	client, err := engine.NewClient(pool, engine.ClientConfig{Schema: s.Schema})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, tx pgx.Tx, seq int64) (err error) {
		if tx != nil {
			_, err = client.EnqueueTx(ctx, tx, jobName, noopArgs{seq})
		} else {
			_, err = client.Enqueue(ctx, jobName, noopArgs{seq})
		}
		return err
	}, nil
}

// Work implements [System].
func (s Soniq) Work(ctx context.Context, pool *pgxpool.Pool, probe Probe) error {
	registry := engine.NewRegistry()
	engine.Handle(registry, jobName, func(_ context.Context, args noopArgs) error {
		probe.Started(args.Seq)
		if s.Fails {
			return engine.Permanent(errFails)
		}
		return nil
	})
	worker, err := engine.NewWorker(pool, registry, engine.WorkerConfig{
		Schema: s.Schema, Concurrency: s.Concurrency, ResultTTL: s.ResultTTL, Observer: settled{probe}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	probe.Began()
	return worker.Run(ctx)
}

var errFails = errors.New("upstream said no")

type settled struct{ probe Probe }

func (s settled) Settled(context.Context, engine.Outcome) { s.probe.Settled(1) }

// Left implements [System].
func (s Soniq) Left() string {
	return s.sql(`select count(*) from public.soniq_jobs where status <> 'done'`)
}

// Expire implements [System]. It is what a worker does, in one go.
func (s Soniq) Expire() string { return s.sql(`delete from public.soniq_jobs where status = 'done'`) }

// sql is a statement with the name of the schema in it. Setup has refused a name
// that is none.
func (s Soniq) sql(statement string) string {
	schema, err := pg.NewSchema(s.Schema)
	if err != nil {
		return statement
	}
	return schema.SQL(statement)
}
