package pg_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq/internal/pg"
	"soniq/internal/testdb"
)

// Each way to run a statement, at each default, against others that change the same row.
func TestReadCommitted_strictDefault_conflictsAreNoErrors(t *testing.T) {
	t.Parallel()
	url := testdb.EmptyURL(t)
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		config, err := pgxpool.ParseConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		config.MaxConns = 6
		config.ConnConfig.RuntimeParams["default_transaction_isolation"] = string(level)
		raw, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(raw.Close)
		pool := pg.Schema{}.Pool(raw)
		if _, err := pool.Exec(t.Context(), `drop table if exists counter; create table counter (n int); insert into counter values (0)`); err != nil {
			t.Fatal(err)
		}
		const add, addReturning = `update counter set n = n + 1`, `update counter set n = n + 1 returning n`
		session := func(ctx context.Context, _ *pgx.Conn, db pg.Session) error {
			_, err := db.Exec(ctx, add)
			return err
		}
		ways := []func(ctx context.Context) error{
			func(ctx context.Context) error { _, err := pool.Exec(ctx, add); return err },
			func(ctx context.Context) error { var n int; return pool.QueryRow(ctx, addReturning).Scan(&n) },
			func(ctx context.Context) error {
				rows, _ := pool.Query(ctx, addReturning)
				_, err := pgx.CollectRows(rows, pgx.RowTo[int])
				return err
			},
			func(ctx context.Context) error {
				return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { _, err := tx.Exec(ctx, add); return err })
			},
			func(ctx context.Context) error {
				return pool.AcquireFunc(ctx, func(conn *pgx.Conn, db pg.Session) error { return session(ctx, conn, db) })
			},
		}
		const times = 40
		var group errgroup.Group
		for _, way := range ways {
			group.Go(func() error {
				for range times {
					if err := way(t.Context()); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			t.Errorf("%s: %v", level, err)
		}
		var n int
		if err := pool.QueryRow(t.Context(), `select n from counter`).Scan(&n); err != nil || n != len(ways)*times {
			t.Errorf("%s: %d of %d, %v", level, n, len(ways)*times, err)
		}
		if stat := raw.Stat(); stat.AcquiredConns() != 0 {
			t.Errorf("%s: %d connections are not released", level, stat.AcquiredConns())
		}
	}
}
