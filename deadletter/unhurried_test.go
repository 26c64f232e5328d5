package deadletter_test

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// What takes long because it was asked to is not ended by the timeouts that a DBA has set
// for a role: they are meant for other statements.
func TestQueue_longRuns_outlastTheRolesTimeouts(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	insertDead(t, pool, nil)
	config := pool.Config()
	for name, value := range map[string]string{"statement_timeout": "500", "lock_timeout": "400", "idle_in_transaction_session_timeout": "500"} {
		config.ConnConfig.RuntimeParams[name] = value
	}
	none := deadletter.Filter{JobNames: []string{"none"}}
	runs := map[string]func(ctx context.Context, q *deadletter.Queue) error{
		"export": func(ctx context.Context, q *deadletter.Queue) error {
			_, err := q.Export(ctx, io.Discard, deadletter.Filter{}, deadletter.FormatJSONL)
			return err
		},
		"plan": func(ctx context.Context, q *deadletter.Queue) error {
			_, err := q.PlanReplay(ctx, none, deadletter.ReplayOptions{})
			return err
		},
		"replay": func(ctx context.Context, q *deadletter.Queue) error {
			_, err := q.ReplayAll(ctx, none, deadletter.ReplayAllOptions{})
			return err
		},
		"delete": func(ctx context.Context, q *deadletter.Queue) error {
			_, err := q.DeleteAll(ctx, none)
			return err
		},
	}
	queues := map[string]*deadletter.Queue{}
	for name, run := range runs {
		config := config.Copy()
		config.MaxConns = 1
		hurried, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(hurried.Close)
		queues[name] = newQueue(t, hurried)
		// Its statements are prepared now: that takes the lock too, and not long.
		if err := run(t.Context(), queues[name]); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	// The lock is what takes long.
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `lock table soniq_dead_letter_jobs in access exclusive mode`); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, len(runs))
	for name, run := range runs {
		go func() {
			if err := run(t.Context(), queues[name]); err != nil {
				ended <- fmt.Errorf("%s: %w", name, err)
				return
			}
			ended <- nil
		}()
	}
	eventually.True(t, "all at the lock for longer than the timeouts", func() bool {
		var waiting int
		err := pool.QueryRow(t.Context(), `
			select count(*)
			from pg_stat_activity
			where datname = current_database()
			  and wait_event_type = 'Lock'
			  and query_start < clock_timestamp() - interval '700 ms'`).Scan(&waiting)
		return err != nil || waiting == len(runs) || len(ended) > 0
	})
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range runs {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
