package hooks

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq/internal/testdb"
)

// A delivery whose mark fails is sent twice. Senders of one hook mark side by side.
func TestOutbox_strictIsolation_eachMarkIsWritten(t *testing.T) {
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
		o := outboxOf(t, pool)
		hook := scalar[uuid.UUID](t, pool, `insert into soniq_hooks (name, kind) values ('h', 'log') returning id`)
		const senders, each = 6, 10
		for range senders * each {
			scalar[uuid.UUID](t, pool, makeDeliverySQL, hook, "pending", 0.1)
		}
		lease := uuid.New()
		rows, err := o.claim(t.Context(), dueHook{ID: hook, Server: scalar[time.Time](t, pool, `select pg_postmaster_start_time()`)}, lease, senders*each, leaseTime, 0)
		if err != nil || len(rows) != senders*each {
			t.Fatal(len(rows), err)
		}
		var group errgroup.Group
		for i := range senders {
			group.Go(func() error {
				for _, row := range rows[i*each : (i+1)*each] {
					if _, _, err := o.recordFailure(t.Context(), hook, 0, false, false); err != nil {
						return err
					}
					if n, err := o.delivered(t.Context(), hook, lease, []uuid.UUID{row.ID}, &Delivery{ID: row.ID, Status: 200}); err != nil || n != 1 {
						return err
					}
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			t.Errorf("%s: %v", level, err)
		}
		if n := scalar[int](t, pool, `select count(*)::int from soniq_hook_deliveries where state = 'delivered'`); n != senders*each {
			t.Errorf("%s: %d of %d are marked", level, n, senders*each)
		}
	}
}
