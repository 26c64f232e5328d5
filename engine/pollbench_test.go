package engine_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq/engine"
	"soniq/internal/testdb"
)

// BenchmarkRate counts what a job costs the server at a steady rate: transactions, of the
// INSERT, of all workers and of those that listen; and how long jobs wait for their start.
//
//	go test ./engine -run '^$' -bench Rate -benchtime 1x
func BenchmarkRate(b *testing.B) {
	for _, c := range []struct{ workers, pools, slots, rate int }{
		{1, 1, 10, 1000}, {1, 1, 1, 1000}, {40, 1, 1, 1000}, {40, 1, 10, 1000}, {40, 4, 10, 1000}, {40, 40, 10, 1000}, {1, 1, 10, 33}, {40, 1, 1, 33}, {1, 1, 10, 150},
	} {
		b.Run(fmt.Sprintf("workers=%d/pools=%d/slots=%d/rate=%d", c.workers, c.pools, c.slots, c.rate), func(b *testing.B) {
			url := testdb.NewURL(b)
			client := benchClients(b, url, 8)
			var pools []*pgxpool.Pool
			for range c.pools {
				pools = append(pools, benchClients(b, url, int32(max(6/c.pools, 1))))
			}
			started := make(chan time.Duration, 1<<20)
			for i := range c.workers {
				reg := engine.NewRegistry()
				engine.HandleRaw(reg, "n", func(_ context.Context, job *engine.Job) (any, error) {
					started <- time.Since(job.CreatedAt)
					return nil, nil
				})
				benchWorker(b, pools[i%c.pools], reg, engine.WorkerConfig{Concurrency: c.slots})
			}
			<-time.After(6 * time.Second)
			for b.Loop() {
				const lasts = 4 * time.Second
				before := transactions(b, client)
				n := pacedInserts(b, client, c.rate, lasts)
				<-time.After(time.Second)
				after := transactions(b, client)
				waits := make([]time.Duration, 0, n)
				for range n {
					waits = append(waits, <-started)
				}
				slices.Sort(waits)
				b.ReportMetric(float64(after-before)/float64(n), "transactions/job")
				b.ReportMetric(float64(n)/lasts.Seconds(), "jobs/s")
				b.ReportMetric(float64(waits[n/2].Microseconds())/1000, "p50-ms")
				b.ReportMetric(float64(waits[n*99/100].Microseconds())/1000, "p99-ms")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func benchClients(b *testing.B, url string, conns int32) *pgxpool.Pool {
	b.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		b.Fatal(err)
	}
	config.MaxConns = conns
	pool, err := pgxpool.NewWithConfig(b.Context(), config)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	return pool
}

func benchWorker(b *testing.B, pool *pgxpool.Pool, reg *engine.Registry, config engine.WorkerConfig) {
	b.Helper()
	config.ShutdownTimeout, config.Logger = time.Nanosecond, slog.New(slog.DiscardHandler)
	w, err := engine.NewWorker(pool, reg, config)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		w.Cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
}

// transactions are those of the database until now. Sessions report them within a second.
func transactions(b *testing.B, pool *pgxpool.Pool) (n int64) {
	b.Helper()
	<-time.After(1500 * time.Millisecond)
	err := pool.QueryRow(b.Context(), `select xact_commit from pg_stat_database where datname = current_database()`).Scan(&n)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// pacedInserts inserts so many jobs a second, one by one.
func pacedInserts(b *testing.B, pool *pgxpool.Pool, rate int, lasts time.Duration) int {
	b.Helper()
	var g errgroup.Group
	g.SetLimit(8)
	began := time.Now()
	n := int(float64(rate) * lasts.Seconds())
	for i := range n {
		<-time.After(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		g.Go(func() error {
			_, err := pool.Exec(b.Context(), `insert into soniq_jobs (id, job_name, args, created_at) values (gen_random_uuid(), 'n', '{}', $1)`, time.Now())
			return err
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	return n
}

// BenchmarkEnqueueBesideWorkers compares INSERTs of single jobs while nine workers are busy and
// one idles with those into the same table without triggers, in turns. The jobs are due later,
// so the idle one is woken and takes none: what jobs cost is not measured.
//
//	go test ./engine -run '^$' -bench BesideWorkers -benchtime 5x
func BenchmarkEnqueueBesideWorkers(b *testing.B) {
	const clients = 8
	pool := benchPool(b, clients)
	run(b, pool, `truncate soniq_workers`)
	pools := benchClients(b, pool.Config().ConnString(), 6)
	var busy atomic.Int64
	for range 10 {
		reg := engine.NewRegistry()
		engine.HandleRaw(reg, "held", func(ctx context.Context, _ *engine.Job) (any, error) {
			busy.Add(1)
			<-ctx.Done()
			return nil, nil
		})
		engine.HandleRaw(reg, "n", func(context.Context, *engine.Job) (any, error) { return nil, nil })
		benchWorker(b, pools, reg, engine.WorkerConfig{Concurrency: 1, Queues: []string{"q1"}})
	}
	run(b, pool, `insert into soniq_jobs (id, job_name, args, queue) select gen_random_uuid(), 'held', '{}', 'q1' from generate_series(1, 9)`)
	for busy.Load() < 9 {
		<-time.After(10 * time.Millisecond)
	}
	<-time.After(3 * time.Second)
	kinds := []*benched{
		{name: "plain", pool: pool, table: "plain", queues: 1, later: true},
		{name: "one-idle", pool: pool, table: "soniq_jobs", queues: 1, later: true},
		{name: "nobody-waits", pool: benchPool(b, clients), table: "soniq_jobs", queues: 1, later: true},
	}
	for b.Loop() {
		for _, k := range kinds {
			run(b, k.pool, `delete from soniq_jobs where status = 'queued'`)
			run(b, k.pool, `truncate plain`)
			k.insert(b, clients, 2*time.Second) // until it is as it stays
			k.rates = append(k.rates, k.insert(b, clients, 2*time.Second))
		}
	}
	plain := median(kinds[0].rates)
	b.ReportMetric(plain, "plain/s")
	for _, k := range kinds[1:] {
		b.ReportMetric(median(k.rates)/plain, k.name+"/plain")
	}
	b.ReportMetric(0, "ns/op")
}
