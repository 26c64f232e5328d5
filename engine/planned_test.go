package engine_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// settledCount counts outcomes.
type settledCount struct{ atomic.Int64 }

func (c *settledCount) Settled(context.Context, engine.Outcome) { c.Add(1) }

// An idle queue's table is empty after a vacuum, and its worker has the plans
// for that. They must do for the 5,000 jobs that come next, long before the
// next ANALYZE.
func TestWorker_plansOfAnEmptyTable_doForAFullOne(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `alter table soniq_jobs set (autovacuum_enabled = off)`)
	// What a connection has counted it tells when it ends, at the latest.
	workers, err := pgxpool.NewWithConfig(t.Context(), pool.Config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(workers.Close)
	client := newClient(t, pool)
	reg := engine.NewRegistry()
	noop(reg, "ends")
	engine.HandleRaw(reg, "dies", func(context.Context, *engine.Job) (any, error) {
		return nil, engine.Permanent(errors.New("no such customer"))
	})
	var settled settledCount
	w := start(t, workers, reg, engine.WorkerConfig{
		Concurrency: 100, ResultTTL: -1, Observer: &settled, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	want := 0
	idle := func() {
		t.Helper()
		for range 20 {
			enqueue(t, client, "ends", nil)
			enqueue(t, client, "dies", nil)
			want += 2
			eventually.Count(t, "outcomes", want, func() int { return int(settled.Load()) })
		}
	}
	idle()
	exec(t, pool, `vacuum analyze soniq_jobs`)
	idle()
	const many = 5_000
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args)
		select gen_random_uuid(), case when n % 10 = 0 then 'dies' else 'ends' end, '{}' from generate_series(1, $1) n`, many)
	want += many
	eventually.Count(t, "outcomes", want, func() int { return int(settled.Load()) })
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	workers.Close()
	// A claim or an outcome that reads the table reads thousands of its rows.
	if n := queryValue[int](t, pool, `select seq_tup_read from pg_stat_user_tables where relname = 'soniq_jobs'`); n > 5*many {
		t.Errorf("%d rows were read that no index led to", n)
	}
}
