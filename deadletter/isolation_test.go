package deadletter_test

import (
	"errors"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq/deadletter"
	"soniq/internal/testdb"
)

// A replay, a deletion, a cleanup and tags of the same rows meet each other's changes.
func TestQueue_strictIsolation_bulkWorkSideBySide(t *testing.T) {
	t.Parallel()
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		config, err := pgxpool.ParseConfig(testdb.NewURL(t))
		if err != nil {
			t.Fatal(err)
		}
		config.ConnConfig.RuntimeParams["default_transaction_isolation"] = string(level)
		config.MaxConns = 6
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		fill(t, pool, 400)
		queue, err := deadletter.NewQueue(pool, deadletter.QueueConfig{})
		if err != nil {
			t.Fatal(err)
		}
		var ids []uuid.UUID
		rows, _ := pool.Query(t.Context(), `select id from soniq_dead_letter_jobs order by id limit 40`)
		if ids, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID]); err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		var group errgroup.Group
		group.Go(func() error {
			_, err := queue.ReplayAll(ctx, deadletter.Filter{JobNames: []string{"bulk"}}, deadletter.ReplayAllOptions{})
			return err
		})
		for range 2 {
			group.Go(func() error {
				_, err := queue.DeleteAll(ctx, deadletter.Filter{JobNames: []string{"bulk"}})
				return err
			})
		}
		group.Go(func() error {
			_, err := queue.Cleanup(ctx, 1, deadletter.Filter{JobNames: []string{"bulk"}})
			return err
		})
		group.Go(func() error {
			for _, id := range ids {
				if err := queue.Tag(ctx, id, map[string]string{"a": "b"}); err != nil && !errors.Is(err, deadletter.ErrNotFound) {
					return err
				}
			}
			return nil
		})
		if err := group.Wait(); err != nil {
			t.Errorf("%s: %v", level, err)
		}
	}
}
