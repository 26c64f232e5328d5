// Package testclient has the clients of a test's database, for tests outside of the
// packages that it uses.
package testclient

import (
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/engine"
)

// New returns a client.
func New(t testing.TB, pool *pgxpool.Pool) *engine.Client {
	t.Helper()
	c, err := engine.NewClient(pool, engine.ClientConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Queue returns the dead-letter queue.
func Queue(t testing.TB, pool *pgxpool.Pool) *deadletter.Queue {
	t.Helper()
	q, err := deadletter.NewQueue(pool, deadletter.QueueConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// Enqueue enqueues a job and returns its id.
func Enqueue(t testing.TB, c *engine.Client, name string, args any, opts ...engine.EnqueueOption) uuid.UUID {
	t.Helper()
	e, err := c.Enqueue(t.Context(), name, args, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return e.ID
}

// Job returns a job.
func Job(t testing.TB, c *engine.Client, id uuid.UUID) *engine.Job {
	t.Helper()
	job, err := c.Job(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return job
}
