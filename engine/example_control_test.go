package engine_test

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/testdb"
)

// A queue is paused while a job is looked at and cancelled.
func ExampleClient_PauseQueue() {
	ctx := context.Background()
	pool, done := testdb.ForExample() // in your program: pgxpool.New(ctx, url)
	defer done()
	if err := pauseAndCancel(ctx, pool); err != nil {
		panic(err)
	}
	// Output:
	// paused: true
	// emails: 1 due, paused true
	// the job is cancelled
	// resumed: true
}

func pauseAndCancel(ctx context.Context, pool *pgxpool.Pool) error {
	client, err := engine.NewClient(pool, engine.ClientConfig{ProducerID: "ada@laptop"})
	if err != nil {
		return err
	}
	changed, err := client.PauseQueue(ctx, "emails")
	if err != nil {
		return err
	}
	fmt.Println("paused:", changed)
	job, err := client.Enqueue(ctx, "emails.send", nil, engine.Queue("emails"))
	if err != nil {
		return err
	}
	queues, err := client.Queues(ctx)
	if err != nil {
		return err
	}
	for _, q := range queues {
		fmt.Printf("%s: %d due, paused %t\n", q.Queue, q.Due, q.PausedAt != nil)
	}
	status, err := client.CancelJob(ctx, job.ID)
	if err != nil {
		return err
	}
	fmt.Println("the job is", status)
	changed, err = client.ResumeQueue(ctx, "emails")
	fmt.Println("resumed:", changed)
	return err
}

// A job is cancelled in a transaction of your own: with all else that it does, or
// not at all.
func ExampleClient_CancelJobTx() {
	ctx := context.Background()
	pool, done := testdb.ForExample() // in your program: pgxpool.New(ctx, url)
	defer done()
	if err := cancelReminder(ctx, pool); err != nil {
		panic(err)
	}
	// Output:
	// rolled back: the job is queued
	// committed: the job is cancelled
}

func cancelReminder(ctx context.Context, pool *pgxpool.Pool) error {
	client, err := engine.NewClient(pool, engine.ClientConfig{})
	if err != nil {
		return err
	}
	reminder, err := client.Enqueue(ctx, "reminders.send", nil, engine.After(time.Hour))
	if err != nil {
		return err
	}
	tx, err := pool.Begin(ctx)
	if err != nil {
		return err
	}
	if _, err := client.CancelJobTx(ctx, tx, reminder.ID); err != nil {
		return err
	}
	if err := tx.Rollback(ctx); err != nil {
		return err
	}
	job, err := client.Job(ctx, reminder.ID)
	if err != nil {
		return err
	}
	fmt.Println("rolled back: the job is", job.Status)

	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := client.CancelJobTx(ctx, tx, reminder.ID); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `select 'the statements of your own'`)
		return err
	})
	if err != nil {
		return err
	}
	job, err = client.Job(ctx, reminder.ID)
	if err != nil {
		return err
	}
	fmt.Println("committed: the job is", job.Status)
	return nil
}

// The order is closed and the job is done, or neither.
func ExampleCompleteTx() {
	ctx, cancel := context.WithCancel(context.Background())
	pool, done := testdb.ForExample() // in your program: pgxpool.New(ctx, url)
	defer done()
	if _, err := pool.Exec(ctx, `create table closed_orders (id int)`); err != nil {
		panic(err)
	}

	type closeOrder struct {
		Order int `json:"order"`
	}
	closed := make(chan error)
	reg := engine.NewRegistry()
	engine.Handle(reg, "orders.close", func(ctx context.Context, args closeOrder) error {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `insert into closed_orders values ($1)`, args.Order); err != nil {
				return err
			}
			return engine.CompleteTx(ctx, tx, nil)
		})
		closed <- err
		return err
	})
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
	job, err := client.Enqueue(ctx, "orders.close", closeOrder{7})
	if err != nil {
		panic(err)
	}
	fmt.Println("closed:", <-closed)
	after, err := client.Job(ctx, job.ID)
	if err != nil {
		panic(err)
	}
	fmt.Println("job:", after.Status)
	cancel()
	fmt.Println("stopped:", <-stopped)
	// Output:
	// closed: <nil>
	// job: done
	// stopped: <nil>
}
