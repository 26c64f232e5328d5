// Package bench measures queues on PostgreSQL. Each workload runs the same way
// against each System, in a database of its own that is dropped afterwards. Only
// ratios of one run on one machine say something, so the systems take turns.
package bench

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/pg"
)

// System is a queue under test.
type System interface {
	// Name is short, for a table.
	Name() string
	// Setup makes its schema in an empty database.
	Setup(ctx context.Context, pool *pgxpool.Pool) error
	// Fill inserts n due jobs in batches, as its client does that fastest.
	Fill(ctx context.Context, pool *pgxpool.Pool, n int) error
	// Inserter returns what inserts one job at a time.
	Inserter(pool *pgxpool.Pool) (Inserter, error)
	// Work runs one worker process until ctx ends. It tells probe of each job
	// that starts and of each whose outcome was written.
	Work(ctx context.Context, pool *pgxpool.Pool, probe Probe) error
	// Left is SQL that counts the jobs that have not succeeded.
	Left() string
	// Expire is SQL that deletes the rows of the jobs that have.
	Expire() string
}

// Inserter inserts the job with number seq, which its handler tells the probe.
// tx may be nil: then the insert is committed.
type Inserter func(ctx context.Context, tx pgx.Tx, seq int64) error

// Probe is told what a worker does, from any goroutine.
type Probe interface {
	// Began is told once, when the worker begins to look for jobs: the start of
	// its process is not measured.
	Began()
	Started(seq int64)
	Settled(n int)
}

// DB is a pool, a connection or a transaction.
type DB = pg.Querier

// fillBatch is how many jobs one call of a client inserts.
const fillBatch = 5000

// Batches calls insert with the sizes of batches that are n in all, and the
// number of the first job of each.
func Batches(n int, insert func(first int64, size int) error) error {
	for done := 0; done < n; done += fillBatch {
		if err := insert(int64(done), min(fillBatch, n-done)); err != nil {
			return err
		}
	}
	return nil
}
