package bench

import (
	"context"
	"errors"
	"fmt"
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
	// Names and Queues are how many the worker serves. Jobs go to them in turn. Default 1.
	Names, Queues int
	// Limited gives each name and each queue a concurrency.
	Limited bool
	// Strangers makes Fill insert strangersEach times as many jobs first, of names that the
	// worker doesn't serve.
	Strangers bool
}

const (
	// jobName is that of the job which does nothing.
	jobName = "noop"
	// stranger begins the names of jobs that no worker serves.
	stranger = "stranger"
	// strangersEach are those for each job of Fill.
	strangersEach = 10
	// limit is each concurrency of a worker that is Limited. No job waits for it: it costs what
	// it costs to have one.
	limit = 5
)

// nameOf is that of the job with number seq.
func (s Soniq) nameOf(seq int64) string {
	if s.Names < 2 {
		return jobName
	}
	return fmt.Sprintf("%s-%d", jobName, seq%int64(s.Names))
}

// queueOf is that of the job with number seq.
func (s Soniq) queueOf(seq int64) string {
	if s.Queues < 2 {
		return "default"
	}
	return fmt.Sprintf("queue-%d", seq%int64(s.Queues))
}

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

// options are those of the job with number seq.
func (s Soniq) options(seq int64) []engine.EnqueueOption {
	if s.Queues < 2 {
		return nil
	}
	return []engine.EnqueueOption{engine.Queue(s.queueOf(seq))}
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
	fill := func(n int, name func(seq int64) string) error {
		return Batches(n, func(first int64, size int) error {
			batch := make([]engine.Insert, size)
			for i := range batch {
				seq := first + int64(i)
				batch[i] = engine.Insert{
					Name: name(seq), Args: noopArgs{seq}, Options: s.options(seq),
				}
			}
			_, err := client.EnqueueMany(ctx, batch)
			return err
		})
	}
	if s.Strangers {
		if err := fill(strangersEach*n, func(seq int64) string { return fmt.Sprintf("%s-%d", stranger, seq%10) }); err != nil {
			return err
		}
	}
	return fill(n, s.nameOf)
}

// Inserter implements [System].
func (s Soniq) Inserter(pool *pgxpool.Pool) (Inserter, error) {
	client, err := engine.NewClient(pool, engine.ClientConfig{Schema: s.Schema})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, tx pgx.Tx, seq int64) (err error) {
		if tx != nil {
			_, err = client.EnqueueTx(ctx, tx, s.nameOf(seq), noopArgs{seq}, s.options(seq)...)
		} else {
			_, err = client.Enqueue(ctx, s.nameOf(seq), noopArgs{seq}, s.options(seq)...)
		}
		return err
	}, nil
}

// Work implements [System].
func (s Soniq) Work(ctx context.Context, pool *pgxpool.Pool, probe Probe) error {
	registry := engine.NewRegistry()
	config := engine.WorkerConfig{
		Schema: s.Schema, Concurrency: s.Concurrency, ResultTTL: s.ResultTTL, Observer: settled{probe}, Logger: slog.New(slog.DiscardHandler),
	}
	var options []engine.HandleOption
	if s.Limited {
		options = append(options, engine.Concurrency(limit))
		config.QueueConcurrency = map[string]int{}
	}
	for i := range max(s.Names, 1) {
		engine.Handle(registry, s.nameOf(int64(i)), func(_ context.Context, args noopArgs) error {
			probe.Started(args.Seq)
			if s.Fails {
				return engine.Permanent(errFails)
			}
			return nil
		}, options...)
	}
	for i := range max(s.Queues, 1) {
		queue := s.queueOf(int64(i))
		config.Queues = append(config.Queues, queue)
		if s.Limited {
			config.QueueConcurrency[queue] = limit
		}
	}
	worker, err := engine.NewWorker(pool, registry, config)
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
	return s.sql(`select count(*) from public.soniq_jobs where status <> 'done' and job_name not like '` + stranger + `%'`)
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
